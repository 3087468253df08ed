"""Memory on the device for training: what is loaded, how much runs at once, and what to do when memory runs out."""

import gc
import logging

import comfy.model_management as mm
import torch

from ...trainer.loop import Trainer
from ..errors import UserError
from .text_encoder import HostTextEncoder
from .unet import HostUNet


def load_for_training(unet: HostUNet, text: HostTextEncoder) -> None:
    """Load both copies whole onto their devices and unload everything else: a VAE or encoders that were used in between
    would take memory that the micro-batch was planned with."""
    for patcher in (unet.patcher, text.patcher):  # what was moved while the host sampled in inference mode
        drop_inference_tensors(patcher.model)
    own = [loaded for loaded in mm.current_loaded_models if loaded.model in (unet.patcher, text.patcher)]
    mm.free_memory(1e30, unet.device, keep_loaded=own)
    mm.load_models_gpu([unet.patcher, text.patcher], memory_required=2 * 1024**3, force_full_load=True)
    unet.patcher.pre_run()


def plan_memory(unet: HostUNet, rows: int, latent_size: tuple[int, int]) -> tuple[int, bool]:
    """U-Net rows at once and whether to checkpoint, from the device's free memory.

    A starting point: a step that runs out of memory is repeated with half the rows (`shrink`).
    """
    if unet.device.type == "cpu":
        return min(rows, 8), False
    bytes_per_value = torch.finfo(unet.model.get_dtype_inference()).bits // 8
    scale = latent_size[0] * latent_size[1] / 64**2 * bytes_per_value / 2
    free = mm.get_free_memory(unet.device) * 0.9
    plain, checkpointed = 3.0e9 * scale, 1.2e9 * scale  # estimates at 512 x 512, half precision
    if free >= 2 * plain or free >= rows * plain:
        return max(1, min(rows, int(free / plain))), False
    return max(1, min(rows, int(free / checkpointed))), True


def shrink(unet: HostUNet, trainer: Trainer, error: Exception) -> None:
    """Make the next attempt at a step need less memory. unet: the trainer's.

    Raises:
        UserError: there is nothing left to reduce.
    """
    gc.collect()
    mm.soft_empty_cache()
    if trainer.micro_batch > 1:
        trainer.micro_batch //= 2
    elif not unet.checkpointed:
        unet.enable_gradient_checkpointing()
    else:
        raise UserError(
            "The GPU has too little memory even for one image at a time with gradient checkpointing: "
            "lower resolution, or close other programs that use the GPU."
        ) from error
    logging.warning(
        "Out of memory: going on with micro_batch %d, gradient checkpointing %s.",
        trainer.micro_batch,
        "on" if unet.checkpointed else "off",
    )


def drop_inference_tensors(module: torch.nn.Module) -> None:
    """Replace inference tensors, which autograd cannot save, by ordinary copies."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                part._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()
