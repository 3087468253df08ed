"""The look that all charts share, and the two ways a chart leaves matplotlib: as a picture, or as SVG inside the report's page.

Import this module where something is drawn, before any other part of matplotlib, and no earlier: the import takes a second,
and ComfyUI's start must not wait for it. pyplot is never used, and matplotlib's settings, which other nodes share, change only
while a chart is drawn (`styled`).
"""

import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from PIL import Image, ImageOps

from .errors import UserError

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, get_font_names
    from matplotlib.lines import Line2D
    from matplotlib.textpath import text_to_path
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise UserError(
        f"Charts are drawn by matplotlib, which cannot be imported ({error}). Install it in ComfyUI's Python: "
        "python -m pip install matplotlib"
    ) from error

# Colours by role. The page has CSS variables of the same names, with the values of DARK where the reader prefers a dark page.
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
INK, SOFT, GRID, PAPER = (LIGHT[role] for role in ("ink", "soft", "grid", "paper"))
SERIES = tuple(LIGHT[f"s{i}"] for i in range(8))
DASHED = (0, (4, 2.5))

MARGIN = 16  # pixels around a picture
_DPI = 72  # so that a point, matplotlib's unit, is a pixel
# For names in scripts that matplotlib's own font lacks, if installed.
_OTHER_SCRIPTS = ("Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "Yu Gothic", "Hiragino Sans", "Malgun Gothic")
_STYLE: dict[str, Any] = {
    "figure.dpi": _DPI,
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in get_font_names()), "sans-serif"],
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text, in the reader's own font
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 1,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "xtick.labelcolor": SOFT,
    "xtick.labelsize": 12,
    "xtick.major.pad": 5,
    "xtick.major.size": 0,
    "ytick.labelcolor": SOFT,
    "ytick.labelsize": 12,
    "ytick.major.pad": 8,
    "ytick.major.size": 0,
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings for our charts, as a context manager or a decorator. Whatever makes or draws a figure needs it."""
    with matplotlib.rc_context(_STYLE):
        yield


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure of `blank`. title, text: what a screen reader says; text has the numbers. caption: how to read the chart."""

    figure: Figure
    title: str
    text: str = ""
    caption: str = ""

    def picture(self, scale: int = 2) -> Image.Image:
        """RGB, `scale` times the figure's size in pixels and a margin."""
        with styled():
            raw = io.BytesIO()
            self.figure.savefig(raw, format="raw", dpi=_DPI * scale)
        width, height = (round(side * scale) for side in pixels(self.figure))
        image = Image.frombytes("RGBA", (width, height), raw.getvalue()).convert("RGB")
        return ImageOps.expand(image, MARGIN * scale, PAPER)

    def svg(self, css_class: str, name: str) -> str:
        """An inline `<svg>` whose colours are the page's CSS variables. name: unique in the page; ids begin with it."""
        with styled():
            written = io.BytesIO()
            self.figure.savefig(written, format="svg", metadata={"Date": None})
        drawing = ElementTree.fromstring(written.getvalue())
        width, height = pixels(self.figure)
        root = ElementTree.Element("svg", {"class": css_class, "viewBox": f"0 0 {width:g} {height:g}", "role": "img"})
        root.set("aria-labelledby", f"{name}-t {name}-d")
        ElementTree.SubElement(root, "title", id=f"{name}-t").text = printable(self.title)
        ElementTree.SubElement(root, "desc", id=f"{name}-d").text = printable(self.text)
        root.extend(_for_page(drawing, name))
        return ElementTree.tostring(root, encoding="unicode")


