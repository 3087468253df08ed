"""The entry of a conditioning's `model_conds` that carries a payload to the U-Net call."""

import logging

from .payload import Payload

KEY = "attractor"


class PersonalizedCond:
    """Duck type of the host's `comfy.conds.CONDRegular`.

    payload: None for a plain prompt, which gets this entry too so that cond and uncond stay in one batch.
    length: the row's own context length. The MODEL side sets it when it takes over the payload; until then it is 0.
    """

    def __init__(self, payload: Payload | None, length: int = 0):
        self.payload, self.length = payload, length

    def process_cond(self, batch_size: int, **_kwargs: object) -> "PersonalizedCond":
        if not self.length:
            _warn_unclaimed()
        return self

    def can_concat(self, other: object) -> bool:
        return isinstance(other, PersonalizedCond)

    def concat(self, others: list["PersonalizedCond"]) -> "PersonalizedBatch":
        return PersonalizedBatch([self, *others])

    def size(self) -> list[int]:
        return [1]


class PersonalizedBatch:
    """The conds of one U-Net call, in the order of its chunks. It has neither `dtype` nor `to`, or the host would cast it."""

    def __init__(self, conds: list[PersonalizedCond]):
        self.conds = conds


def _warn_unclaimed() -> None:
    logging.warning(
        "A prompt contains a NeTI token, but the MODEL does not come through Apply Personalized Token: the "
        "token falls back to a single embedding. Wire that node's MODEL output to the sampler."
    )
