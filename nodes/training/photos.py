"""The IMAGE and MASK inputs as training photos: checked, then resized without distortion."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...trainer.dataset import mask_problems

_STEP = 64  # the U-Net halves latents three times: sides are multiples of 8 latents


def photo_problems(images: list[Tensor], masks: list[Tensor] | None, needs_masks: bool) -> list[str]:
    """What is wrong with photos (H, W, C) and masks (H, W) of a run; empty if nothing is."""
    if not needs_masks:
        return []
    if not masks:
        return [
            "masks: this method learns subject and background apart and needs one mask per image. Wire MASK, or "
            "choose the method 'neti' or 'textual_inversion', which need none."
        ]
    if len(masks) != len(images):
        return [f"masks: there are {len(images)} images and {len(masks)} masks. Wire one mask per image, in order."]
    unfit = [
        f"masks: the mask of image {i} is {mask.shape[1]} x {mask.shape[0]} pixels, the image {image.shape[1]} x "
        f"{image.shape[0]}. Wire masks made from these very images."
        for i, (image, mask) in enumerate(zip(images, masks, strict=True), 1)
        if mask.shape != image.shape[:2]
    ]
    return mask_problems(masks) or unfit  # Load Image gives an empty mask of 64 x 64 where nothing is painted


def training_size(images: list[Tensor], resolution: int) -> tuple[int, int]:
    """Height and width of the photos' mean shape with about `resolution`² pixels, multiples of 64."""
    ratio = math.exp(sum(math.log(image.shape[0] / image.shape[1]) for image in images) / len(images) / 2)
    height, width = (max(_STEP, round(side / _STEP) * _STEP) for side in (resolution * ratio, resolution / ratio))
    return height, width


def resize_photos(images: list[Tensor], masks: list[Tensor] | None, resolution: int) -> tuple[Tensor, Tensor | None]:
    """Photos (n, H, W, 3) and masks (n, H, W), scaled to cover `training_size` and cropped at the centre.

    Nothing is stretched. Photos of one shape lose at most half of 64 pixels' worth.
    """
    size = training_size(images, resolution)
    photos = torch.stack([fit(image, size) for image in images])
    if masks is None:
        return photos, None
    resized = [_cover(mask[None, None], size, mode="bilinear")[:, 0] for mask in masks]
    return photos, torch.cat(resized).clamp(0, 1)


def lost_shares(images: list[Tensor], resolution: int) -> list[float]:
    """The share of each photo that `resize_photos` cuts away."""
    height, width = training_size(images, resolution)
    ratios = [(image.shape[1] / image.shape[0]) / (width / height) for image in images]
    return [1 - min(ratio, 1 / ratio) for ratio in ratios]


def cut_note(images: list[Tensor], resolution: int) -> str:
    """What a person should know of photos that lose more than a tenth; empty if none does."""
    lost = [f"image {i} loses {share:.0%}" for i, share in enumerate(lost_shares(images, resolution), 1) if share > 0.1]
    if not lost:
        return ""
    height, width = training_size(images, resolution)
    shown = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
    return f"photos of differing shapes are cut to {width} x {height} ({shown}; Crop To Subject chooses better)"


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A photo (H, W, C) as (*size, 3), scaled to cover `size` and cropped at the centre."""
    return _cover(image[None, ..., :3].movedim(-1, 1), size, mode="bicubic")[0].movedim(0, -1).clamp(0, 1)


def _cover(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(n, c, H, W) scaled to cover `size` and cropped at the centre."""
    scale = max(size[0] / pixels.shape[2], size[1] / pixels.shape[3])
    shape = [max(side, round(own * scale)) for side, own in zip(size, pixels.shape[2:], strict=True)]
    scaled = F.interpolate(pixels, size=shape, mode=mode, antialias=True, align_corners=False)
    top, left = ((own - side) // 2 for side, own in zip(size, shape, strict=True))
    return scaled[:, :, top : top + size[0], left : left + size[1]]
