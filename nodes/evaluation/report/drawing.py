"""A drawing of lines, discs and words that becomes SVG for the page or a picture for the graph."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape

from PIL import Image, ImageDraw, ImageFont, ImageOps

# By role. The page has the same names as CSS variables, with values of their own where it is dark.
LIGHT = {
    "paper": "#ffffff",
    "ink": "#22262b",
    "soft": "#5c6670",
    "grid": "#dfe3e8",
    "s0": "#0b62b8",
    "s1": "#c2500a",
    "s2": "#1b7f4b",
    "s3": "#8a3fa8",
    "s4": "#b3246b",
    "s5": "#7a6200",
    "s6": "#00788a",
    "s7": "#5a5f66",
}
DARK = {
    "paper": "#14171a",
    "ink": "#e8ebee",
    "soft": "#a7b0b8",
    "grid": "#333a41",
    "s0": "#6cb2f5",
    "s1": "#f5965a",
    "s2": "#5fcf94",
    "s3": "#c997e6",
    "s4": "#f287b7",
    "s5": "#d9bd4a",
    "s6": "#4fc4d6",
    "s7": "#aeb4bb",
}
SERIES = 8
_MARGIN = 16  # pixels around a picture


def series_colour(index: int) -> str:
    """The role of the index-th system's colour."""
    return f"s{index % SERIES}"


@lru_cache
def _font(size: int):
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    """Pixels that a text takes, about: the page's font is the reader's own."""
    return _font(size).getlength(text) * 1.06


