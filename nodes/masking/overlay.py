"""The picture that shows a mask on its photo."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pictures import to_picture, to_tensor
from .boxes import Detection

TINT = (255, 40, 90)
STRENGTH = 0.45


def draw_overlay(image: Tensor, mask: Tensor, detections: list[Detection], taken: list[int]) -> Tensor:
    """(H, W, 3) with the mask tinted and every box drawn; those used thick and in colour.

    image: (H, W, 3), mask: (H, W), both in 0..1.
    """
    tint = torch.tensor(TINT) / 255
    weight = mask[..., None] * STRENGTH
    picture: Image.Image = to_picture((image[..., :3] * (1 - weight) + tint * weight)[None])
    draw = ImageDraw.Draw(picture)
    thick = max(1, round(max(picture.size) / 250))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 40)))
    for i, detection in enumerate(detections):
        x, y, width, height = detection.box
        colour = TINT if i in taken else (150, 150, 150)
        draw.rectangle([x, y, x + width - 1, y + height - 1], outline=colour, width=thick * (2 if i in taken else 1))
        label = " ".join(part for part in (str(i), detection.label) if part)
        draw.text((x + 2 * thick + 1, y + 2 * thick), label, fill="white", font=font, stroke_width=thick, stroke_fill="black")
    return to_tensor(picture)[0]
