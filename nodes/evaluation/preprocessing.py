"""From any image to the input of a metric's backbone. Each metric has its own preprocessing: scores depend on it."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..pictures import to_picture

CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORM_NAMES = {CLIP_NORM: "CLIP", IMAGENET_NORM: "ImageNet"}


def in_8_bits(images: Tensor, label: str) -> Tensor:
    """Images in steps of 1/255: what is scored is what is saved. label: names the token in the error.

    Raises:
        UserError: they contain NaN or infinite values.
    """
    if not torch.isfinite(images).all():
        raise UserError(
            f"model: images of {label} contain NaN or infinite values. Start ComfyUI with --fp32-vae or --force-fp32, "
            "or use another model."
        )
    return (images * 255).round() / 255


@dataclass(frozen=True)
class Preprocessing:
    """Bicubic resize of the shortest side to `resize` pixels, crop of `crop` x `crop` at the centre, then `norm` (mean, std).

    8 bits and Pillow's filter (antialiased), as in the published code of CLIP and DINO: an image scores the same from
    memory and from its file.
    """

    resize: int
    crop: int
    norm: tuple[tuple[float, float, float], tuple[float, float, float]]

    def __call__(self, image: Tensor) -> Tensor:
        """image: (H, W, 3) in 0..1, of any size. Returns (3, crop, crop) float32."""
        picture = to_picture(image[None])
        picture = picture.resize(self._resized(*picture.size), Image.Resampling.BICUBIC)
        left, top = ((side - self.crop) // 2 for side in picture.size)
        picture = picture.crop((left, top, left + self.crop, top + self.crop))
        pixels = torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)
        mean, std = torch.tensor(self.norm)
        return ((pixels - mean) / std).movedim(-1, 0)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """The longer side is rounded down to a whole pixel, as torchvision and transformers do."""
        if width <= height:
            return self.resize, self.resize * height // width
        return self.resize * width // height, self.resize

    def describe(self) -> dict[str, str]:
        """In words, for a report."""
        return {
            "resize": f"shortest side to {self.resize} px, bicubic (Pillow, 8 bits)",
            "crop": f"{self.crop} x {self.crop} px at the centre",
            "norm": f"{_NORM_NAMES[self.norm]} mean and standard deviation",
        }
