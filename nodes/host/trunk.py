"""What a U-Net does before its first cross-attention: the same for all prompts of one z_t, so it is done once for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor


class Trunk:
    """The modules of a U-Net before its first cross-attention, about a twentieth of its forward pass.

    Each computes the distinct rows of its batch and repeats them, so the modules around it need not know.
    """

    def __init__(self, unet: UNetModel):
        """unet: a private copy; its modules' forward methods are replaced."""
        self._rows: tuple[list[int], list[int]] | None = None  # of each distinct row the first, of each row its distinct one
        residual, transformer = unet.input_blocks[1]
        attention = transformer.transformer_blocks[0]
        for module in (
            unet.input_blocks[0][0],
            residual,
            transformer.norm,
            transformer.proj_in,
            attention.norm1,
            attention.attn1,
        ):
            module.forward = self._once(module.forward)

    @contextmanager
    def shared_by(self, samples: Sequence[int] | None) -> Iterator[None]:
        """samples: of each row of the batch; rows of one sample have the same latents and timestep."""
        if samples is not None and len(set(samples)) < len(samples):
            distinct = list(dict.fromkeys(samples))
            self._rows = [samples.index(sample) for sample in distinct], [distinct.index(sample) for sample in samples]
        try:
            yield
        finally:
            self._rows = None

    def _once(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def distinct_rows(*args: Tensor, **kwargs: object) -> Tensor:
            if self._rows is None:
                return forward(*args, **kwargs)
            first, owner = self._rows
            return forward(*(part[first] for part in args), **kwargs)[owner]

        return distinct_rows
