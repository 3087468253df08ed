"""The IMAGE and MASK inputs as training photos: checked, then resized without distortion."""

import math

import torch.nn.functional as F
from torch import Tensor

from ...trainer.dataset import mask_problems

_STEP = 64  # the U-Net halves latents three times: sides are multiples of 8 latents
_WIDEST = math.log(2)  # beyond 2:1 the model has seen little
_MUCH = 0.1  # of a photo; people are told when more is cut away


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


def photo_sizes(images: list[Tensor], resolution: int, aspect: str) -> list[tuple[int, int]]:
    """Height and width that each photo (H, W, C) is trained at, multiples of 64 with about `resolution`² pixels.

    aspect: `crop` gives all photos one shape, the mean one. With `buckets` they keep their own, between 1:2 and 2:1, but share
    another's where they lose a tenth at most in it: a step is on photos of one shape, and should have several to choose from.
    """
    ratios = [math.log(image.shape[0] / image.shape[1]) for image in images]
    if aspect == "crop":
        return [_size(sum(ratios) / len(ratios), resolution)] * len(images)
    own = [_size(max(-_WIDEST, min(_WIDEST, ratio)), resolution) for ratio in ratios]
    left, chosen = list(range(len(images))), []
    while left:
        fitting = {size: [n for n in left if own[n] == size or lost_share(images[n], size) <= _MUCH] for size in own}
        best = max(dict.fromkeys(own[n] for n in left), key=lambda size: len(fitting[size]))
        chosen.append(best)
        left = [n for n in left if n not in fitting[best]]
    return [nearest_size(image, chosen) for image in images]


def nearest_size(image: Tensor, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Of some (height, width) the one that cuts least off a photo (H, W, C)."""
    return min(sizes, key=lambda size: lost_share(image, size))


def lost_share(image: Tensor, size: tuple[int, int]) -> float:
    """The share of a photo (H, W, C) that `fit` cuts away."""
    ratio = (image.shape[1] / image.shape[0]) / (size[1] / size[0])
    return 1 - min(ratio, 1 / ratio)


def _size(log_ratio: float, resolution: int) -> tuple[int, int]:
    """Height and width of a shape, given as log(height / width)."""
    root = math.exp(log_ratio / 2)
    height, width = (max(_STEP, round(side / _STEP) * _STEP) for side in (resolution * root, resolution / root))
    return height, width


def resize_photos(
    images: list[Tensor], masks: list[Tensor] | None, sizes: list[tuple[int, int]]
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Photos (H, W, 3) and masks (H, W), each scaled to cover its size and cropped at the centre. Nothing is stretched."""
    photos = [fit(image, size) for image, size in zip(images, sizes, strict=True)]
    if masks is None:
        return photos, None
    pairs = zip(masks, sizes, strict=True)
    return photos, [_cover(mask[None, None], size, mode="bilinear")[0, 0].clamp(0, 1) for mask, size in pairs]


def cut_note(images: list[Tensor], sizes: list[tuple[int, int]]) -> str:
    """What a person should know of photos that lose more than a tenth; empty if none does."""
    shares = [lost_share(image, size) for image, size in zip(images, sizes, strict=True)]
    lost = [
        f"image {i} loses {share:.0%} as {width} x {height}"
        for i, (share, (height, width)) in enumerate(zip(shares, sizes, strict=True), 1)
        if share > _MUCH
    ]
    if not lost:
        return ""
    shown = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
    return f"photos are cut to fit ({shown}; Crop To Subject chooses better)"


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
