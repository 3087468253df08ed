"""The host's U-Net, opened as the trainer's `UNet`: noise prediction with gradients into per-layer contexts."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .injection import context_patch
from .text_encoder import force_differentiable_attention
from .trunk import Trunk

FP16_LOSS_SCALE = 2.0**12


class HostUNet:
    """Noise prediction with per-layer contexts; see `trainer.interfaces.UNet`. z_t is in the host's sigma space.

    checkpointing: what is recomputed in the backward pass. 0: nothing; 1: transformer blocks; 2: residual blocks too. Less
    memory each, and about a fifth of the step's time more.
    """

    def __init__(self, patcher: ModelPatcher):
        self.patcher = patcher
        self.model = patcher.model
        half = self.model.get_dtype_inference() == torch.float16
        self.loss_scale = FP16_LOSS_SCALE if half else 1.0
        self.checkpointing = 0

    @cached_property
    def _trunk(self) -> Trunk:
        """Made at the first prediction, for it changes the model's modules: what only reads weights must not."""
        self._recompute_by_level()
        return Trunk(self.model.diffusion_model)

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

    def predict_noise(
        self, noisy: Tensor, timesteps: Tensor, context_k: Tensor, context_v: Tensor, samples: Sequence[int] | None = None
    ) -> Tensor:
        last = len(context_k) - 1

        def contexts(layer: int, _context: Tensor) -> tuple[Tensor, Tensor]:
            return context_k[min(layer, last)], context_v[min(layer, last)]

        options = {
            "patches": {"attn2_patch": [context_patch(contexts)]},
            "optimized_attention_override": force_differentiable_attention,
        }
        sigmas = self._sigmas(timesteps)
        with self._trunk.shared_by(samples):
            denoised = self.model.apply_model(
                noisy, sigmas.flatten(), c_crossattn=context_k[0].detach(), transformer_options=options
            )
        return (noisy - denoised) / sigmas

    def _recompute_by_level(self) -> None:
        """Let `checkpointing` decide which blocks are recomputed in the backward pass."""
        for module in self.model.diffusion_model.modules():
            if isinstance(module, BasicTransformerBlock):
                module.forward = self._recomputing(module.forward, 1)
            elif isinstance(module, ResBlock):
                module.forward = self._recomputing(module.forward, 2)

    def _recomputing(self, forward: Callable[..., Tensor], level: int) -> Callable[..., Tensor]:
        def maybe_recomputing(*args: Tensor, **kwargs: Any) -> Tensor:
            if self.checkpointing < level or not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            if "transformer_options" in kwargs:
                # A copy: the host overwrites `block` in this dict from block to block, and when this block is recomputed in
                # the backward pass it must see its own value, or it would take another layer's contexts.
                kwargs["transformer_options"] = dict(kwargs["transformer_options"])
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return maybe_recomputing
