"""Whether two picture files show the same photo, whatever their format, size and quality."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..pictures import read_picture, to_picture

_SIDE = 8
_SAME_SHAPE = 0.04  # of the aspect ratio: a resized photo's sides are rounded
# Mean difference in 0..1. Measured on small photos, where it is largest: up to 0.007 after shrinking to a third at WebP
# quality 50, and 0.005 after milder changes; 0.013 for a camera that moved by 1.4 % of the photo's width; 0.057 and more
# between different photos.
_SAME_PIXELS = 0.01
_SAME_CELL = 0.06  # of no cell more than this (measured: 0.026): a small thing in another pose on plain ground is another photo


@dataclass(frozen=True, eq=False)
class Look:
    """thumbnail: (8, 8, 3) float32 in 0..1. ratio: width / height of the whole photo."""

    thumbnail: np.ndarray
    ratio: float


def look_at(path: Path) -> Look:
    """Look at a picture file; reads it to its end.

    Raises:
        BadPicture: as `read_picture`.
    """
    pixels, _, _ = read_picture(path, 32 * _SIDE)
    picture = to_picture(pixels[None])
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return Look(np.asarray(small, dtype=np.float32) / 255, picture.width / picture.height)


def look_at_pixels(image: Tensor) -> Look:
    """The same for a photo (H, W, C) in 0..1 in memory, of at least 8 pixels a side."""
    small = F.interpolate(image[None, ..., :3].movedim(-1, 1).float(), (_SIDE, _SIDE), mode="area")[0].movedim(0, -1)
    return Look(small.numpy(), image.shape[1] / image.shape[0])


def same_photo(one: Look, other: Look) -> bool:
    """Whether both are the same photo, also if one is mirrored: training mirrors its photos."""
    if abs(one.ratio / other.ratio - 1) > _SAME_SHAPE:
        return False
    for view in (other.thumbnail, other.thumbnail[:, ::-1]):
        cells = np.abs(one.thumbnail - view).mean(-1)
        if cells.mean() <= _SAME_PIXELS and cells.max() <= _SAME_CELL:
            return True
    return False
