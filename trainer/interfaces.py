"""What a host must offer so that a token can be trained on it: a frozen text encoder and a frozen U-Net, both opened up."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

Past = list[tuple[Tensor, Tensor]]  # of each text layer: keys and values (N, P, width) of the first P positions


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

    def read(self, embeddings: Tensor) -> tuple[Tensor, Past]:
        """(N, P, width) embeddings of the first P positions -> their states before the final LayerNorm, and what later
        positions see of them."""

    def hidden_states(self, embeddings: Tensor, past: Past | None = None) -> Tensor:
        """(N, S, width) token embeddings -> (N, S, width) states before the final LayerNorm; with the `past` of P positions,
        (N, S - P, width) of the positions after them."""

    def final_layer_norm(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""


class UNet(Protocol):
    """The frozen noise predictor, with gradients into its contexts."""

    loss_scale: float  # above 1 where half precision would lose small gradients

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def tunable(self, learns: str) -> dict[str, Tensor]:
        """The tensors that a method may learn, by their names in the U-Net: `keys_values` of the cross-attentions, all
        `weights`, or those of attention that get `low_rank` additions."""

    def tuned(self, tensors: Mapping[str, Tensor], detach_start: bool = False) -> AbstractContextManager[None]:
        """For as long as this lasts, predictions are made with these tensors instead of the U-Net's own, with gradients into
        them. A backward pass that recomputes parts must end in it.

        detach_start: no gradient from keys and values of the start token (Custom Diffusion).
        """

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of (B, 4, h, w) latents at (B,) timesteps."""

    def predict_noise(
        self, noisy: Tensor, timesteps: Tensor, context_k: Tensor, context_v: Tensor, samples: Sequence[int]
    ) -> Tensor:
        """eps of (R, 4, h, w); contexts (layers, R, S, width), one layer standing for all 16.

        samples: of each row; rows of one sample have the same z_t, and differ in their contexts only.
        """
