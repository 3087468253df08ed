"""The IMAGE and MASK inputs as training photos: checked, then resized without distortion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..trainer.dataset import mask_problems

_STEP = 64  # the U-Net halves latents three times: sides are multiples of 8 latents


def photo_problems(images: Tensor, masks: Tensor | None, needs_masks: bool) -> list[str]:
    """What is wrong with the photos and masks of a run; empty if nothing is."""
    if not needs_masks:
        return []
    if masks is None:
        return ["masks: this method learns subject and background apart and needs one mask per image. Wire MASK, or "
                "choose the method 'neti' or 'textual_inversion', which need none."]
    if len(masks) != len(images):
        return [f"masks: there are {len(images)} images and {len(masks)} masks. Wire one mask per image, in order."]
    if masks.shape[1:] != images.shape[1:3]:
        return [f"masks: their size is {masks.shape[2]} x {masks.shape[1]}, the images' {images.shape[2]} x "
                f"{images.shape[1]}. Wire masks made from these very images."]
    return mask_problems(masks)


def training_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width near the photos' shape with about `resolution`² pixels, multiples of 64."""
    ratio = math.sqrt(height / width)
    return tuple(max(_STEP, round(side / _STEP) * _STEP) for side in (resolution * ratio, resolution / ratio))


def resize_photos(images: Tensor, masks: Tensor | None, resolution: int) -> tuple[Tensor, Tensor | None]:
    """Photos (n, H, W, 3) and masks (n, H, W) scaled to cover `training_size` and cropped at the centre.

    The shape follows the photos', so at most half of 64 pixels' worth is cut, and nothing is stretched.
    """
    size = training_size(images.shape[1], images.shape[2], resolution)
    scaled = _cover(images[..., :3].movedim(-1, 1), size, mode="bicubic").movedim(1, -1).clamp(0, 1)
    return scaled, None if masks is None else _cover(masks[:, None], size, mode="bilinear")[:, 0].clamp(0, 1)


def _cover(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(n, c, H, W) scaled to cover `size` and cropped at the centre."""
    scale = max(size[0] / pixels.shape[2], size[1] / pixels.shape[3])
    shape = [max(side, round(own * scale)) for side, own in zip(size, pixels.shape[2:], strict=True)]
    scaled = F.interpolate(pixels, size=shape, mode=mode, antialias=True, align_corners=False)
    top, left = ((own - side) // 2 for side, own in zip(size, shape, strict=True))
    return scaled[:, :, top : top + size[0], left : left + size[1]].clone()


def plain_copy(tensor: Tensor | None) -> Tensor | None:
    """An ordinary float32 CPU tensor: what upstream nodes give cannot meet autograd."""
    return None if tensor is None else torch.empty(tensor.shape).copy_(tensor)
