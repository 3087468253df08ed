"""What a learnt token is: a representation (embedding, NeTI mapper, or a mix of two), its name and its record."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .mapper import TIMESTEPS, NeTIMapper

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

    @property
    def width(self) -> int:
        return self.vectors.shape[1]


class LayeredEmbedding(nn.Module):
    """An embedding for each cross-attention layer of the U-Net (XTI, of P+), the same at every time."""

    def __init__(self, vectors: Tensor):
        """`vectors`: (16, n, width) float32, layers in execution order."""
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().clone().float())

    @property
    def count(self) -> int:
        return self.vectors.shape[1]

    @property
    def width(self) -> int:
        return self.vectors.shape[2]

    @property
    def config(self) -> dict:
        return {"layered": self.count}


class Mixed(nn.Module):
    """Two representations in one (NeTI's style mixing, P+'s mixing by layers): `geometry` alone in some layers and at early
    denoising times; everywhere else `appearance`, or what lies between the two.

    Args:
        layers: where geometry stays alone, of 0..15.
        starts_at: the mixing begins below this denoising time; at t >= starts_at geometry is alone in every layer.
        blend: how far the rest goes from geometry (0) to appearance (1).
    """

    def __init__(
        self,
        geometry: "Representation",
        appearance: "Representation",
        layers: frozenset[int],
        starts_at: int = TIMESTEPS,
        blend: float = 1.0,
    ):
        super().__init__()
        self.geometry, self.appearance = geometry, appearance
        self.layers, self.starts_at, self.blend = frozenset(layers), starts_at, blend

    @property
    def count(self) -> int:
        return self.geometry.count

    @property
    def width(self) -> int:
        return self.geometry.width

    @property
    def config(self) -> dict:
        parts = {"geometry": config_of(self.geometry), "appearance": config_of(self.appearance)}
        return {"mixed": {**parts, "layers": sorted(self.layers), "starts_at": self.starts_at, "blend": self.blend}}

    def share(self, timesteps: Tensor, layers: Tensor) -> Tensor:
        """(R,) of appearance, 0..1."""
        alone = timesteps >= self.starts_at
        for layer in self.layers:
            alone = alone | (layers == layer)
        return torch.where(alone, 0.0, self.blend)


Representation = Embedding | NeTIMapper | LayeredEmbedding | Mixed
CLASS_OF_KIND: dict[str, type] = {"neti": NeTIMapper, "xti": LayeredEmbedding, "mixed": Mixed}  # of others: Embedding


def kind_of(concept: Representation) -> str:
    """The `PersonalizedToken.kind` of a representation."""
    return next((kind for kind, cls in CLASS_OF_KIND.items() if isinstance(concept, cls)), "textual_inversion")


def config_of(concept: Representation) -> dict:
    """What a representation is built from beside its tensors, JSON-able."""
    return {"vectors": concept.count} if isinstance(concept, Embedding) else concept.config


class Represented(NamedTuple):
    """A token at R (time, layer) pairs."""

    vectors: Tensor  # (R, n, width), take the placeholder's place
    bypass: Tensor | None  # (R, width); its direction counts
    bypass_share: Tensor | None = None  # (R,) of the bypass's usual strength, 0..1; None: all of it


def represent(
    concept: Representation, timesteps: Tensor, layers: Tensor, truncation: int | Tensor | None = None
) -> Represented:
    """Token vectors of a representation at R (time, layer) pairs.

    Args:
        timesteps, layers: (R,) denoising times 0..999 and U-Net layers 0..15.
        truncation: how many hidden units a mapper keeps (NeTI's nested dropout); an embedding ignores it.
    """
    if isinstance(concept, Embedding):
        return Represented(concept.vectors.expand(len(timesteps), -1, -1), None)
    if isinstance(concept, LayeredEmbedding):
        return Represented(concept.vectors[layers.long()], None)
    if isinstance(concept, Mixed):
        # Both at all pairs, so that each is bit for bit what it is alone.
        one, other = (represent(part, timesteps, layers, truncation) for part in (concept.geometry, concept.appearance))
        return _mixed(one, other, concept.share(timesteps, layers))
    vectors, bypass = concept(timesteps, layers, truncation)
    return Represented(vectors[:, None], bypass)


def _mixed(one: Represented, other: Represented, share: Tensor) -> Represented:
    """From one (at a share of 0) to the other (at 1), each exactly itself at its end."""
    share = share.to(one.vectors)
    vectors = _between(one.vectors, other.vectors, share[:, None, None])
    if one.bypass is None and other.bypass is None:
        return Represented(vectors, None)
    strength = torch.lerp(_bypass_strength(one, share), _bypass_strength(other, share), share)
    if one.bypass is None or other.bypass is None:
        return Represented(vectors, other.bypass if one.bypass is None else one.bypass, strength)
    return Represented(vectors, _between(one.bypass, other.bypass, share[:, None]), strength)


def _bypass_strength(part: Represented, like: Tensor) -> Tensor:
    if part.bypass is None:
        return torch.zeros_like(like)
    return torch.ones_like(like) if part.bypass_share is None else part.bypass_share


def _between(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Vectors (..., width) between two, of lengths between theirs, which a plain mean would fall short of.

    share: broadcasts against them.
    """
    between = torch.lerp(one, other, share)
    lengths = torch.lerp(one.norm(dim=-1, keepdim=True), other.norm(dim=-1, keepdim=True), share)
    between = between * (lengths / between.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    return torch.where(share == 0, one, torch.where(share == 1, other, between))


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
