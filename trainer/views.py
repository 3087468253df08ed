"""How photos are varied before they are encoded: mirrored, or scaled and placed as Custom Diffusion does it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .dataset import Bucket, Photos, latent_masks, same_shapes, step_generator
from .methods import FLIPPED, PLACED
from .settings import TrainingSettings

PLACED_VIEWS = 20  # Custom Diffusion draws anew in each step; photos are encoded once here, so views are drawn once
_GREY, _EDGE = 0.5, 8  # the canvas; pixels of a placed photo's edge that are not counted, as the VAE mixes them with the canvas
_FAR, _CLOSE = ("a far away {}", "very small {}"), ("zoomed in {}", "close up {}")


@dataclass(frozen=True, eq=False)
class View:
    """Photos of one shape in one variation.

    images: (k, H, W, 3). masks: (k, H, W), what counts. wording: the prompt's, `{}` is the rest.
    """

    images: Tensor
    masks: Tensor
    wording: str = "{}"


def photo_views(images: Tensor, masks: Tensor | None, settings: TrainingSettings) -> Iterator[View]:
    """The variations of photos (k, H, W, 3) with masks (k, H, W) that a method trains on; the first is the plain one."""
    masks = torch.ones(images.shape[:3]) if masks is None else masks
    yield View(images, masks)
    if settings.views == FLIPPED:
        yield View(images.flip(2), masks.flip(2))
    elif settings.views == PLACED:
        for number in range(1, PLACED_VIEWS):
            yield _placed(images, number, step_generator(settings.seed, f"view {number}"))


def _placed(images: Tensor, number: int, generator: torch.Generator) -> View:
    """Photos scaled and put somewhere: two of three small, on grey, where only they count; one of three cut out larger.

    (Custom Diffusion's augmentation: a share of 0.66 at a third to the whole of the size, the rest at 1.2 to 1.4 times; beyond
    0.6 and 1 the prompt says so.)
    """
    chance, spread, top, left, mirrored = torch.rand(5, generator=generator).tolist()
    scale = 1 / 3 + spread * 2 / 3 if chance < 0.66 else 1.2 + spread * 0.2
    height, width = images.shape[1:3]
    size = [round(scale * side) for side in (height, width)]
    pixels = (images.flip(2) if mirrored < 0.5 else images).movedim(-1, 1)
    scaled = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1).movedim(1, -1)
    y, x = (round(abs(own - side) * at) for own, side, at in zip(size, (height, width), (top, left), strict=True))
    if scale > 1:
        wording = _CLOSE[number % 2]
        return View(scaled[:, y : y + height, x : x + width], torch.ones(images.shape[:3]), wording)
    canvas, masks = torch.full_like(images, _GREY), torch.zeros(images.shape[:3])
    canvas[:, y : y + size[0], x : x + size[1]] = scaled
    masks[:, y + _EDGE : y + size[0] - _EDGE, x + _EDGE : x + size[1] - _EDGE] = 1
    return View(canvas, masks, _FAR[number % 2] if scale < 0.6 else "{}")


def cache_photos(
    images: Sequence[Tensor], masks: Sequence[Tensor] | None, encode: Callable[[Tensor], Tensor], settings: TrainingSettings
) -> Photos:
    """Encode every view of every photo; those of one shape together.

    Args:
        images: n of (H, W, 3) in 0..1.
        masks: n of (H, W) in 0..1, or None where the method uses none.
        encode: (k, H, W, 3) -> (k, 4, h, w) latents, scaled.
    """
    buckets = []
    for numbers in same_shapes(tuple(image.shape) for image in images):
        own_masks = None if masks is None else torch.stack([masks[n] for n in numbers])
        latents, small, wordings = [], [], []
        for view in photo_views(torch.stack([images[n] for n in numbers]), own_masks, settings):
            latents.append(encode(view.images).float())
            height, width = latents[0].shape[-2:]
            small.append(latent_masks(view.masks, (height, width), settings.mask_resize, settings.mask_dilation))
            wordings.append(view.wording)
        together = torch.stack(latents)
        buckets.append(Bucket(tuple(numbers), together, torch.stack(small).to(together), tuple(wordings)))
    return Photos(tuple(buckets))
