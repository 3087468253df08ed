"""Files of others: official NeTI checkpoints and Textual Inversion embeddings, read without running their code.

Both are pickles. They go through torch's weights-only loader; the one class an official mapper needs is replaced
by an empty stand-in that only holds attributes.
"""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .mapper import NeTIMapper


class UnsafeCheckpoint(ValueError):
    """The file holds more than numbers; nothing in it was executed."""


def _stand_in(name: str) -> type:
    module, _, cls = name.rpartition(".")
    return type(cls, (), {"__module__": module, "__qualname__": cls})


# The Space of the authors used the second layout.
_ENCODERS = [
    _stand_in(f"{root}positional_encoding.{cls}")
    for root in ("models.", "src.models.")
    for cls in ("NeTIPositionalEncoding", "BasicEncoder")
]


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([*_ENCODERS]):
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class)[^:]*:? ?([\w.]*)", str(error))
        what = next((g for g in refused.groups() if g), "") if refused else ""
        if what:
            raise UnsafeCheckpoint(
                f"{path.name} was not loaded: beside numbers it holds code or objects ({what}) that would be run on "
                "loading, which a token file has no need of. Nothing of it was executed. Get the file from a source "
                "you trust, as safetensors."
            ) from error
        raise ValueError(
            f"{path.name} is damaged, no PyTorch file, or written in a way that cannot be read without running what is "
            "in it. Nothing of it was executed. Get the file again, as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path.name} is damaged or no PyTorch file ({error or 'it is empty'}). Get it again.") from error


def holds_mapper(path: str | os.PathLike) -> bool:
    """Whether the file is an official mapper's, whatever its name.

    Raises:
        UnsafeCheckpoint, ValueError: as `load_official_mapper`.
    """
    content = _load(Path(path))
    return isinstance(content, dict) and "state_dict" in content and "cfg" in content


def load_official_mapper(path: str | os.PathLike) -> tuple[NeTIMapper, dict]:
    """Read an official `mapper-*.pt` (NeTI CheckpointHandler.save_model).

    Returns:
        the mapper, with the output norm and the random frequencies of the file, and what its configuration says:
        `placeholder`, `super_category`, `base_model` (None where it does not).

    Raises:
        UnsafeCheckpoint: the file would run code.
        ValueError: it is not such a checkpoint, or damaged.
    """
    path = Path(path)
    content = _load(path)
    try:
        state, options, encoder = content["state_dict"], content["cfg"]["model"], content["encoder"]
        data = content["cfg"].get("data", {})
        mapper = _mapper_of(state, options, encoder)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path.name} is not an official NeTI mapper, or an incomplete one ({error}). Choose another file or get it again."
        ) from error
    if not all(torch.isfinite(value).all() for value in mapper.state_dict().values()):
        raise ValueError(f"{path.name} holds numbers that are not finite: its training diverged. Choose an earlier checkpoint.")
    return mapper, {
        "placeholder": data.get("placeholder_token"),
        "super_category": data.get("super_category_token"),
        "base_model": options.get("pretrained_model_name_or_path"),
    }


def _mapper_of(state: dict[str, Tensor], options: dict, encoder: object) -> NeTIMapper:
    positional = options["use_positional_encoding"]
    own = {f"net.{i - 1}.{kind}": state[f"net.{i}.{kind}"].clone() for i in (1, 2, 4, 5) for kind in ("weight", "bias")}
    own |= {f"output_layer.{kind}": state[f"output_layer.0.{kind}"].clone() for kind in ("weight", "bias")}
    width = len(own["output_layer.bias"]) // (2 if options["output_bypass"] else 1)
    shape = {}
    if positional:
        own |= {f"input_layer.{kind}": state[f"input_layer.{kind}"].clone() for kind in ("weight", "bias")}
        own["encoder.w"] = _frequencies(state, encoder).float().clone()
        shape = {
            "num_w": len(own["encoder.w"]),
            "time_anchors": options["num_pe_time_anchors"],
            "sigma_t": options["pe_sigmas"]["sigma_t"],
            "sigma_l": options["pe_sigmas"]["sigma_l"],
        }
    mapper = NeTIMapper(
        width,
        bypass=options["output_bypass"],
        positional=positional,
        norm_scale=options["target_norm"],
        hidden=len(own["net.0.bias"]),
        seed=0,
        **shape,
        nested_dropout=options["nested_dropout_prob"] if options["use_nested_dropout"] else 0.0,
    )
    mapper.load_state_dict(own)
    return mapper


def _frequencies(state: dict[str, Tensor], encoder: object) -> Tensor:
    """The encoder's `w`: an attribute, a parameter after a resumed training, or in the state dict after two."""
    if "encoder.w" in state:
        return state["encoder.w"]
    attributes = vars(encoder)
    w = attributes.get("w")
    return attributes["_parameters"]["w"] if w is None else w


def load_learned_embeds(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a Textual Inversion `.bin` or `.pt`: vectors (width,) or (n, width) by token name.

    Also A1111's `string_to_param` layout, under the name the file gives.

    Raises:
        UnsafeCheckpoint: the file would run code.
        ValueError: it holds no embedding, or is damaged.
    """
    path = Path(path)
    content = _load(path)
    if isinstance(content, dict) and isinstance(content.get("string_to_param"), dict):
        vectors = next(iter(content["string_to_param"].values()), None)
        name = content.get("name")
        content = {name if isinstance(name, str) else "emb_params": vectors}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no embedding. Choose a Textual Inversion or NeTI file.")
    found = {key: value.detach() for key, value in content.items() if isinstance(key, str) and torch.is_tensor(value)}
    if not found:
        raise ValueError(f"{path.name} holds no embedding. Choose a Textual Inversion or NeTI file.")
    return found
