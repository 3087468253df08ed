"""A CLIP that understands placeholders, so that stock text-encode nodes do too."""

import copy
import logging
import re

import comfy.sd
from comfy.sd1_clip import SD1Tokenizer
from torch import Tensor

from ..errors import UserError
from .conds import KEY, PersonalizedCond
from .payload import AppliedToken, Payload, is_applied
from .placeholders import missed_placeholders
from .progress import show_warning

_MARK = "attractor-token-"
# A stock embedding's name is its own: `embedding:my-cat` stays what it is where my-cat is a placeholder.
_STOCK = r"embedding:[^\s<>(),:]+"
# What looks like a placeholder of ours; tags such as <o>_<o> and <lora:name:1> do not.
_UNKNOWN = re.compile(r"<[^\W\d_][\w-]+>")


class PersonalizedCLIP(comfy.sd.CLIP):
    """The host's CLIP with placeholders. Everything else, LoRA and clip skip included, is the host's."""

    @classmethod
    def with_token(cls, clip: comfy.sd.CLIP, applied: AppliedToken) -> "PersonalizedCLIP":
        """A clone of `clip` that knows one more token.

        Raises:
            UserError: the placeholder is applied already.
        """
        known = getattr(clip, "applied", ())
        if applied.placeholder in {other.placeholder for other in known}:
            raise UserError(
                f"token: the placeholder {applied.placeholder} is already applied to this CLIP. Rename "
                "one of the two with the input 'placeholder'."
            )
        personalized = cls._around(clip.clone(), (*known, applied))
        stock = getattr(clip, "stock_tokenizer", clip.tokenizer)
        personalized.stock_tokenizer = stock
        personalized.tokenizer = _tokenizer_with(stock, personalized.applied)
        return personalized

    @classmethod
    def _around(cls, clip: comfy.sd.CLIP, applied: tuple[AppliedToken, ...]) -> "PersonalizedCLIP":
        personalized = cls(no_init=True)
        personalized.__dict__.update(clip.__dict__)
        personalized.applied = applied
        return personalized

    def clone(self, *args: object, **kwargs: object) -> "PersonalizedCLIP":
        copied = self._around(super().clone(*args, **kwargs), self.applied)
        copied.stock_tokenizer = self.stock_tokenizer
        return copied

    def tokenize(self, text: str, *args: object, **kwargs: object) -> dict[str, list]:
        return super().tokenize(self._mark(text), *args, **kwargs)

    def _mark(self, text: str) -> str:
        """Write each placeholder as an `embedding:` name that only our tokenizer knows."""
        index = {token.placeholder: i for i, token in enumerate(self.applied)}
        words = "|".join(_as_word(name) for name in sorted(index, key=len, reverse=True))

        def marked(found: re.Match[str]) -> str:
            name = found["placeholder"]
            if name is None:
                return found[0]
            return f" {self.applied[index[name]].phrase.replace('{}', f'embedding:{_MARK}{index[name]} ', 1)} "

        show_warning(missed_placeholders(text, index))
        text = re.sub(rf"{_STOCK}|(?:embedding:)?(?P<placeholder>{words})", marked, text)
        unknown = _UNKNOWN.search(text)
        if unknown:
            known = ", ".join(token.placeholder for token in self.applied)
            raise UserError(
                f"text: {unknown.group()} in the prompt is not an applied token. Known here: {known}. Correct "
                "the name, or load and apply that token before this node."
            )
        return text

    def encode_from_tokens(
        self, tokens: dict[str, list], return_pooled: bool = False, return_dict: bool = False
    ) -> Tensor | tuple | dict:
        encoded = super().encode_from_tokens(tokens, return_pooled=return_pooled, return_dict=return_dict)
        chunks = next(iter(tokens.values()))
        if not any(is_applied(item) for chunk in chunks for item, *_ in chunk):
            return encoded
        if not return_dict:
            logging.warning(
                "A node encodes text in a way that drops extra data: the personalised token falls back to a single embedding."
            )
            return encoded
        pairs = [[(item, weight) for item, weight, *_ in chunk] for chunk in chunks]
        payload = Payload(self, pairs, encoded["cond"])
        encoded["model_conds"] = {**encoded.get("model_conds", {}), KEY: PersonalizedCond(payload)}
        # Kept loaded while sampling, for times that are not in the schedule.
        encoded["additional_models"] = [*encoded.get("additional_models", []), self.patcher]
        return encoded

    def encode_from_tokens_scheduled(self, tokens: dict[str, list], *args: object, **kwargs: object) -> list:
        if self.patcher.forced_hooks is not None and self.use_clip_schedule:
            logging.warning("CLIP hooks with a schedule: the personalised token falls back to a single embedding.")
        return super().encode_from_tokens_scheduled(tokens, *args, **kwargs)


def _as_word(placeholder: str) -> str:
    """The pattern of a placeholder. Brackets delimit themselves, as in <my-dog>s; one without stands as a word of its own, and
    my-cat is not in my-cat-v2. Letters of scripts that write words without spaces may touch it."""
    before, after = (
        bound if re.match(r"[A-Za-z0-9_-]", end) else ""
        for bound, end in ((r"(?<![A-Za-z0-9_-])", placeholder[0]), (r"(?![A-Za-z0-9_-])", placeholder[-1]))
    )
    return f"{before}{re.escape(placeholder)}{after}"


class _Vectors:
    """Stands in for a loaded embedding (n, width), and gives the tokenizer one marked item for each vector."""

    def __init__(self, applied: AppliedToken):
        self._applied = applied
        self._data = applied.representative()
        self.shape = self._data.shape

    def __getitem__(self, index: int) -> dict:
        return {"type": "embedding", "data": self._data[index], "applied": self._applied, "vector": index}


def _tokenizer_with(stock: SD1Tokenizer, applied: tuple[AppliedToken, ...]) -> SD1Tokenizer:
    """A copy of the host's tokenizer whose embedding look-up also finds applied tokens."""
    outer = copy.copy(stock)
    inner = copy.copy(getattr(stock, stock.clip))
    if inner.embedding_directory is None:
        inner.embedding_directory = []
    look_up = inner._try_get_embedding
    vectors = [_Vectors(token) for token in applied]

    def try_get_embedding(name: str) -> tuple:
        head, _, rest = name.strip().partition(" ")
        if not head.startswith(_MARK):
            return look_up(name)
        found = vectors[int(head.removeprefix(_MARK))]
        # ComfyUI 0.18 returns (embedding, rest), later ones (embedding, name, rest).
        return (found, rest.strip()) if look_up_arity == 2 else (found, head, rest.strip())

    look_up_arity = len(look_up(f"{_MARK}probe"))
    inner._try_get_embedding = try_get_embedding
    setattr(outer, outer.clip, inner)
    return outer
