"""The training photos as cached latents and masks, and the random draws of a step."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import TrainingSettings

TIMESTEPS = 1000  # t ~ U{0..999}


@dataclass(frozen=True, eq=False)
class Photos:
    """Every photo once per view (as it is, and mirrored if flipping is on), encoded once per run.

    latents: (views, n, 4, h, w) float32, scaled as the U-Net takes them.
    masks: (views, n, 1, h, w) float32 in 0..1, 1 on the subject (M_s of Eq. 4; M_b = 1 - M_s).
    """

    latents: Tensor
    masks: Tensor

    @property
    def count(self) -> int:
        return self.latents.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.latents.shape[-2:]
        return height, width


def latent_masks(masks: Tensor, size: tuple[int, int], resize: str = "area", dilation: int = 0) -> Tensor:
    """Subject masks of photos, brought to the latent grid.

    Args:
        masks: (n, H, W) in 0..1 at the photos' size.
        size: (h, w) of the latents.
        resize: `area` averages (soft masks), `nearest` picks the pixel in the middle.
        dilation: pixels by which the subject grows first.

    Returns:
        (n, 1, h, w) float32.
    """
    masks = masks[:, None].float()
    if dilation > 0:
        masks = F.max_pool2d(masks, 2 * dilation + 1, stride=1, padding=dilation)
    # Plain "nearest" takes each cell's top left pixel, which shifts the subject by half a cell.
    return F.interpolate(masks, size=size, mode="nearest-exact" if resize == "nearest" else resize)


def cache_photos(
    images: Tensor, masks: Tensor | None, encode: Callable[[Tensor], Tensor], settings: TrainingSettings
) -> Photos:
    """Encode every photo, and its mirror image if `settings.flip`.

    Args:
        images: (n, H, W, 3) in 0..1.
        masks: (n, H, W) in 0..1, or None where the method uses none.
        encode: (n, H, W, 3) -> (n, 4, h, w) latents, scaled.
    """
    views = [images, images.flip(2)] if settings.flip else [images]
    latents = torch.stack([encode(view).float() for view in views])
    if masks is None:
        masks = torch.ones(images.shape[:3])
    mask_views = [masks, masks.flip(2)] if settings.flip else [masks]
    height, width = latents.shape[-2:]
    small = [latent_masks(view, (height, width), settings.mask_resize, settings.mask_dilation) for view in mask_views]
    return Photos(latents, torch.stack(small).to(latents))


def mask_problems(masks: list[Tensor]) -> list[str]:
    """Masks (H, W) that would leave a loss without pixels, each by the number of its image (from 1)."""
    found = []
    for i, mask in enumerate(masks):
        share, name = mask.float().mean().item(), f"image {i + 1}"
        if share < 1e-4:
            found.append(
                f"masks: the mask of {name} is empty, so there is no subject to learn from. Paint or "
                "detect the subject in it, or leave the image out."
            )
        elif share > 1 - 1e-4:
            found.append(
                f"masks: the mask of {name} covers the whole image, so there is no background for the "
                "attractor. Mask the subject only (MASK is 1 on the subject), or leave the image out."
            )
    return found


def step_generator(seed: int, step: int | str) -> torch.Generator:
    """The random numbers of one step, a function of seed and step alone: a resumed run draws the same ones."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """B draws: photo index (B,), latents and noise (B, 4, h, w), masks (B, 1, h, w), timesteps (B,) int64."""

    photos: list[int]
    latents: Tensor
    masks: Tensor
    noise: Tensor
    timesteps: Tensor


def draw_batch(photos: Photos, batch_size: int, generator: torch.Generator) -> Batch:
    """B photos (every one before any twice), views, timesteps t ~ U{0..999} and noise ~ N(0, I)."""
    rounds = -(-batch_size // photos.count)
    order = torch.cat([torch.randperm(photos.count, generator=generator) for _ in range(rounds)])[:batch_size]
    views = torch.randint(len(photos.latents), (batch_size,), generator=generator)
    timesteps = torch.randint(TIMESTEPS, (batch_size,), generator=generator)
    return _gather(photos, order, views, timesteps, generator)


def fixed_batch(photos: Photos, batch_size: int, seed: int) -> Batch:
    """A batch that never changes in a run: photos in turn, unflipped, timesteps spread evenly (after DVAR)."""
    generator = step_generator(seed, "fixed")
    order = torch.arange(batch_size) % photos.count
    spread = (torch.arange(batch_size) + 0.5) / batch_size * TIMESTEPS
    return _gather(photos, order, torch.zeros_like(order), spread.long(), generator)


def _gather(photos: Photos, order: Tensor, views: Tensor, timesteps: Tensor, generator: torch.Generator) -> Batch:
    latents = photos.latents[views, order]
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return Batch(order.tolist(), latents, photos.masks[views, order], noise, timesteps)
