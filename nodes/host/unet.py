"""The host's U-Net, opened as the trainer's `UNet`: noise prediction with gradients into per-layer contexts."""

from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .injection import context_patch
from .text_encoder import force_differentiable_attention

FP16_LOSS_SCALE = 2.0**12


class HostUNet:
    """Noise prediction with per-layer contexts; see `trainer.loop.UNet`. z_t is in the host's sigma space."""

    def __init__(self, patcher: ModelPatcher):
        self.patcher = patcher
        self.model = patcher.model
        half = self.model.get_dtype_inference() == torch.float16
        self.loss_scale = FP16_LOSS_SCALE if half else 1.0
        self.checkpointed = False

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
        if self.checkpointed:
            return
        self.checkpointed = True
        for module in self.model.diffusion_model.modules():
            if isinstance(module, BasicTransformerBlock):
                module.forward = _checkpointed(module.forward)


def _checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def recomputing(x: Tensor, context: Tensor | None = None, transformer_options: dict | None = None) -> Tensor:
        # A copy: the host overwrites `block` in this dict from block to block, and when this block is recomputed in the
        # backward pass it must see its own value, or it would take another layer's contexts.
        options = dict(transformer_options or {})
        return checkpoint(forward, x, context, options, use_reentrant=False, preserve_rng_state=False)

    return recomputing
