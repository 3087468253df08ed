"""Official NeTI checkpoints: `mapper-*.pt` and the `learned_embeds-*.bin` beside it, read without running their code."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from .mapper import NeTIMapper
from .pickled import Held
from .reading import Checked, conform, reading
from .token_check import MapperConfig, Text, build_mapper
from .torch_file import read_pickle

# The Space of the authors used the second layout; the last one is ViewNeTI's.
_ENCODERS = {
    f"{root}positional_encoding.{cls}"
    for root in ("models.", "src.models.")
    for cls in ("NeTIPositionalEncoding", "BasicEncoder", "FourierPositionalEncoding")
}
CLASSES = frozenset({*_ENCODERS, "torch.nn.modules.container.ParameterDict"})
_WHAT, _REMEDY = "an official NeTI mapper", "Choose another file or get it again."


class _Sigmas(Checked):
    sigma_t: float
    sigma_l: float


class _Model(Checked):
    use_positional_encoding: bool
    output_bypass: bool
    use_nested_dropout: bool
    nested_dropout_prob: float
    target_norm: float | None
    num_pe_time_anchors: int | None = None
    pe_sigmas: _Sigmas | None = None
    pretrained_model_name_or_path: Annotated[str, Field(max_length=1_000)] | None = None


class _Data(Checked):
    placeholder_token: Text | None = None
    super_category_token: Text | None = None


class _Options(Checked):
    model: _Model
    data: _Data = _Data()


def is_mapper(content: Any) -> bool:
    """Whether a file's content is an official mapper's, whatever the file's name."""
    return isinstance(content, dict) and "state_dict" in content and "cfg" in content


def load_official_mapper(path: str | os.PathLike) -> tuple[NeTIMapper, dict]:
    """Read an official `mapper-*.pt` (NeTI CheckpointHandler.save_model).

    Returns:
        the mapper, with the output norm and the random frequencies of the file, and what its configuration says:
        `placeholder`, `super_category`, `base_model` (None where it does not).

    Raises:
        UnsafeCheckpoint: the file would run code.
        BadFile: it is not such a checkpoint, or damaged.
    """
    path = Path(path)
    return mapper_of(path.name, read_pickle(path, CLASSES))


def mapper_of(name: str, content: Any) -> tuple[NeTIMapper, dict]:
    """As `load_official_mapper`, from a file's content. name: of the file."""
    with reading(name, _WHAT, _REMEDY):
        options = conform(_Options, content["cfg"], name, _REMEDY, _WHAT)
        config, state = _parts(content["state_dict"], options.model, content["encoder"])
        mapper = build_mapper(name, conform(MapperConfig, config, name), state)
    return mapper, {
        "placeholder": options.data.placeholder_token,
        "super_category": options.data.super_category_token,
        "base_model": options.model.pretrained_model_name_or_path,
    }


def _parts(state: dict[str, Tensor], options: _Model, encoder: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of the mapper, under this pack's names."""
    if not isinstance(state, dict):
        raise ValueError("its state_dict is none")
    own = {f"net.{i - 1}.{kind}": state[f"net.{i}.{kind}"] for i in (1, 2, 4, 5) for kind in ("weight", "bias")}
    own |= {f"output_layer.{kind}": state[f"output_layer.0.{kind}"] for kind in ("weight", "bias")}
    config: dict[str, Any] = {
        "width": len(own["output_layer.bias"]) // (2 if options.output_bypass else 1),
        "bypass": options.output_bypass,
        "positional": options.use_positional_encoding,
        "norm_scale": options.target_norm,
        "hidden": len(own["net.0.bias"]),
        "nested_dropout": options.nested_dropout_prob if options.use_nested_dropout else 0.0,
    }
    if options.use_positional_encoding:
        own |= {f"input_layer.{kind}": state[f"input_layer.{kind}"] for kind in ("weight", "bias")}
        own["encoder.w"] = _frequencies(state, encoder)
        sigmas = {} if options.pe_sigmas is None else options.pe_sigmas.model_dump()
        config |= {"num_w": len(own["encoder.w"]), "time_anchors": options.num_pe_time_anchors, **sigmas}
    return config, own


def _frequencies(state: dict[str, Tensor], encoder: object) -> Tensor:
    """The encoder's `w`: an attribute, a parameter after a resumed training, or in the state dict after two."""
    if "encoder.w" in state:
        return state["encoder.w"]
    if not isinstance(encoder, Held):
        raise ValueError("it has no encoder")
    w = encoder.attributes.get("w")
    return encoder.attributes["_parameters"]["w"] if w is None else w
