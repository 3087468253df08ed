"""Hashes that tell models apart, patches included, so that results of two models are never mixed.

They notice another checkpoint, LoRA or sampling patch. They read only part of each tensor: that is quick, but it is no
protection against deliberate forgery.
"""

import hashlib
from types import CellType

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from ...trainer.concept import PersonalizedToken

_VALUES_READ = 2048  # of a tensor
_DEPTH = 8
_SAMPLING = "model_sampling"


def model_identity(model: ModelPatcher) -> str:
    """Of a MODEL: weights, their patches (LoRA), replaced parts (ModelSampling) and options (FreeU, RescaleCFG)."""
    return _patcher_identity(model)


def clip_identity(clip: CLIP) -> str:
    """Of a CLIP: weights, patches, clip skip, LoRA hooks with their schedule, options of the tokenizer."""
    patcher = clip.patcher
    keyframes = [
        [(keyframe.strength, keyframe.start_percent) for keyframe in hook.hook_keyframe.keyframes]
        for hook in (patcher.forced_hooks.hooks if patcher.forced_hooks is not None else ())
    ]
    hooks = list(patcher.hook_patches.values())  # without their keys, which are new objects in every session
    return _patcher_identity(patcher, clip.layer_idx, keyframes, hooks, clip.tokenizer_options)


def vae_identity(vae: VAE) -> str:
    return _patcher_identity(vae.patcher)


def token_identity(token: PersonalizedToken) -> str:
    """Of what a token does in a prompt, whatever its name and training record."""
    digest = hashlib.sha256()
    for name, value in sorted(token.subject.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    _add(digest, getattr(token.subject, "config", None))
    if token.phrase != "{}":
        digest.update(token.phrase.encode())
    for name, value in sorted(token.weights.items()):
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()[:16]


def _patcher_identity(patcher: ModelPatcher, *more: object) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(patcher.model_state_dict().items()):
        if name.startswith(_SAMPLING + "."):  # belongs to whichever clone is loaded; ours is added below
            continue
        backup = patcher.backup.get(name)  # the original, where the weight is patched in place
        digest.update(name.encode())
        _add(digest, weight if backup is None else backup.weight)
    for name, patches in sorted(patcher.patches.items()):
        digest.update(name.encode())
        _add(digest, patches)
    if hasattr(patcher.model, _SAMPLING):
        _add(digest, patcher.get_model_object(_SAMPLING))
    _add(digest, [patcher.object_patches, patcher.model_options, *more])
    return digest.hexdigest()[:16]


def _add(digest: "hashlib._Hash", value: object, depth: int = 0) -> None:
    """Feed a value of a patch to the digest: what it is made of, never its address in memory."""
    if isinstance(value, torch.Tensor):  # a Parameter counts like the plain Tensor that the host keeps of it
        digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
        digest.update(_some_values(value))
        return
    # With its bases: the host builds classes of one name from different ones, such as its samplings for eps and v.
    digest.update(" ".join(base.__qualname__ for base in type(value).__mro__).encode())
    if depth > _DEPTH:
        return
    if isinstance(value, torch.nn.Module):
        for name, tensor in sorted({**dict(value.named_parameters()), **dict(value.named_buffers())}.items()):
            digest.update(name.encode())
            _add(digest, tensor, depth + 1)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode() if isinstance(key, str | int | tuple) else type(key).__qualname__.encode())
            _add(digest, value[key], depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(digest, item, depth + 1)
    elif value is None or isinstance(value, str | int | float | bool):
        digest.update(repr(value).encode())
    elif callable(value) and hasattr(value, "__qualname__"):
        digest.update(value.__qualname__.encode())  # without the module, whose name contains the node pack's folder
        for cell in getattr(value, "__closure__", None) or ():  # where patches such as FreeU keep their settings
            _add(digest, _content(cell), depth + 1)
    elif hasattr(value, "weights"):  # the host's LoRA and its relatives
        _add(digest, value.weights, depth + 1)


def _content(cell: CellType) -> object:
    try:
        held = cell.cell_contents
    except ValueError:  # an empty cell
        return None
    return held if isinstance(held, str | int | float | bool | torch.Tensor | list | tuple | dict) else type(held).__qualname__


def _some_values(tensor: torch.Tensor) -> bytes:
    """Evenly spread values of a tensor, as float32 bytes."""
    if tensor.numel() == 0:
        return b""
    if hasattr(tensor, "_qdata"):  # the host's quantised weights
        tensor = tensor._qdata
    flat = tensor.detach().reshape(-1)
    if flat.numel() > _VALUES_READ:
        flat = flat[:: -(-flat.numel() // _VALUES_READ)]
    return flat.to("cpu", torch.float32).numpy().tobytes()
