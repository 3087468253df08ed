"""The toy world's autoencoder: 8x smaller, 4 latent channels, as SD1.5's, at a hundredth of its size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Autoencoder(nn.Module):
    """Pixels (B, 3, H, W) in -1..1 to latents (B, 4, H/8, W/8) and back.

    Latents are stored divided by SD1.5's scale, so that the host's SD15 latent format brings them to a deviation of about 1.
    """

    def __init__(self, fine: int = 64, coarse: int = 96):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            _Block(fine),
            _Block(fine),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            _Block(coarse),
            _Block(coarse),
            nn.Conv2d(coarse, 4, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(4, coarse, 3, padding=1),
            _Block(coarse),
            _Block(coarse),
            _Block(coarse),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(coarse, fine, 3, padding=1),
            _Block(fine),
            _Block(fine),
            _Block(fine),
            nn.GroupNorm(8, fine),
            nn.SiLU(),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.register_buffer("latent_scale", torch.tensor(1.0))
        self.register_buffer("latent_mean", torch.zeros(4))

    def encode(self, pixels: Tensor) -> Tensor:
        raw = self.encoder(pixels)
        return (raw - self.latent_mean[:, None, None]) * self.latent_scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents / self.latent_scale + self.latent_mean[:, None, None])


def reconstruction_loss(restored: Tensor, pixels: Tensor) -> Tensor:
    """L1 on pixels, and on their differences to neighbours, which keeps edges sharp."""
    loss = F.l1_loss(restored, pixels)
    for axis in (-1, -2):
        loss = loss + F.l1_loss(restored.diff(dim=axis), pixels.diff(dim=axis))
    return loss
