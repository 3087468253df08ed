"""Contact sheets of the benchmark: a subject's photos, and one image of the same prompt and noise for each configuration."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..toy_subjects import DATASET
from . import grid
from .runs import Run
from .table import Table

_TILE, _GAP, _LINE = 112, 6, 15
_PROMPTS = 2  # rows a subject
_SUBJECTS = 4  # the first ones


def write_sheets(folder: Path, table: Table, wanted: list[Run], out: Path) -> list[Path]:
    """`sheet-<group>.jpg` for each group that has images, and `sheet-attractors.jpg`; the first subjects, the first seed."""
    toys = list({run.toy.name: run.toy for run in wanted}.values())[:_SUBJECTS]
    written = []
    for group in grid.GROUPS:
        columns = _columns(table, group)
        if columns:
            titles = ["two training photos", "", "held-out photo", *columns]
            rows = [row for toy in toys for row in _rows(folder, table, toy, list(columns.values()))]
            written.append(_write(out / f"sheet-{group}.jpg", titles, rows))
    names = [toy.name for toy in toys]
    attractors = [
        _attractor_row(folder, result)
        for result in table.results
        if result["subject"] in names
        and result["seed"] == wanted[0].seed
        and any(image["kind"] == "attractor" for image in result["alone"])
    ]
    if attractors:
        titles = ["two training photos", "", "the word", "v*", *(f"A*{i}" for i in range(1, len(toys[0].train) + 1))]
        written.append(_write(out / "sheet-attractors.jpg", titles, attractors))
    return written


def _columns(table: Table, group: str) -> dict[str, tuple[str, int | None]]:
    """By title: a configuration and the step of its images."""
    names = [name for name in grid.GROUPS[group] if name in table.configurations]
    if group == "overfitting":
        return {f"{name} step {step}": (name, step) for name in names for step in table.steps(name)}
    shown = grid.SHOWN_AS.get(group, {})
    return {shown.get(name, name): (name, table.compared_at(name)) for name in names}


def _rows(folder: Path, table: Table, toy, columns: list[tuple[str, int | None]]) -> list[tuple[str, list]]:
    """Rows of a subject: a prompt, and the files of its tiles, None where one is missing."""
    found = []
    for number in range(1, _PROMPTS + 1):
        photo, prompt, tiles = f"{number:02d}.png", "", []
        for name, step in columns:
            images = [
                image
                for result in table.results
                if (result["configuration"], result["subject"]) == (name, toy.name)
                for entry in result["entries"]
                if entry["step"] == step
                for image in entry["images"]
                if image["photo"] == photo
            ]
            prompt = prompt or (images[0]["prompt"] if images else "")
            tiles.append(folder / "output" / "pdst" / images[0]["image"] if images else None)
        found.append(
            (
                f"{toy.name}: {prompt}",
                [*_photos(folder, toy.name), folder / "models" / "pdst" / DATASET / toy.name / "test" / photo, *tiles],
            )
        )
    return found


def _attractor_row(folder: Path, result: dict) -> tuple[str, list]:
    first = [image for image in result["alone"] if image["index"] == 0]
    return (
        f"{result['subject']}, {result['configuration']}: a photo of ...",
        [*_photos(folder, result["subject"]), *(folder / "output" / image["image"] for image in first)],
    )


def _photos(folder: Path, subject: str) -> list[Path]:
    return [folder / "models" / "pdst" / DATASET / subject / "train" / f"{number:02d}.png" for number in (1, 2)]


def _write(path: Path, titles: list[str], rows: list[tuple[str, list]]) -> Path:
    font = ImageFont.load_default(11)
    height = _LINE + _TILE + _GAP
    sheet = Image.new("RGB", (_GAP + len(titles) * (_TILE + _GAP), 2 * _LINE + _GAP + len(rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        for line, text in enumerate(_wrapped(title, draw, font)):
            draw.text((_GAP + column * (_TILE + _GAP), 2 + line * 13), text, fill="black", font=font)
    for row, (text, files) in enumerate(rows):
        top = 2 * _LINE + _GAP + row * height
        draw.text((_GAP, top), text, fill=(90, 90, 90), font=font)
        for column, file in enumerate(files):
            if file is not None and file.exists():
                with Image.open(file) as picture:
                    tile = picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.LANCZOS)
                sheet.paste(tile, (_GAP + column * (_TILE + _GAP), top + _LINE))
    sheet.save(path, quality=85)
    return path


def _wrapped(text: str, draw, font) -> list[str]:
    """Two lines at most that fit a tile."""
    lines = [""]
    for word in text.replace("_", "_ ").split(" "):
        wider = f"{lines[-1]}{word}" if lines[-1].endswith("_") else f"{lines[-1]} {word}".strip()
        if draw.textlength(wider, font=font) > _TILE and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = wider
    return lines[:2]
