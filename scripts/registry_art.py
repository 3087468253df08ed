#!/usr/bin/env python3
"""Draw the icon and the banner of the registry's page into docs/registry/.

    .dev/env-*/bin/python scripts/registry_art.py

Both show the method: the token v* is the subject alone, and the attractor A* has taken up what was around it.
"""

import math
import random
from pathlib import Path

from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "registry"
SHARP = 4  # drawn so much larger, then scaled down
NIGHT, WARM, COOL, PAPER, SOFT = "#151b2b", "#ff9f43", "#35c2b0", "#f4f6fa", "#9aa6bd"


def draw_motif(draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> None:
    """Token and attractor in a square with its left upper corner at x, y; all in the picture's own pixels."""

    def disc(cx: float, cy: float, radius: float, colour: str) -> None:
        box = [x + (cx - radius) * size, y + (cy - radius) * size, x + (cx + radius) * size, y + (cy + radius) * size]
        draw.ellipse(box, fill=colour)

    def ring(cx: float, cy: float, radius: float, start: float, end: float, width: float, colour: str) -> None:
        box = [x + (cx - radius) * size, y + (cy - radius) * size, x + (cx + radius) * size, y + (cy + radius) * size]
        draw.arc(box, start, end, fill=colour, width=round(width * size))

    attractor, chance = (0.66, 0.62), random.Random(4)
    for radius, start, end in ((0.25, 20, 300), (0.17, 110, 400), (0.09, 200, 520)):
        ring(*attractor, radius, start, end, 0.03, COOL)
    disc(*attractor, 0.035, PAPER)
    for turn in range(26):  # what was around the subject, on its way
        angle, far = -2.9 + turn * 0.105, 0.30 + 0.19 * chance.random()
        place = attractor[0] + far * math.cos(angle), attractor[1] + far * math.sin(angle)
        if math.dist(place, (0.33, 0.36)) > 0.25 and 0.06 < place[0] < 0.94 and 0.06 < place[1] < 0.94:
            disc(*place, 0.008 + 0.010 * chance.random(), COOL)
    disc(0.33, 0.36, 0.20, WARM)
    font = typeface(0.2 * size, bold=True)
    draw.text((x + 0.33 * size, y + 0.365 * size), "v*", NIGHT, font, "mm")


def typeface(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    path = findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal"))
    return ImageFont.truetype(path, round(size))


def icon(side: int = 400) -> Image.Image:
    large = side * SHARP
    picture = Image.new("RGBA", (large, large))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle([0, 0, large - 1, large - 1], 0.2 * large, NIGHT)
    draw_motif(draw, 0, 0, large)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def banner(width: int = 1260, height: int = 540) -> Image.Image:
    """21:9."""
    wide, tall = width * SHARP, height * SHARP
    picture = Image.new("RGB", (wide, tall), NIGHT)
    draw = ImageDraw.Draw(picture)
    draw_motif(draw, 0.02 * wide, 0.06 * tall, 0.9 * tall)
    left = 0.44 * wide
    draw.text((left, 0.36 * tall), "Attractor", PAPER, typeface(0.17 * tall, bold=True), "lm")
    for line, text in enumerate(("Textual Inversion and NeTI training for SD1.5", "your subject, without its backgrounds")):
        draw.text((left, (0.55 + 0.09 * line) * tall), text, (SOFT, WARM)[line], typeface(0.052 * tall), "lm")
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
