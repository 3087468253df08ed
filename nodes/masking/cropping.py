"""Cropping to a square: at the centre, or around the subject. Nothing is ever stretched."""

import torch
import torch.nn.functional as F
from torch import Tensor

WHERE = ("around the subject", "centre")


def subject_box(mask: Tensor) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of what is above 0.5 in a mask (H, W), right and bottom exclusive; None if nothing is."""
    rows, columns = (mask > 0.5).any(1).nonzero().flatten(), (mask > 0.5).any(0).nonzero().flatten()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def square_around(height: int, width: int, box: tuple[int, int, int, int] | None, margin: float) -> tuple[int, int, int]:
    """Left, top and side of the square to cut out.

    box: of the subject; the square contains it with `margin` (a fraction of its longer side) on each side, centred on it where
        possible, but stays inside the image. None: the largest square at the centre.

    A subject longer than the image's shorter side does not fit: the square is then the largest possible.
    """
    largest = min(height, width)
    if box is None:
        return (width - largest) // 2, (height - largest) // 2, largest
    left, top, right, bottom = box
    side = min(largest, max(1, round(max(right - left, bottom - top) * (1 + 2 * margin))))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    return min(max(x, 0), width - side), min(max(y, 0), height - side), side


def crop(image: Tensor, mask: Tensor, square: tuple[int, int, int], resolution: int) -> tuple[Tensor, Tensor]:
    """Cut a square out of image (H, W, C) and mask (H, W) and scale it to `resolution` pixels a side."""
    left, top, side = square

    def scaled(pixels: Tensor, mode: str) -> Tensor:
        cut = pixels[None, :, top : top + side, left : left + side]
        return F.interpolate(cut, (resolution, resolution), mode=mode, antialias=True, align_corners=False)[0].clamp(0, 1)

    return scaled(image.movedim(-1, 0), "bicubic").movedim(0, -1), scaled(mask[None], "bilinear")[0]


def empty_mask(image: Tensor) -> Tensor:
    """(H, W) zeros: they stand for "no mask"."""
    return torch.zeros(image.shape[:2])
