"""Cleaning a mask (H, W) of 0 and 1: holes, stray pieces, size and edge."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def clean(
    mask: Tensor, *, fill_holes: bool = False, keep_largest: bool = False, grow: int = 0, feather: int = 0, invert: bool = False
) -> Tensor:
    """Steps in this order: fill holes, keep the largest piece, grow (or shrink), feather, invert.

    grow: pixels by which the mask grows in every direction (a disc); negative shrinks. feather: width in pixels of
        the soft edge, half of it on each side.

    Returns:
        (H, W) float32 in 0..1.
    """
    if fill_holes or keep_largest:
        from scipy import ndimage

        solid = mask.numpy() > 0.5
        if fill_holes:
            solid = ndimage.binary_fill_holes(solid)
        if keep_largest:
            pieces, count = ndimage.label(solid)
            if count > 1:
                sizes = np.bincount(pieces.ravel())
                sizes[0] = 0
                solid = pieces == sizes.argmax()
        mask = torch.from_numpy(solid)
    mask = mask.float()
    if grow:
        mask = _grown(mask, grow) if grow > 0 else 1 - _grown(1 - mask, -grow)
    if feather > 0:
        mask = _feathered(mask, feather)
    return 1 - mask if invert else mask


def _grown(mask: Tensor, radius: int) -> Tensor:
    """Every pixel no farther than `radius` from the mask."""
    if not (mask > 0.5).any():
        return mask
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(mask.numpy() <= 0.5)
    return torch.from_numpy(distance <= radius).float()


def _feathered(mask: Tensor, width: int) -> Tensor:
    """A blur by a box of `width` pixels, twice: a soft edge that is 0.5 where the hard edge was."""
    size = width // 2 * 2 + 1
    soft = mask[None, None]
    for _ in range(2):
        padded = F.pad(soft, [size // 2] * 4, mode="replicate")
        soft = F.avg_pool2d(padded, size, stride=1)
    return soft[0, 0].clamp(0, 1)
