"""The contact sheet: the held-out photo beside what each system made of its caption."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Picture
from PIL import ImageDraw, ImageOps

from ..pdst import SLOT
from ..statistics import Key
from .drawing import LIGHT, _font
from .gather import Collected, Image, System
from .tables import HELD_OUT, TITLES, held_out

_SIDE, _GAP, _LINE, _HEAD = 224, 10, 18, 44  # pixels
_MOST = 8  # systems in a row
_MOST_ROWS = 240


@dataclass(frozen=True, eq=False)
class Row:
    """place: best, median, worst or "". caption: with the super-category for the subject. images: of each column's system,
    None where it has none."""

    subject: str
    place: str
    caption: str
    reference: Path | None
    images: tuple[Image | None, ...]


@dataclass(frozen=True, eq=False)
class Sheet:
    """columns: systems in order. score: what rows are ranked by. note: what was left out."""

    columns: tuple[System, ...]
    rows: tuple[Row, ...]
    score: str
    note: str = ""


def make_sheet(data: Collected, choice: str) -> Sheet | None:
    """Rows of the same captions for all systems; None if nothing is wanted or no pictures were kept.

    Rows are ranked by the mean over the systems, floor apart, of DINO (CLIP-I, CLIP-T if there is none).
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
            places = {0: "best", len(ranked) // 2: "median", len(ranked) - 1: "worst"}
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


def thumbnail(path: Path, side: int = _SIDE) -> Picture.Image:
    """A picture of at most `side` pixels.

    Raises:
        OSError: it cannot be read.
    """
    with Picture.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((side, side), Picture.Resampling.LANCZOS)
    return picture


def score_texts(image: Image) -> list[str]:
    """Its held-out scores in short."""
    return [f"{TITLES[name]} {image.scores[name]:.3f}" for name in HELD_OUT if name in image.scores]


def draw_sheet(sheet: Sheet | None, rows: int = 24) -> Picture.Image:
    """The first rows of the sheet as one picture."""
    if sheet is None or not sheet.rows:
        picture = Picture.new("RGB", (640, 80), LIGHT["paper"])
        ImageDraw.Draw(picture).text((16, 40), "No pictures were kept, or none are wanted.", LIGHT["soft"], _font(14), "lm")
        return picture
    shown, columns = sheet.rows[:rows], ["held-out photo", *(system.name for system in sheet.columns)]
    tall = _SIDE + 3 * _LINE + 2 * _GAP
    picture = Picture.new("RGB", (_GAP + len(columns) * (_SIDE + _GAP), _HEAD + len(shown) * tall), LIGHT["paper"])
    draw = ImageDraw.Draw(picture)
    for i, name in enumerate(columns):
        draw.text((_GAP + i * (_SIDE + _GAP), 18), _fit(name, 14), LIGHT["ink"], _font(14), "lm")
    for number, row in enumerate(shown):
        top = _HEAD + number * tall
        draw.text(
            (_GAP, top + _LINE // 2),
            " · ".join(filter(None, [row.subject, row.place, row.caption])),
            LIGHT["ink"],
            _font(13),
            "lm",
        )
        paths = [row.reference, *(image.path if image else None for image in row.images)]
        lines = ["", *(f"{TITLES[sheet.score]} {image.scores[sheet.score]:.3f}" if image else "" for image in row.images)]
        for i, (path, line) in enumerate(zip(paths, lines, strict=True)):
            left = _GAP + i * (_SIDE + _GAP)
            if path is not None:
                small = ImageOps.contain(thumbnail(path), (_SIDE, _SIDE), Picture.Resampling.BICUBIC)  # small ones grow
                picture.paste(small, (left + (_SIDE - small.width) // 2, top + _LINE + (_SIDE - small.height) // 2))
            else:
                draw.rectangle([left, top + _LINE, left + _SIDE, top + _LINE + _SIDE], outline=LIGHT["grid"])
            draw.text((left, top + _LINE + _SIDE + _LINE // 2 + 2), line, LIGHT["soft"], _font(12), "lm")
    return picture


def _fit(text: str, size: int) -> str:
    while _font(size).getlength(text) > _SIDE and len(text) > 2:
        text = text[:-2] + "…"
    return text
