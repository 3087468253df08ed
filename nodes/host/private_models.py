"""Private, trainable copies of the host's loaded models.

Gradients cannot pass through a model as upstream nodes loaded it: its weights are inference tensors and may be streamed from
RAM while in use, and its attention may have no backward pass.
"""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management as mm
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ..errors import UserError
from .memory import drop_inference_tensors, load_for_training
from .text_encoder import HostTextEncoder
from .unet import HostUNet


@contextmanager
def private_models(model: ModelPatcher, clip: CLIP) -> Iterator[tuple[HostUNet, HostTextEncoder]]:
    """Gives `(HostUNet, HostTextEncoder)` on private copies, loaded whole, and frees them at the end.

    Must be entered under `torch.inference_mode(False)`. LoRA and other weight patches are carried over.
    """
    mm.unload_all_models()
    unet_patcher, _unet_owner = _private_copy(model, "model")
    text_patcher, _text_owner = _private_copy(clip.patcher, "clip")
    try:
        for patcher in (unet_patcher, text_patcher):
            patcher.model.requires_grad_(False).train(False)
        unet, text = HostUNet(unet_patcher), HostTextEncoder(clip, text_patcher)
        text.use_half_precision()
        load_for_training(unet, text)
        yield unet, text
    finally:
        mm.unload_all_models()
        unet_patcher.cleanup()
        del _unet_owner, _text_owner
        gc.collect()
        mm.soft_empty_cache()


def _private_copy(patcher: ModelPatcher, name: str) -> tuple[ModelPatcher, ModelPatcher]:
    """A patcher with weights of its own, made by the loader again or, where it cannot, by copying.

    Also gives the patcher that first owned the weights. Keep it as long as the first: the host reports a memory leak for a
    loaded model whose owner is gone.
    """
    factory = patcher.cached_patcher_init
    if factory is not None:
        owner = factory[0](*factory[1], disable_dynamic=True)
        owner = owner[factory[2]] if len(factory) > 2 else owner
    elif patcher.is_dynamic():
        raise UserError(
            f"{name}: the node that loaded it gives no way to make a trainable copy. Load the checkpoint with Load Checkpoint."
        )
    else:
        # Not copied: the config, which the host cannot copy, and the reference back to the patcher.
        config = getattr(patcher.model, "model_config", None)
        memo = {id(config): config, id(getattr(patcher.model, "current_patcher", None)): None}
        module = copy.deepcopy(patcher.model, memo)
        drop_inference_tensors(module)
        owner = ModelPatcher(module, patcher.load_device, patcher.offload_device)
    return patcher.clone(disable_dynamic=True, model_override=owner.get_clone_model_override()), owner
