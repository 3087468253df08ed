"""The parts of this pack's own token files: each representation's configuration, its tensors' shapes, and how it is built."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from torch import Tensor

from .concept import LAYERS, LayeredEmbedding, Mixed, Representation
from .mapper import TIMESTEPS
from .mixing import MOST_PARTS, MOST_VECTORS, mismatch
from .reading import BadFile, Checked, conform
from .token_check import EmbeddingConfig, MapperConfig, Shapes, build_embedding, build_mapper, mapper_shapes, numbers


class LayeredConfig(Checked):
    layered: Annotated[int, Field(ge=1, le=MOST_VECTORS)]


class _Mixed(Checked):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    geometry: dict[str, Any]
    appearance: dict[str, Any]
    layers: Annotated[list[Annotated[int, Field(ge=0, lt=LAYERS)]], Field(max_length=LAYERS)]
    starts_at: Annotated[int, Field(ge=0, le=TIMESTEPS)]
    blend: Annotated[float, Field(ge=0, le=1)]


class _MixedConfig(Checked):
    mixed: _Mixed


class MixedConfig:
    """What `Mixed` is built from, its parts' configurations read."""

    def __init__(self, own: _Mixed, geometry: "Config", appearance: "Config"):
        self.own, self.parts = own, {"geometry": geometry, "appearance": appearance}


Config = EmbeddingConfig | MapperConfig | LayeredConfig | MixedConfig


def read_config(name: str, config: dict[str, Any], left: int = MOST_PARTS) -> Config:
    """The configuration of a representation as a file's header has it.

    Args:
        name: of the file.
        left: how many tokens it may consist of.

    Raises:
        BadFile: it is none, or a mix of too many.
    """
    if "mixed" in config:
        if left < 2:
            raise BadFile(f"{name} is a mix of more than {MOST_PARTS} tokens, which is the most. Mix fewer.")
        own = conform(_MixedConfig, config, name).mixed
        geometry = read_config(name, own.geometry, left - 1)
        return MixedConfig(own, geometry, read_config(name, own.appearance, left - _parts(geometry)))
    if "layered" in config:
        return conform(LayeredConfig, config, name)
    if "vectors" in config:
        return conform(EmbeddingConfig, config, name)
    return conform(MapperConfig, config, name)


def _parts(config: Config) -> int:
    return sum(map(_parts, config.parts.values())) if isinstance(config, MixedConfig) else 1


def shapes_of(config: Config, width: int) -> Shapes:
    """Shapes of a representation's tensors. width: of the token."""
    if isinstance(config, MixedConfig):
        inner = {part: shapes_of(own, width) for part, own in config.parts.items()}
        return {f"{part}.{key}": shape for part, shapes in inner.items() for key, shape in shapes.items()}
    if isinstance(config, MapperConfig):
        return mapper_shapes(config)
    return {"vectors": (LAYERS, config.layered, width) if isinstance(config, LayeredConfig) else (config.vectors, width)}


def build(name: str, config: Config, tensors: dict[str, Tensor], prefix: str) -> Representation:
    """A representation of the tensors whose names begin with `prefix`, which are taken out one by one: they are copied.

    Raises:
        BadFile: they do not belong to the configuration, or are not floating-point numbers. name: of the file.
    """
    if isinstance(config, MixedConfig):
        geometry, appearance = (build(name, inner, tensors, f"{prefix}{part}.") for part, inner in config.parts.items())
        if problem := mismatch(geometry, appearance):
            raise BadFile(f"{name} is damaged: it is a mix of two tokens, and {problem}")
        return Mixed(geometry, appearance, frozenset(config.own.layers), config.own.starts_at, config.own.blend)
    if isinstance(config, MapperConfig):
        return build_mapper(name, config, {key: tensors.pop(f"{prefix}{key}") for key in mapper_shapes(config)})
    vectors = tensors.pop(f"{prefix}vectors")
    if isinstance(config, LayeredConfig):
        return LayeredEmbedding(numbers(name, f"{prefix}vectors", vectors))
    return build_embedding(name, vectors)


def needs_version(concept: Representation) -> int:
    """The first version of the file format that knows a representation."""
    return 2 if isinstance(concept, LayeredEmbedding | Mixed) else 1
