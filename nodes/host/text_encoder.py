"""The host's CLIP text model, opened as the trainer's `TextEncoder`: one encode path for training and use."""

import inspect
from collections.abc import Callable
from functools import cache

import comfy.model_management as mm
import comfy.ops
import torch
from comfy.clip_model import ACTIVATIONS, CLIPMLP
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...trainer.interfaces import Past

QUICK_GELU = 1.702  # x * sigmoid(1.702 x)


def force_differentiable_attention(
    _function: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: object, **kwargs: object
) -> Tensor:
    """`optimized_attention_override`: the backward pass of sage, flash and chunked attention is missing or wrong."""
    if _prefers_cudnn(q.device) and not args and kwargs.get("mask") is None:
        split = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v)]
        with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
            return torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    return attention_pytorch(q, k, v, heads, *args, **kwargs)


_CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@cache
def _prefers_cudnn(device: torch.device) -> bool:
    """Whether cuDNN's attention is the fastest that differentiates: on Hopper and later (a U-Net pass 13 % faster, H200)."""
    known = "set_priority" in inspect.signature(sdpa_kernel).parameters
    return known and device.type == "cuda" and bool(torch.version.cuda) and torch.cuda.get_device_capability(device)[0] >= 9


def _mlp(mlp: CLIPMLP, x: Tensor) -> Tensor:
    """As the host's; quick GELU by silu, in place: one tensor is kept for the backward pass, in the host's form three."""
    inner = mlp.fc1(x)
    if mlp.activation is ACTIVATIONS["quick_gelu"]:
        return mlp.fc2(torch.nn.functional.silu(inner.mul_(QUICK_GELU)).div_(QUICK_GELU))
    return mlp.fc2(mlp.activation(inner))


class HostTextEncoder:
    """SD1.x CLIP-L of a patcher, layer by layer; see `trainer.conditioning.TextEncoder`.

    The host's own forward pass adds in place, which breaks gradients, and ends with the final LayerNorm, before which NeTI's
    bypass has to be added. This one agrees with it up to rounding, clip skip included.
    """

    def __init__(self, clip: CLIP, patcher: ModelPatcher | None = None):
        """clip: gives tokenizer and clip skip. patcher: gives the weights; by default the clip's own."""
        self.patcher = patcher or clip.patcher
        stage = self.patcher.model
        sd_clip = getattr(stage, stage.clip)
        tokenizer = getattr(clip.tokenizer, clip.tokenizer.clip)
        self._model = sd_clip.transformer.text_model
        self._tokenizer = tokenizer
        self.length = sd_clip.max_length
        self.bos, self.eos = sd_clip.special_tokens["start"], sd_clip.special_tokens["end"]
        self.width = self._model.final_layer_norm.weight.shape[0]
        layers = self._model.encoder.layers
        skip = clip.layer_idx
        used = len(layers) if skip is None or abs(skip) > len(layers) else (len(layers) + skip) % len(layers) + 1
        self._layers = list(layers)[:used]
        self.compute_dtype = torch.float32

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def use_half_precision(self) -> None:
        """For training on a GPU: the layers' products in bfloat16 where it has that; residual stream, norms and tokens stay in
        float32. float16 would lose the gradients, which are small."""
        if self.device.type == "cuda" and mm.should_use_bf16(self.device):
            self.compute_dtype = torch.bfloat16

    def sample_weights(self) -> list[Tensor]:
        """Some weights that tell text encoders (and the LoRAs in them) apart."""
        return [layer.self_attn.q_proj.weight.float() for layer in self._layers]

    def tokenize(self, text: str) -> list[int]:
        ids = self._tokenizer.tokenizer(text)["input_ids"]
        return ids[self._tokenizer.tokens_start : -1 if self._tokenizer.tokenizer_adds_end_token else None]

    def is_word(self, text: str) -> bool:
        """Whether `text` is a single token of the vocabulary."""
        return len(self.tokenize(text)) == 1

    def embed(self, ids: Tensor) -> Tensor:
        return self._model.embeddings.token_embedding(ids.to(self.device), out_dtype=torch.float32)

    def read(self, embeddings: Tensor) -> tuple[Tensor, Past]:
        past: Past = []
        return self._forward(embeddings, None, past), past

    def hidden_states(self, embeddings: Tensor, past: Past | None = None) -> Tensor:
        return self._forward(embeddings, past, None)

    def _forward(self, embeddings: Tensor, past: Past | None, seen: Past | None) -> Tensor:
        """seen: gets each layer's keys and values."""
        start = past[0][0].shape[1] if past else 0
        stop = start + embeddings.shape[1]
        positions = self._model.embeddings.position_embedding.weight[start:stop]
        hidden = embeddings + comfy.ops.cast_to(positions, dtype=embeddings.dtype, device=embeddings.device)
        causal = torch.full((stop, stop), -torch.inf, dtype=self.compute_dtype, device=hidden.device).triu_(1)[start:]
        for number, layer in enumerate(self._layers):
            attention, normed = layer.self_attn, layer.layer_norm1(hidden).to(self.compute_dtype)
            q, k, v = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
            if seen is not None:
                seen.append((k, v))
            if past:
                k, v = (torch.cat([old, new], dim=1) for old, new in zip(past[number], (k, v), strict=True))
            hidden = hidden + attention.out_proj(attention_pytorch(q, k, v, attention.heads, causal)).to(hidden)
            hidden = hidden + _mlp(layer.mlp, layer.layer_norm2(hidden).to(self.compute_dtype)).to(hidden)
        return hidden

    def final_layer_norm(self, hidden: Tensor) -> Tensor:
        return self._model.final_layer_norm(hidden)
