"""Cleaning a mask (H, W) of 0 and 1: holes, stray pieces, size and edge. The image's border is not an edge of the mask."""

import numpy as np
import torch
from torch import Tensor

_TOUCHING = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner belong to one piece


def clean(
    mask: Tensor, *, fill_holes: bool = False, keep_largest: bool = False, grow: int = 0, feather: int = 0, invert: bool = False
) -> Tensor:
    """Steps in this order: fill holes, keep the largest piece, grow (or shrink), feather, invert.

    grow: pixels by which the mask grows in every direction (a disc); negative shrinks. feather: width in pixels of
        the soft edge, half of it on each side; 0.5 is where the hard edge was.

    Returns:
        (H, W) float32 in 0..1.
    """
    from scipy import ndimage

    solid = mask.numpy() > 0.5
    if fill_holes:
        solid = ndimage.binary_fill_holes(solid)
    if keep_largest:
        pieces, count = ndimage.label(solid, _TOUCHING)
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            solid = pieces == sizes.argmax()
    if grow > 0:
        solid = _distance(solid) <= grow
    elif grow < 0:
        solid = _distance(~solid) > -grow
    values = solid.astype(np.float32)
    if feather > 0:
        # The edge lies half a pixel before the first pixel on the other side of it.
        inside = np.where(solid, _distance(~solid) - 0.5, 0.5 - _distance(solid))
        values = (0.5 + inside / feather).clip(0, 1).astype(np.float32)
    return torch.from_numpy(1 - values if invert else values)


def _distance(solid: np.ndarray) -> np.ndarray:
    """Pixels from each pixel to the nearest solid one; infinite where there is none."""
    from scipy import ndimage

    if not solid.any():
        return np.full(solid.shape, np.inf, dtype=np.float32)
    return ndimage.distance_transform_edt(~solid).astype(np.float32)