def _for_page(drawing: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """The parts of matplotlib's SVG, fit for an HTML page: no namespaces, no styles of its own, ids that no other chart has."""
    parts = [part for part in drawing if not part.tag.endswith("metadata") and part.find("{*}style") is None]
    elements = [element for part in parts for element in part.iter()]
    used = {reference for element in elements for value in element.attrib.values() for reference in _REFERENCE.findall(value)}
    ids = [element.get("id") for element in elements if element.get("id") in used]
    new = {old: f"{name}-{number}" for number, old in enumerate(dict.fromkeys(ids))}  # matplotlib's differ from run to run
    for element in elements:
        element.tag = element.tag.partition("}")[2]
        attributes = {key.rpartition("}")[2]: " ".join(value.split()) for key, value in element.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        if attributes.get("transform", "").startswith("rotate(-0 "):
            attributes.pop("transform")
        if "style" in attributes:
            attributes["style"] = _COLOUR.sub(_variable, _FONT.sub("", attributes["style"]))
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key, new[value] if key == "id" else _REFERENCE.sub(lambda id: new[id[0]], value))
        element.tail = None
    return parts


_REFERENCE = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")  # the id in url(#id) and in href="#id"
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font-family:[^;]*;?")
_ROLES = {colour: role for role, colour in LIGHT.items()}


def _variable(colour: re.Match) -> str:
    return f"var(--{_ROLES[colour[0]]})"


def blank(width: float, height: float) -> Figure:
    """A figure of so many pixels."""
    return Figure((width / _DPI, height / _DPI))


def pixels(figure: Figure) -> tuple[float, float]:
    """The figure's width and height."""
    width, height = figure.get_size_inches()
    return round(width * _DPI, 3), round(height * _DPI, 3)


def panel(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes whose edges are so many pixels from the figure's left and top; their labels lie outside."""
    width, height = pixels(figure)
    return figure.add_axes((left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height))


def words(figure: Figure, x: float, y: float, text: str, **style: object) -> None:
    """Text at pixels from the figure's left and top; y: the middle of the line."""
    width, height = pixels(figure)
    figure.text(x / width, 1 - y / height, printable(text), **{"va": "center_baseline", **style})


def heading(figure: Figure, text: str) -> None:
    """The figure's title, at its top left."""
    words(figure, 0, 10, shorten(text, pixels(figure)[0], 15, "bold"), size=15, weight="bold")


Key = list[tuple[str, dict]]  # a label and the `Line2D` style of its sample


def key(figure: Figure, top: float, entries: Key) -> None:
    """A legend: samples of lines with their labels. A marker without a line is drawn once.

    Matplotlib's own legend does not break into rows, and leaves out names that begin with `_`.
    """
    width, height = pixels(figure)
    for (label, style), (left, row) in zip(entries, _key_places(entries, width), strict=True):
        y = top + _KEY_ROW * (row + 0.5)
        x = [left / width, (left + _SAMPLE / 2) / width, (left + _SAMPLE) / width]
        figure.add_artist(Line2D(x, [1 - y / height] * 3, markevery=[1], transform=figure.transFigure, **style))
        words(figure, left + _SAMPLE + 6, y, shorten(label, width - _SAMPLE - 6, 12))


def key_height(entries: Key, width: float) -> int:
    """Pixels that a legend takes."""
    return _KEY_ROW * (1 + _key_places(entries, width)[-1][1])


_KEY_ROW, _SAMPLE = 20, 34  # pixels


def _key_places(entries: Key, width: float) -> list[tuple[float, int]]:
    """Left edge and row of each entry."""
    places, left, row = [], 0.0, 0
    for label, _ in entries:
        needed = _SAMPLE + 6 + text_width(label, 12)
        if left and left + needed > width:
            left, row = 0.0, row + 1
        places.append((left, row))
        left += needed + 18
    return places


def few_ticks(axis: Axis, most: int, integer: bool = False) -> None:
    """At most `most` + 1 round numbers on an axis."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=integer))


def span(values: Sequence[float], margin: float) -> tuple[float, float]:
    """A range with room around the values: at both ends `margin` times their own range."""
    low, high = min(values), max(values)
    room = max((high - low) * margin, 0.01 * abs(high)) or 1.0
    return low - room, high + room


def printable(text: str) -> str:
    """Text in one line, without characters that have no place in XML."""
    return "".join(character if character.isprintable() else " " for character in text)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Pixels that a text takes in the pictures; in the page about as many, as the font is the reader's."""
    font = FontProperties(family=_STYLE["font.family"], size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(printable(text), font, ismath=False)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return max(width, wide * size)


def shorten(text: str, width: float, size: float, weight: str = "normal") -> str:
    """The text if it fits into `width` pixels, else its beginning and its end, as names often differ at their ends only."""
    short, kept = text, min(len(text), 300)
    while kept and (len(short) > 300 or text_width(short, size, weight) > width):
        kept -= 1
        end = kept // 3
        short = text[: kept - end].rstrip() + "…" + text[len(text) - end :]
    return short
