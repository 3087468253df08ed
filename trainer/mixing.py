"""A new representation out of two: which layers and denoising times take which, kept as simple as the result is."""

import re

import torch

from .concept import LAYERS, Embedding, Mixed, Representation, config_of, represent
from .mapper import TIMESTEPS

GEOMETRY_LAYERS = frozenset(range(4, 9))  # the lowest resolutions, which decide the shape (P+, section 3)
MOST_PARTS = 16  # tokens in a mix of mixes
MOST_VECTORS = 75  # of a token that varies by layer: what a prompt's chunk holds


def mix(
    geometry: Representation,
    appearance: Representation,
    layers: frozenset[int] = GEOMETRY_LAYERS,
    starts_at: int = TIMESTEPS,
    blend: float = 1.0,
) -> Representation:
    """`Mixed`, or what is the same and simpler: one of the two where it is alone everywhere, and an embedding where both are
    embeddings that differ by layer and time nowhere.

    Args:
        layers, starts_at, blend: as of `Mixed`.

    Raises:
        ValueError: the two do not fit together; says why.
    """
    if problem := mismatch(geometry, appearance):
        raise ValueError(problem)
    everywhere = not layers and starts_at >= TIMESTEPS
    if blend == 0 or starts_at <= 0 or len(layers) == LAYERS or _equal(geometry, appearance):
        return geometry
    if everywhere and blend == 1:
        return appearance
    mixed = Mixed(geometry, appearance, layers, starts_at, blend)
    if everywhere and isinstance(geometry, Embedding) and isinstance(appearance, Embedding):
        with torch.no_grad():
            return Embedding(represent(mixed, torch.zeros(1), torch.zeros(1)).vectors[0])
    return mixed


def mismatch(geometry: Representation, appearance: Representation) -> str | None:
    """Why two representations cannot be mixed, or None."""
    if geometry.width != appearance.width:
        return (
            f"they have widths {geometry.width} and {appearance.width}: they were made for different model families. Mix "
            "tokens of one model."
        )
    if geometry.count != appearance.count:
        counts = f"{geometry.count} and {appearance.count}"
        return f"they have {counts} vectors. Mix tokens with the same number (a NeTI token has 1)."
    if geometry.count > MOST_VECTORS:
        return f"they have {geometry.count} vectors, and {MOST_VECTORS} is the most that a prompt holds. Mix smaller ones."
    count = parts(geometry) + parts(appearance)
    return (
        f"together they are a mix of {count} tokens, and {MOST_PARTS} is the most. Mix fewer." if count > MOST_PARTS else None
    )


def parts(concept: Representation) -> int:
    """How many tokens are in a mix; 1 if it is none."""
    return parts(concept.geometry) + parts(concept.appearance) if isinstance(concept, Mixed) else 1


def parse_layers(text: str) -> frozenset[int]:
    """Layers out of a list such as "4-8" or "0-3, 9"; none out of an empty one.

    Raises:
        ValueError: it is no such list.
    """
    found: set[int] = set()
    for part in re.split(r"[\s,;]+", re.sub(r"\s*-\s*", "-", text.strip())):
        match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, LAYERS)
        if part and not (match and first <= last < LAYERS):
            raise ValueError(
                f"{part!r} in {text!r} is no layer: type numbers from 0 to {LAYERS - 1} and ranges, such as 4-8 or 0-3, 9. "
                "Nothing means no layer."
            )
        found.update(range(first, last + 1) if part else ())
    return frozenset(found)


def _equal(one: Representation, other: Representation) -> bool:
    """Whether two are the same in everything."""
    if type(one) is not type(other) or config_of(one) != config_of(other):
        return False
    mine, others = one.state_dict(), other.state_dict()
    return all(torch.equal(value, others[name].to(value.device)) for name, value in mine.items())
