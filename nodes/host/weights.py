"""Learnt weights of the U-Net on the host's MODEL: the stock LoRA patch, after a check that they belong to it."""

import comfy.lora
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ..errors import UserError


def with_weights(model: ModelPatcher, weights: dict[str, Tensor], strength: float = 1.0) -> ModelPatcher:
    """A clone of MODEL with a token's `weights` added, as the stock Load LoRA adds them; MODEL itself where there are none.

    Raises:
        UserError: they were made for another model.
    """
    if not weights:
        return model
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(dict(weights), names, log_missing=False)
    own = model.model_state_dict()
    tensors = len([key for key in weights if not key.endswith((".lora_up.weight", ".alpha"))])
    fitting = [key for key, patch in patches.items() if key in own and _fits(patch, own[key])]
    if len(fitting) < tensors:
        raise UserError(
            f"token: {tensors - len(fitting)} of its {tensors} weights do not fit this model: they were learnt on another one. "
            "Wire a model of the family that the training had (Stable Diffusion 1.5)."
        )
    patched = model.clone()
    patched.add_patches(patches, strength)
    return patched


def _fits(patch: object, weight: Tensor) -> bool:
    """Whether a patch, as the host has it, is of the shape of a weight."""
    if isinstance(patch, tuple):  # ("diff", (tensor,)) or ("set", (tensor,))
        return patch[1][0].shape == weight.shape
    assert isinstance(patch, LoRAAdapter), "no other kind is in a token's file"
    up, down = patch.weights[:2]
    return (up.shape[0], down.shape[1]) == (weight.shape[0], weight.shape[1:].numel())