@dataclass
class Drawing:
    """width, height in pixels. Origin at the top left. Colours are roles of `LIGHT`. title, text: what a screen reader says."""

    width: int
    height: int
    title: str
    text: str = ""
    _marks: list[tuple] = field(default_factory=list)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1, dashed: bool = False) -> None:
        self._marks.append(("line", points, colour, width, dashed))

    def area(self, points: list[tuple[float, float]], colour: str, opacity: float) -> None:
        self._marks.append(("area", points, colour, opacity))

    def disc(self, x: float, y: float, radius: float, colour: str, opacity: float = 1, hollow: bool = False) -> None:
        """A disc with a rim; hollow: the rim alone, dashed."""
        self._marks.append(("disc", x, y, radius, colour, opacity, hollow))

    def words(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = "ink",
        size: int = 13,
        anchor: str = "start",
        bold: bool = False,
        upright: bool = True,
    ) -> None:
        """y: the middle of the line. anchor: start, middle or end. upright False: turned to be read from the right."""
        self._marks.append(("words", x, y, text, colour, size, anchor, bold, upright))

    # -- SVG -------------------------------------------------------------------------------------------

    def svg(self, css_class: str, name: str) -> str:
        """An inline `<svg>`. name: unique in the page."""
        parts = [
            f'<svg class="{css_class}" viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="{name}-t {name}-d" '
            f'xmlns="http://www.w3.org/2000/svg"><title id="{name}-t">{escape(self.title)}</title>'
            f'<desc id="{name}-d">{escape(self.text)}</desc>'
        ]
        parts += [getattr(self, f"_svg_{mark[0]}")(*mark[1:]) for mark in self._marks]
        return "\n".join([*parts, "</svg>"])

    def _svg_line(self, points, colour, width, dashed) -> str:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        return (
            f'<polyline points="{_points(points)}" fill="none" stroke="var(--{colour})" stroke-width="{width:g}" '
            f'stroke-linejoin="round"{dash}/>'
        )

    def _svg_area(self, points, colour, opacity) -> str:
        return f'<polygon points="{_points(points)}" fill="var(--{colour})" fill-opacity="{opacity:g}"/>'

    def _svg_disc(self, x, y, radius, colour, opacity, hollow) -> str:
        fill = "none" if hollow else f"var(--{colour})"
        dash = ' stroke-dasharray="4 3"' if hollow else ""
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" fill-opacity="{opacity:g}" '
            f'stroke="var(--{colour})" stroke-width="1.5"{dash}/>'
        )

    def _svg_words(self, x, y, text, colour, size, anchor, bold, upright) -> str:
        weight = ' font-weight="600"' if bold else ""
        turn = "" if upright else f' transform="rotate(-90 {x:.1f} {y:.1f})"'
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" fill="var(--{colour})" font-size="{size}" '
            f'text-anchor="{anchor}"{weight}{turn}>{escape(text)}</text>'
        )

    # -- picture ---------------------------------------------------------------------------------------

    def picture(self, scale: int = 2) -> Image.Image:
        """RGB, `scale` times as large, with a margin; drawn at twice that, so that edges are smooth."""
        fine = 2 * scale
        image = Image.new("RGB", (self.width * fine, self.height * fine), LIGHT["paper"])
        for mark in self._marks:
            image = getattr(self, f"_draw_{mark[0]}")(image, fine, *mark[1:])
        small = image.resize((self.width * scale, self.height * scale), Image.Resampling.LANCZOS)
        return ImageOps.expand(small, _MARGIN * scale, LIGHT["paper"])

    def _draw_line(self, image, scale, points, colour, width, dashed):
        draw = ImageDraw.Draw(image)
        scaled = [(x * scale, y * scale) for x, y in points]
        for piece in _dashes(scaled, 5 * scale, 4 * scale) if dashed else [scaled]:
            draw.line(piece, fill=LIGHT[colour], width=max(1, round(width * scale)), joint="curve")
        return image

    def _draw_area(self, image, scale, points, colour, opacity):
        scaled = [(x * scale, y * scale) for x, y in points]
        return _over(
            image,
            opacity,
            _bounds(scaled),
            lambda draw, dx, dy: draw.polygon([(x - dx, y - dy) for x, y in scaled], LIGHT[colour]),
        )

    def _draw_disc(self, image, scale, x, y, radius, colour, opacity, hollow):
        box = [(x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale]
        width = max(1, round(1.5 * scale))
        if hollow:
            draw = ImageDraw.Draw(image)
            step = 360 * 3.5 / max(22.0, 6.283 * radius)  # degrees of 3.5 pixels
            angle = 0.0
            while angle < 360:
                draw.arc(box, angle, min(360.0, angle + step), LIGHT[colour], width)
                angle += 2 * step
            return image
        corners = [(box[0], box[1]), (box[2], box[3])]
        image = _over(
            image,
            opacity,
            _bounds(corners),
            lambda draw, dx, dy: draw.ellipse([(x - dx, y - dy) for x, y in corners], LIGHT[colour]),
        )
        ImageDraw.Draw(image).ellipse(box, outline=LIGHT[colour], width=width)
        return image

    def _draw_words(self, image, scale, x, y, text, colour, size, anchor, bold, upright):
        font, anchors = _font(size * scale), {"start": "lm", "middle": "mm", "end": "rm"}
        stroke = {"stroke_width": max(1, scale // 4), "stroke_fill": LIGHT[colour]} if bold else {}
        if upright:
            ImageDraw.Draw(image).text((x * scale, y * scale), text, LIGHT[colour], font, anchors[anchor], **stroke)
            return image
        width, height = round(font.getlength(text)) + 2 * scale, 2 * size * scale
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).text((width / 2, height / 2), text, 255, font, "mm")
        mask = mask.rotate(90, expand=True)
        image.paste(LIGHT[colour], (round(x * scale - mask.width / 2), round(y * scale - mask.height / 2)), mask)
        return image


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _bounds(points: list[tuple[float, float]]) -> tuple[int, int, int, int]:
    xs, ys = zip(*points, strict=True)
    return math.floor(min(xs)) - 1, math.floor(min(ys)) - 1, math.ceil(max(xs)) + 2, math.ceil(max(ys)) + 2


def _over(image: Image.Image, opacity: float, box: tuple[int, int, int, int], paint) -> Image.Image:
    """The image with what `paint(draw, left, top)` draws, all of it inside `box`, laid over it."""
    under = image.crop(box)
    layer = under.copy()
    paint(ImageDraw.Draw(layer), box[0], box[1])
    image.paste(Image.blend(under, layer, opacity), box[:2])
    return image


def _dashes(points: list[tuple[float, float]], on: float, off: float):
    """A path cut into dashes."""
    left, drawing, piece = on, True, [points[0]]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        at = 0.0
        while length - at > left:
            at += left
            here = (x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length)
            if drawing:
                yield [*piece, here]
            piece, drawing = [here], not drawing
            left = on if drawing else off
        left -= length - at
        piece.append((x1, y1))
    if drawing and len(piece) > 1:
        yield piece
