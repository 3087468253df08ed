"""NeTI's mapper: from denoising time and U-Net layer to a token embedding and a textual bypass.

Follows NeuralTextualInversion/NeTI (models/neti_mapper.py, positional_encoding.py); module names are the official
ones, so that official weights fit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIMESTEPS = 1000


class FourierEncoding(nn.Module):
    """Random Fourier features of (t, l); t is the raw 0..999. The frequencies are never trained."""

    w: Tensor  # (num_w, 2)

    def __init__(self, num_w: int = 1024, sigma_t: float = 0.03, sigma_l: float = 2.0):
        super().__init__()
        self.register_buffer("w", torch.randn(num_w, 2) * torch.tensor([sigma_t, sigma_l]))

    def forward(self, timesteps: Tensor, layers: Tensor) -> Tensor:
        """(R,), (R,) -> (R, 2 * num_w) of unit norm; always float32, as half precision blurs t by percents."""
        w = self.w.float()
        angles = w[:, 0] * timesteps.float()[:, None] + w[:, 1] * layers.float()[:, None]
        return torch.cat([angles.sin(), angles.cos()], dim=1) / len(w) ** 0.5


class BasicEncoding(nn.Module):
    """Time and layer scaled to -1..1 (NeTI without positional encoding)."""

    def __init__(self, layers: int = 16):
        super().__init__()
        self._last_layer = layers - 1

    def forward(self, timesteps: Tensor, layers: Tensor) -> Tensor:
        """(R,), (R,) -> (R, 2)."""
        return torch.stack([2 * timesteps.float() / (TIMESTEPS - 1) - 1, 2 * layers.float() / self._last_layer - 1], 1)


class NeTIMapper(nn.Module):
    count = 1  # vectors

    """(t, l) -> encoding -> anchors -> two hidden layers -> token embedding and bypass.

    Args:
        width: of the text encoder.
        bypass: also give a bypass vector, for the V contexts.
        positional: Fourier features; otherwise t and l as they are.
        norm_scale: norm of the whole output, embedding and bypass together (official behaviour); None: free.
        time_anchors: the anchor matrix holds this many times, at each layer.
        nested_dropout: probability it was trained with; at 0 `truncation` has no meaning and no effect.
        seed: of the initialisation, which then leaves the global random state alone.
    """

    encoder: FourierEncoding | BasicEncoding
    count = 1  # of vectors that it gives

    def __init__(
        self,
        width: int = 768,
        *,
        bypass: bool = True,
        positional: bool = True,
        norm_scale: float | None = None,
        hidden: int = 128,
        num_w: int = 1024,
        sigma_t: float = 0.03,
        sigma_l: float = 2.0,
        time_anchors: int = 10,
        layers: int = 16,
        nested_dropout: float = 0.5,
        seed: int | None = None,
    ):
        super().__init__()
        self.config = {
            "width": width,
            "bypass": bypass,
            "positional": positional,
            "norm_scale": norm_scale,
            "hidden": hidden,
            "num_w": num_w,
            "sigma_t": sigma_t,
            "sigma_l": sigma_l,
            "time_anchors": time_anchors,
            "layers": layers,
            "nested_dropout": nested_dropout,
        }
        self.width, self.hidden, self.norm_scale, self.nested_dropout = width, hidden, norm_scale, nested_dropout
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.encoder = FourierEncoding(num_w, sigma_t, sigma_l) if positional else BasicEncoding(layers)
            self.input_layer = nn.Linear(2 * num_w, time_anchors * layers) if positional else nn.Identity()
            entry = time_anchors * layers if positional else 2
            self.net = nn.Sequential(
                nn.Linear(entry, hidden),
                nn.LayerNorm(hidden),
                nn.LeakyReLU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.LeakyReLU(),
            )
            self.output_layer = nn.Linear(hidden, width * (2 if bypass else 1))
        if isinstance(self.input_layer, nn.Linear):
            times = torch.arange(0, TIMESTEPS, TIMESTEPS // time_anchors)[:time_anchors]
            grid = torch.cartesian_prod(times, torch.arange(layers))
            self.input_layer.weight.data.copy_(self.encoder(grid[:, 0], grid[:, 1]))

    def hidden_state(self, timesteps: Tensor, layers: Tensor) -> Tensor:
        """(R,), (R,) -> (R, hidden), what nested dropout truncates."""
        return self.net(self.input_layer(self.encoder(timesteps, layers)))

    def forward(
        self, timesteps: Tensor, layers: Tensor, truncation: int | Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Embedding and bypass at R pairs.

        Args:
            timesteps, layers: (R,) times 0..999 and layers 0..15.
            truncation: hidden units to keep, for all rows or (R,) for each; `hidden` or None keeps all.

        Returns:
            embedding (R, width), bypass (R, width) or None.
        """
        state = self.hidden_state(timesteps, layers)
        if truncation is not None and self.nested_dropout > 0:
            kept = torch.as_tensor(truncation, device=state.device).reshape(-1, 1)
            state = state * (torch.arange(self.hidden, device=state.device) < kept)
        output = self.output_layer(state)
        if self.norm_scale is not None:
            output = F.normalize(output, dim=-1) * self.norm_scale
        return output[:, : self.width], output[:, self.width :] if self.config["bypass"] else None


def draw_nested_dropout(rows: int, calls: int, generator: torch.Generator, probability: float, hidden: int) -> Tensor:
    """Hidden units kept (calls, rows) int64: one gate a call, one index in 0..hidden-1 a row if it opens.

    Draws the same amount of random numbers whatever the gates say.
    """
    gates = torch.rand(calls, 1, generator=generator) < probability
    kept = torch.randint(hidden, (calls, rows), generator=generator)
    return torch.where(gates, kept, hidden)
