"""The host's CLIP text model, opened as the trainer's `TextEncoder`: one encode path for training and use."""

from collections.abc import Callable

import comfy.ops
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor


def force_differentiable_attention(_function: Callable, *args: object, **kwargs: object) -> Tensor:
    """`optimized_attention_override`: the backward pass of sage, flash and chunked attention is missing or wrong."""
    return attention_pytorch(*args, **kwargs)


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

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

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

    def hidden_states(self, embeddings: Tensor) -> Tensor:
        positions = self._model.embeddings.position_embedding.weight
        hidden = embeddings + comfy.ops.cast_to(positions, dtype=embeddings.dtype, device=embeddings.device)
        size = hidden.shape[1]
        causal = torch.full((size, size), -torch.finfo(hidden.dtype).max, dtype=hidden.dtype, device=hidden.device)
        causal = causal.triu_(1)
        for layer in self._layers:
            hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), causal, attention_pytorch)
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return hidden

    def final_layer_norm(self, hidden: Tensor) -> Tensor:
        return self._model.final_layer_norm(hidden)
