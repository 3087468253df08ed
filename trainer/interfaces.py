"""What a host must offer so that a token can be trained on it: a frozen text encoder and a frozen U-Net, both opened up."""

from typing import Protocol

import torch
from torch import Tensor


class TextEncoder(Protocol):
    """The frozen CLIP text model, opened where NeTI needs it. Everything is differentiable with respect to inputs."""

    width: int
    bos: int
    eos: int
    length: int  # positions of a sequence, 77

    @property
    def device(self) -> torch.device:
        """Where it computes, and where the learnable tokens live."""

    def tokenize(self, text: str) -> list[int]:
        """Vocabulary ids of a piece of text, without start and end tokens."""

    def embed(self, ids: Tensor) -> Tensor:
        """(N, S) ids -> (N, S, width) float32 token embeddings, positions not yet added."""

    def hidden_states(self, embeddings: Tensor) -> Tensor:
        """(N, S, width) token embeddings -> (N, S, width) states before the final LayerNorm."""

    def final_layer_norm(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""


class UNet(Protocol):
    """The frozen noise predictor, with gradients into its contexts."""

    loss_scale: float  # above 1 where half precision would lose small gradients

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of (B, 4, h, w) latents at (B,) timesteps."""

    def predict_noise(self, noisy: Tensor, timesteps: Tensor, context_k: Tensor, context_v: Tensor) -> Tensor:
        """eps of (B, 4, h, w); contexts (layers, B, S, width), one layer standing for all 16."""
