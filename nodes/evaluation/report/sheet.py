"""The contact sheet: the held-out photo beside what each system made of its caption."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from matplotlib.font_manager import findfont
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont, ImageOps

from ...pictures import BadPicture, opened
from ...plotting import GRID, INK, PAPER, SOFT, shorten
from ..metrics import TITLES
from ..pdst import SLOT
from ..statistics import Key
from .gather import Collected, Image, System
from .tables import HELD_OUT, held_out

_SIDE, _GAP, _LINE, _HEAD = 224, 10, 18, 44  # pixels
_MOST = 8  # systems in a row
_MOST_ROWS = 240


@dataclass(frozen=True, eq=False)
class Row:
    """One caption.

    place: best, median, worst or "". caption: with the super-category in the subject's place. images: one for each column's
    system, None where it has none.
    """

    subject: str
    place: str
    caption: str
    reference: Path | None
    images: tuple[Image | None, ...]


@dataclass(frozen=True, eq=False)
class Sheet:
    """columns: systems in order. score: what rows are ranked by. note: what was left out, in words."""

    columns: tuple[System, ...]
    rows: tuple[Row, ...]
    score: str
    note: str = ""


def make_sheet(data: Collected, choice: str) -> Sheet | None:
    """Rows of the same captions for all systems; None if no sheet is wanted or no images were saved.

    Rows are ranked by DINO (else CLIP-I, else CLIP-T), as a mean over the systems without the floor.
    """
    systems = [system for system in data.compared if any(image.path for image in system.images.values())]
    if choice == "none" or not systems:
        return None
    columns = tuple(systems[:_MOST] if len(systems) <= _MOST else [*systems[: _MOST - 1], systems[-1]])
    score = next(s for s in ("dino", "clip_i", "clip_t") if s in held_out(data))
    rows = []
    for subject, about in data.subjects.items():
        word, ranked = about["super_category"], _ranked(columns, subject, score)
        if choice == "every photo":
            first: dict[str, Key] = {}
            for key in sorted(ranked, key=lambda key: (key[1], _caption(columns, key), key[3])):
                first.setdefault(key[1], key)
            rows += [_row(columns, key, "", word) for key in first.values()]
        elif ranked:
            places = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}
            rows += [_row(columns, ranked[i], places[i], word) for i in sorted(places)]
    left_out = [
        f"{len(systems) - len(columns)} systems" if len(systems) > len(columns) else "",
        f"{len(rows) - _MOST_ROWS} rows" if len(rows) > _MOST_ROWS else "",
    ]
    note = " and ".join(filter(None, left_out))
    return Sheet(columns, tuple(rows[:_MOST_ROWS]), score, f"{note} are left out." if note else "")


def _ranked(columns: tuple[System, ...], subject: str, score: str) -> list[Key]:
    """The subject's images, best first."""
    judges = [system for system in columns if not system.floor] or list(columns)
    values: dict[Key, list[float]] = {}
    for system in judges:
        for key, value in system.values(score, [subject]).items():
            values.setdefault(key, []).append(value)
    most = max(map(len, values.values()), default=0)
    return sorted(
        (key for key, of_key in values.items() if len(of_key) == most),
        key=lambda key: (-sum(values[key]) / len(values[key]), key),
    )


def _caption(columns: tuple[System, ...], key: Key) -> int:
    return next(system.images[key].record["caption"] for system in columns if key in system.images)


def _row(columns: tuple[System, ...], key: Key, place: str, word: str) -> Row:
    images = tuple(system.images.get(key) for system in columns)
    reference = next((image.reference for image in images if image and image.reference), None)
    return Row(key[0], place, key[2].replace(SLOT, word), reference, images)


def thumbnail(path: Path | None) -> Picture.Image | None:
    """The picture, at most `_SIDE` pixels wide and high; None if there is none or it cannot be read."""
    if path is None:
        return None
    try:
        with opened(path) as file:
            picture = file.convert("RGB")
    except BadPicture:
        return None
    picture.thumbnail((_SIDE, _SIDE), Picture.Resampling.LANCZOS)
    return picture


def score_texts(image: Image) -> list[str]:
    """Its held-out scores, for a caption."""
    return [f"{TITLES[name]} {image.scores[name]:.3f}" for name in HELD_OUT if name in image.scores]


def draw_sheet(sheet: Sheet | None, rows: int = 24) -> Picture.Image:
    """The first rows of the sheet as one picture."""
    if sheet is None or not sheet.rows:
        picture = Picture.new("RGB", (640, 80), PAPER)
        _text(picture, 16, 40, "No images were saved, or no contact sheet is wanted.", 14, SOFT)
        return picture
    shown, names = sheet.rows[:rows], ["held-out photo", *(system.name for system in sheet.columns)]
    lefts = [_GAP + i * (_SIDE + _GAP) for i in range(len(names))]
    tall = _SIDE + 3 * _LINE + 2 * _GAP
    picture = Picture.new("RGB", (lefts[-1] + _SIDE + _GAP, _HEAD + len(shown) * tall), PAPER)
    for left, name in zip(lefts, names, strict=True):
        _text(picture, left, 18, shorten(name, _SIDE, 14), 14, INK)
    for number, row in enumerate(shown):
        top = _HEAD + number * tall
        heading = " · ".join(filter(None, [row.subject, row.place, row.caption]))
        _text(picture, _GAP, top + _LINE // 2, shorten(heading, picture.width - 2 * _GAP, 13), 13, INK)
        paths = [row.reference, *(image.path if image else None for image in row.images)]
        scores = ["", *(f"{TITLES[sheet.score]} {image.scores[sheet.score]:.3f}" if image else "" for image in row.images)]
        for left, path, score in zip(lefts, paths, scores, strict=True):
            _cell(picture, left, top + _LINE, path)
            _text(picture, left, top + _LINE + _SIDE + _LINE // 2 + 2, score, 12, SOFT)
    return picture


def _cell(sheet: Picture.Image, left: int, top: int, path: Path | None) -> None:
    """The file's picture in the middle of a square; an empty square if there is none."""
    small = thumbnail(path)
    if small is None:
        ImageDraw.Draw(sheet).rectangle([left, top, left + _SIDE, top + _SIDE], outline=GRID)
        return
    small = ImageOps.contain(small, (_SIDE, _SIDE), Picture.Resampling.BICUBIC)  # small ones grow
    sheet.paste(small, (left + (_SIDE - small.width) // 2, top + (_SIDE - small.height) // 2))


def _text(picture: Picture.Image, x: int, y: int, text: str, size: int, colour: str) -> None:
    """One line; y: its middle."""
    ImageDraw.Draw(picture).text((x, y), text, colour, _font(size), "lm")


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)  # matplotlib brings it: the sheet looks as the charts do
