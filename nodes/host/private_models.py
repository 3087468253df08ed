"""Private, trainable copies of the host's loaded models, and the U-Net as the trainer's `UNet`.

What upstream nodes loaded cannot be trained through: its weights are inference tensors, may be streamed from
RAM while they are used, and its attention may have no backward pass.
"""

import copy
import gc
import logging
from contextlib import contextmanager

import comfy.model_management as mm
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .injection import context_patch
from .text_encoder import HostTextEncoder, force_differentiable_attention

FP16_LOSS_SCALE = 2.0**12


@contextmanager
def private_models(model, clip):
    """Gives `(HostUNet, HostTextEncoder)` on private copies, loaded in full; frees them at the end.

    Must be entered under `torch.inference_mode(False)`. LoRA and other weight patches are carried over.
    """
    mm.unload_all_models()
    unet_patcher, _unet_owner = _private_copy(model, "model")
    text_patcher, _text_owner = _private_copy(clip.patcher, "clip")
    try:
        for patcher in (unet_patcher, text_patcher):
            patcher.model.requires_grad_(False).train(False)
        unet, text = HostUNet(unet_patcher), HostTextEncoder(clip, text_patcher)
        load_for_training(unet, text)
        yield unet, text
    finally:
        mm.unload_all_models()
        unet_patcher.cleanup()
        del _unet_owner, _text_owner
        gc.collect()
        mm.soft_empty_cache()


def load_for_training(unet: "HostUNet", text: HostTextEncoder) -> None:
    """Bring both copies whole onto their devices, and all others off: a VAE or encoders that were used in between would take
    the room that the micro-batch was planned with."""
    own = [loaded for loaded in mm.current_loaded_models if loaded.model in (unet.patcher, text.patcher)]
    mm.free_memory(1e30, unet.device, keep_loaded=own)
    mm.load_models_gpu([unet.patcher, text.patcher], memory_required=2 * 1024**3, force_full_load=True)
    unet.patcher.pre_run()


def _private_copy(patcher, name: str) -> tuple:
    """A patcher over weights of its own, from the loader's own factory or, failing that, by copying.

    Also gives the patcher that first owned the weights, to be kept as long: the host calls a loaded model
    whose owner is gone a memory leak.
    """
    factory = patcher.cached_patcher_init
    if factory is not None:
        owner = factory[0](*factory[1], disable_dynamic=True)
        owner = owner[factory[2]] if len(factory) > 2 else owner
    elif patcher.is_dynamic():
        raise UserError(
            f"{name}: the loader it comes from offers no way to make a trainable copy. Load the "
            "checkpoint with Load Checkpoint."
        )
    else:
        # Shared or left out: what the host cannot copy, or what would copy the patcher itself.
        config = getattr(patcher.model, "model_config", None)
        memo = {id(config): config, id(getattr(patcher.model, "current_patcher", None)): None}
        module = copy.deepcopy(patcher.model, memo)
        _drop_inference_tensors(module)
        owner = ModelPatcher(module, patcher.load_device, patcher.offload_device)
    return patcher.clone(disable_dynamic=True, model_override=owner.get_clone_model_override()), owner


def _drop_inference_tensors(module: torch.nn.Module) -> None:
    """Replace tensors that autograd may not save by ordinary copies."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                part._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()


class HostUNet:
    """Noise prediction with per-layer contexts; see `trainer.loop.UNet`. z_t is in the host's sigma space."""

    def __init__(self, patcher):
        self.patcher = patcher
        self.model = patcher.model
        half = self.model.get_dtype_inference() == torch.float16
        self.loss_scale = FP16_LOSS_SCALE if half else 1.0
        self._checkpointed = False

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def sample_weights(self) -> list[Tensor]:
        """Some weights that tell models (and the LoRAs in them) apart: the cross-attention's key projections."""
        blocks = (m for m in self.model.diffusion_model.modules() if isinstance(m, BasicTransformerBlock))
        return [block.attn2.to_k.weight.float() for block in blocks]

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        return self.model.model_sampling.sigmas[timesteps.cpu()].to(self.device).view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return latents + noise * self._sigmas(timesteps)

    def predict_noise(self, noisy: Tensor, timesteps: Tensor, context_k: Tensor, context_v: Tensor) -> Tensor:
        last = len(context_k) - 1

        def contexts(layer: int, _context: Tensor) -> tuple[Tensor, Tensor]:
            return context_k[min(layer, last)], context_v[min(layer, last)]

        options = {
            "patches": {"attn2_patch": [context_patch(contexts)]},
            "optimized_attention_override": force_differentiable_attention,
        }
        sigmas = self._sigmas(timesteps)
        denoised = self.model.apply_model(
            noisy, sigmas.flatten(), c_crossattn=context_k[0].detach(), transformer_options=options
        )
        return (noisy - denoised) / sigmas

    def enable_gradient_checkpointing(self) -> None:
        """Recompute every transformer block in the backward pass: less memory, about a third more time."""
        if self._checkpointed:
            return
        self._checkpointed = True
        for module in self.model.diffusion_model.modules():
            if isinstance(module, BasicTransformerBlock):
                module.forward = _checkpointed(module.forward)


def _checkpointed(forward):
    def recomputing(x, context=None, transformer_options=None):
        # A snapshot: the host overwrites `block` in this dict as the pass goes on, and a recomputation in the
        # backward pass must see what this block saw, or it would take another layer's contexts.
        options = dict(transformer_options or {})
        return checkpoint(forward, x, context, options, use_reentrant=False, preserve_rng_state=False)

    return recomputing


def plan_memory(unet: HostUNet, rows: int, latent_size: tuple[int, int]) -> tuple[int, bool]:
    """U-Net rows at once and whether to checkpoint, from the device's free memory.

    A starting point: a step that runs out of memory is taken again with half the rows (`shrink`).
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


def shrink(trainer, error: Exception) -> None:
    """Make the next attempt at a step need less memory.

    Raises:
        UserError: nothing is left to save.
    """
    gc.collect()
    mm.soft_empty_cache()
    if trainer.micro_batch > 1:
        trainer.micro_batch //= 2
    elif not trainer.unet._checkpointed:
        trainer.unet.enable_gradient_checkpointing()
    else:
        raise UserError(
            "The GPU has too little memory even for one image at a time with gradient checkpointing: "
            "lower resolution, or close other programs that use the GPU."
        ) from error
    logging.warning(
        "Out of memory: going on with micro_batch %d, gradient checkpointing %s.",
        trainer.micro_batch,
        "on" if trainer.unet._checkpointed else "off",
    )
