"""Official SAM2 checkpoints (.pt, or the same weights as .safetensors): a file's architecture, and the model."""

import importlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError
from ..pretrained.model_files import SAM2

# Official configurations by the width of the trunk and its number of blocks.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}

# What official configurations are made of. A configuration that a user puts beside a file can name nothing else.
_PARTS = {
    "sam2.modeling.sam2_base": {"SAM2Base"},
    "sam2.modeling.backbones.image_encoder": {"ImageEncoder", "FpnNeck"},
    "sam2.modeling.backbones.hieradet": {"Hiera"},
    "sam2.modeling.position_encoding": {"PositionEmbeddingSine"},
    "sam2.modeling.memory_attention": {"MemoryAttention", "MemoryAttentionLayer"},
    "sam2.modeling.sam.transformer": {"RoPEAttention"},
    "sam2.modeling.memory_encoder": {"MemoryEncoder", "MaskDownSampler", "Fuser", "CXBlock"},
}


def read_checkpoint(path: Path) -> nn.Module:
    """The `sam2` package's model, on the CPU in float32.

    The architecture is recognised from the weights, since files get renamed; `<name>.yaml` beside the file overrides it.

    Raises:
        UserError: the sam2 package is missing, or the file is not a checkpoint of plain tensors, or not of a known size.
        ValueError: the configuration describes no model. RuntimeError: weights do not fit it.
    """
    try:
        import sam2
        from omegaconf import OmegaConf
    except ImportError as error:
        raise UserError(
            f"model: {path.name} is an official checkpoint, and those need the sam2 package ({error}). Either choose "
            f"{SAM2.repositories[0]}, which needs nothing, and turn on download_if_missing; or install the package in "
            "ComfyUI's Python, with SAM2_BUILD_CUDA=0 set: python -m pip install --no-build-isolation sam2"
        ) from error
    weights = _read_weights(path)
    beside = path.with_suffix(".yaml")
    config = beside if beside.is_file() else Path(sam2.__path__[0]) / "configs" / _official_config(path, weights)
    # Unresolved: an interpolation stays a string, and builds nothing.
    content = OmegaConf.to_container(OmegaConf.load(config), resolve=False)
    model = _build(content.get("model") if isinstance(content, dict) else None, config.name)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{config.name} describes no model")
    model.load_state_dict(weights)
    return model.float()


def _read_weights(path: Path) -> dict[str, Tensor]:
    plain = path.suffix == ".safetensors"  # holds the weights themselves, where a .pt has them under "model"
    try:
        content = {"model": load_file(path)} if plain else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own message advises to run what is in the file
        raise UserError(
            f"model: {path.name} cannot be read as plain tensors ({type(error).__name__}). It is damaged, not a checkpoint, or "
            "it contains code, which is never run. Download it again."
        ) from error
    weights = content.get("model") if isinstance(content, dict) else None
    if isinstance(weights, dict) and "vision_encoder.backbone.patch_embed.projection.weight" in weights:
        raise UserError(
            f"model: {path.name} holds the weights of a converted folder, without the rest of it. Put it into a "
            "folder of its own in models/sam2, as model.safetensors, with the .json files that came with it."
        )
    if not isinstance(weights, dict) or "image_encoder.trunk.patch_embed.proj.weight" not in weights:
        raise UserError(
            f"model: {path.name} is not a SAM2 checkpoint: it has no weights of a SAM2 image encoder. Choose another."
        )
    return weights


def _official_config(path: Path, weights: dict[str, Tensor]) -> str:
    width = len(weights["image_encoder.trunk.patch_embed.proj.weight"])
    blocks = 1 + max(int(key.split(".")[3]) for key in weights if key.startswith("image_encoder.trunk.blocks."))
    size = _SIZES.get((width, blocks))
    if size is None:
        raise UserError(
            f"model: {path.name} does not have an official size (width {width}, {blocks} blocks). Put the configuration it "
            f"was trained with beside it, as {path.stem}.yaml."
        )
    version = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    return f"{version}/{version}_hiera_{size}.yaml"


def _build(node: object, config: str) -> object:
    """Build what a configuration describes; instead of hydra's `instantiate`, which calls whatever is named."""
    if isinstance(node, list):
        return [_build(item, config) for item in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _build(value, config) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    module, _, name = str(node["_target_"]).rpartition(".")
    if name not in _PARTS.get(module, ()):
        raise UserError(
            f"model: {config} asks for {node['_target_']}, which is not a part of SAM2 and was not run. Use the "
            "configuration that came with the model."
        )
    return getattr(importlib.import_module(module), name)(**arguments)
