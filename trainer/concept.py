"""What a learnt token is: a representation (an embedding or a NeTI mapper), its name and its record."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .mapper import NeTIMapper

UNFIT_IN_PROMPTS = "()[]{}:\\,"  # prompts give them a meaning of their own
LONGEST_TEXT = 240  # characters of a placeholder or a super-category: a file name's length
LAYERS = 16  # cross-attention layers of the SD1.5 U-Net, in execution order (NeTI's index)


class Embedding(nn.Module):
    """A plain token embedding of one or more vectors (Textual Inversion): the same for every time and layer."""

    def __init__(self, vectors: Tensor):
        """`vectors`: (n, width) float32."""
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().clone().float())

    @property
    def count(self) -> int:
        return self.vectors.shape[0]


Representation = Embedding | NeTIMapper


def represent(
    concept: Representation, timesteps: Tensor, layers: Tensor, truncation: int | Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Token vectors of a representation at R (time, layer) pairs.

    Args:
        timesteps, layers: (R,) denoising times 0..999 and U-Net layers 0..15.
        truncation: how many hidden units a mapper keeps (NeTI's nested dropout); an embedding ignores it.

    Returns:
        vectors (R, n, width) that take the placeholder's place, and bypass (R, width) or None.
    """
    if isinstance(concept, Embedding):
        return concept.vectors.expand(len(timesteps), -1, -1), None
    vectors, bypass = concept(timesteps, layers, truncation)
    return vectors[:, None], bypass


@dataclass(frozen=True, eq=False)
class PersonalizedToken:
    """A learnt subject token `v*`, with the background attractors `A*_i` it was trained beside.

    placeholder: the word that stands for the subject in prompts, such as `<my-dog>`.
    super_category: the subject's class in a word or two, or "" where a file names none.
    kind: `neti` or `textual_inversion`.
    width: of the text encoder, 768 for SD1.x.
    record: JSON-able facts about the training (settings, step, base model, losses).
    phrase: what the placeholder becomes in a prompt, such as `{} dog`; `{}` is the subject's vectors.
    weights: what is added to the U-Net, as a LoRA file has it (`diffusion_model.*`); empty if nothing is.
    """

    placeholder: str
    super_category: str
    kind: str
    width: int
    subject: Representation
    attractors: tuple[Representation, ...] = ()
    record: dict = field(default_factory=dict)
    phrase: str = "{}"
    weights: dict[str, Tensor] = field(default_factory=dict)


def is_text(text: object) -> bool:
    """Whether a value is a text that can be shown, sent and saved: not too long, and of valid characters."""
    return isinstance(text, str) and len(text) <= LONGEST_TEXT and not any("\ud800" <= c <= "\udfff" for c in text)


def placeholder_problem(placeholder: str, is_vocabulary_word: Callable[[str], bool]) -> str | None:
    """Why `placeholder` cannot name a token, or None."""
    if not placeholder.strip():
        return "placeholder is empty: give the token a name such as <my-dog>."
    if not is_text(placeholder):
        return (
            f"placeholder has {len(placeholder)} characters or invalid ones, and {LONGEST_TEXT} is the most: use a name such "
            "as <my-dog>."
        )
    if any(c.isspace() or c in UNFIT_IN_PROMPTS for c in placeholder):
        return (
            f"placeholder {placeholder!r} holds a space or one of ( ) [ ] {{ }} : \\ , which prompts give a "
            "meaning of their own: use a name such as <my-dog>."
        )
    if is_vocabulary_word(placeholder):
        return (
            f"placeholder {placeholder!r} already is a word of the text encoder's vocabulary: its meaning "
            f"would be lost in every prompt. Use a name such as <{placeholder}>."
        )
    return None


def random_like(vector: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Noise of `scale` times the vector's own standard deviation, drawn on the CPU. Shape of `vector`."""
    return torch.randn(vector.shape, generator=generator) * vector.std().cpu() * scale
