"""Pictures in their three forms: a file, a PIL image, and the host's IMAGE and MASK tensors."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import UserError


def read_picture(path: Path) -> tuple[Tensor, Tensor | None, str]:
    """A picture, turned as its EXIF orientation says.

    Returns:
        image (H, W, 3) float32 in 0..1; alpha (H, W) in 0..1, 1 where opaque, or None if it has none; a note on
        what a person would not expect ("first of 12 frames"), or "".

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the file is not a picture, damaged, or far too large.
    """
    with Image.open(path) as file:
        frames = getattr(file, "n_frames", 1)
        file.seek(0)
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I;16") or picture.mode == "I":  # 16 bits, which Pillow would clip to 8
            grey = np.asarray(picture).astype(np.float32) / 65535
            pixels, alpha = np.repeat(grey[..., None], 3, axis=2).clip(0, 1), None
        else:
            has_alpha = "A" in picture.getbands() or "transparency" in picture.info
            rgba = picture.convert("RGBA" if has_alpha else "RGB")
            values = np.asarray(rgba, dtype=np.float32) / 255
            pixels, alpha = values[..., :3], values[..., 3] if has_alpha else None
    note = f"first of {frames} frames" if frames > 1 else ""
    return torch.from_numpy(pixels.copy()), None if alpha is None else torch.from_numpy(alpha.copy()), note


def natural_order(name: str) -> list:
    """Sort key under which `photo-2` comes before `photo-10`."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def as_images(batches: list[Tensor]) -> list[Tensor]:
    """Every image of a list of IMAGE batches as a float32 CPU tensor (H, W, C) of its own, grey ones in colour.

    What upstream nodes hand over are inference tensors, which autograd cannot use.

    Raises:
        UserError: a batch that is not an IMAGE, or no image at all.
    """
    found = []
    for number, batch in enumerate(batches, 1):
        if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4) or 0 in batch.shape[1:]:
            raise UserError(
                f"images: batch {number} has the shape {tuple(batch.shape)}, and an IMAGE is (images, height, width, 3). "
                "Wire the output of a node that loads or makes images."
            )
        pixels = batch.expand(-1, -1, -1, 3) if batch.shape[-1] == 1 else batch
        found += [image.to("cpu", torch.float32).clone() for image in pixels]
    if not found:
        raise UserError("images: there are none in what is wired. Wire at least one photo.")
    return found


def as_masks(batches: Sequence[Tensor | None] | None) -> list[Tensor] | None:
    """Every mask of a list of MASK batches as a float32 CPU tensor (H, W) of its own; None if nothing is wired.

    Raises:
        UserError: a batch that is not a MASK.
    """
    if batches is None:
        return None
    found = []
    for number, batch in enumerate(batches, 1):
        if batch is None:
            continue
        masks = batch[None] if batch.ndim == 2 else batch
        if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):  # with a channel, as some packs make them
            masks = masks[..., 0] if masks.shape[3] == 1 else masks[:, 0]
        if masks.ndim != 3:
            raise UserError(
                f"masks: batch {number} has the shape {tuple(batch.shape)}, and a MASK is (masks, height, width). Wire a MASK "
                "output; Convert Image to Mask makes one of a picture."
            )
        found += [mask.to("cpu", torch.float32).clone() for mask in masks]
    return found


def beside(chart: Image.Image, sample: Image.Image | None) -> Image.Image:
    """The chart, with the latest sample at its right if there is one."""
    if sample is None:
        return chart
    scaled = sample.resize((round(sample.width * chart.height / sample.height), chart.height))
    both = Image.new("RGB", (chart.width + scaled.width, chart.height), "white")
    both.paste(chart, (0, 0))
    both.paste(scaled, (chart.width, 0))
    return both


def to_tensor(image: Image.Image) -> Tensor:
    """IMAGE (1, H, W, 3) in 0..1 of a picture."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]


def to_picture(images: Tensor) -> Image.Image:
    """The first of an IMAGE batch (B, H, W, 3) in 0..1 as a picture."""
    return Image.fromarray((images[0, ..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())
