"""The host's U-Net, opened as the trainer's `UNet`: noise prediction with gradients into per-layer contexts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import comfy.model_management as mm
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...trainer.methods import KEYS_VALUES, LOW_RANK
from .injection import context_patch
from .text_encoder import force_differentiable_attention
from .trunk import Trunk

FP16_LOSS_SCALE = 2.0**12
_LOW_RANK = ("to_q", "to_k", "to_v", "to_out.0")  # as in diffusers' train_dreambooth_lora.py


def _detached_start(_module: torch.nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    """Keys or values (rows, S, width) without a gradient from the start token's."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)


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
        self._tuned = False

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
        return [block.attn2.to_k.weight.float() for block in self._transformer_blocks().values()]

    def tunable(self, learns: str) -> dict[str, Tensor]:
        if learns not in (KEYS_VALUES, LOW_RANK):
            return dict(self.model.diffusion_model.named_parameters())
        found: dict[str, Tensor] = {}
        for name, block in self._transformer_blocks().items():
            of_keys = [(f"{name}.attn2", block.attn2, ("to_k", "to_v"))]
            of_both = [(f"{name}.{part}", getattr(block, part), _LOW_RANK) for part in ("attn1", "attn2")]
            for place, attention, parts in of_keys if learns == KEYS_VALUES else of_both:
                found |= {f"{place}.{part}.weight": attention.get_submodule(part).weight for part in parts}
        return found

    @contextmanager
    def tuned(self, tensors: Mapping[str, Tensor], detach_start: bool = False) -> Iterator[None]:
        unet = self.model.diffusion_model
        places = [(unet.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in tensors]
        own = [module._parameters[leaf] for module, leaf in places]
        hooks = [part.register_forward_hook(_detached_start) for part in self._keys_values()] if detach_start else []
        self._tuned = True
        try:
            for (module, leaf), tensor in zip(places, tensors.values(), strict=True):
                module._parameters[leaf] = tensor  # not a Parameter where it is computed
            yield
        finally:
            for (module, leaf), tensor in zip(places, own, strict=True):
                module._parameters[leaf] = tensor
            for hook in hooks:
                hook.remove()
            self._tuned = False

    def _keys_values(self) -> list[torch.nn.Module]:
        """The key and value projections of the cross-attentions."""
        return [part for block in self._transformer_blocks().values() for part in (block.attn2.to_k, block.attn2.to_v)]

    def _transformer_blocks(self) -> dict[str, BasicTransformerBlock]:
        """By their names in the U-Net, in its order."""
        return {
            name: part for name, part in self.model.diffusion_model.named_modules() if isinstance(part, BasicTransformerBlock)
        }

    def _precision(self) -> AbstractContextManager[object]:
        """Learnt tensors are float32; products are of the precision that the device is fast in."""
        if not self._tuned or self.device.type != "cuda" or self.model.get_dtype_inference() == torch.float32:
            return nullcontext()
        return torch.autocast("cuda", torch.bfloat16 if mm.should_use_bf16(self.device) else torch.float16)

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        return self.model.model_sampling.sigmas[timesteps.cpu()].to(self.device).view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return latents + noise * self._sigmas(timesteps)

    def predict_noise(
        self, noisy: Tensor, timesteps: Tensor, context_k: Tensor, context_v: Tensor, samples: Sequence[int] | None = None
    ) -> Tensor:
        # Taken apart at once: the gradient of a layer that is indexed is as large as all of them, filled with zeros.
        layers_k, layers_v = context_k.unbind(), context_v.unbind()
        last = len(layers_k) - 1

        def contexts(layer: int, _context: Tensor) -> tuple[Tensor, Tensor]:
            return layers_k[min(layer, last)], layers_v[min(layer, last)]

        options = {
            "patches": {"attn2_patch": [context_patch(contexts)]},
            "optimized_attention_override": force_differentiable_attention,
        }
        sigmas = self._sigmas(timesteps)
        with self._trunk.shared_by(samples), self._precision():
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
