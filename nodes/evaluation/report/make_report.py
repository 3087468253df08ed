"""From evaluations on disk to a report on disk and its pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ....trainer.storage import replacing
from ...errors import UserError
from ...plotting import Chart
from ..pdst import brief
from ..statistics import Bootstrap
from .bubble import bubble
from .exports import make_brief, make_csv, make_jsonl, make_markdown
from .figures import WIDE, curves, intervals
from .gather import Collected, collect
from .page import make_page
from .sheet import draw_sheet, make_sheet
from .tables import Table, held_out, make_tables


@dataclass(frozen=True)
class Report:
    """path: of the page. pictures: scores, bubbles, curves, contact sheet. summary: the first table in plain lines."""

    path: Path
    markdown: str
    summary: str
    pictures: tuple[Image.Image, ...]


def make_report(
    paths: list[Path],
    folder: Path,
    title: str,
    *,
    y_axis: str,
    contact_sheet: str,
    baseline: str = "",
    group_by: str = "method",
    resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """Read the evaluations in `paths` and write their report into `folder`.

    Raises:
        UserError: the results cannot be reported, there is no such baseline, or a file cannot be written.
    """
    data = collect(paths, group_by)
    names = [system.name for system in data.systems]
    if baseline.strip() and baseline.strip() not in names:
        raise UserError(f"baseline: there is no system {baseline.strip()!r}. Give one of: {', '.join(names)}.")
    bootstrap = Bootstrap(resamples, seed)
    tables = make_tables(data, bootstrap, baseline.strip())
    charts = charts_of(data, bootstrap, y_axis)
    shown = [charts[0], *([charts[1]] if len(held_out(data)) == 3 else []), *([charts[2]] if data.series else [])]
    sheet = make_sheet(data, contact_sheet)
    page = make_page(title, data, tables, shown, sheet)
    markdown = make_markdown(title, data, tables)
    path = write(folder, page, markdown, tables, data)
    pictures = (*(draw(WIDE).picture() for draw in charts), draw_sheet(sheet))
    return Report(path, markdown, make_brief(data, tables[0]), pictures)


def charts_of(data: Collected, bootstrap: Bootstrap, y_axis: str) -> list[Callable[[int], Chart]]:
    """The report's figures; each draws itself at a width in pixels."""
    return [partial(intervals, data, bootstrap), partial(bubble, data, y_axis), partial(curves, data, bootstrap)]


def write(folder: Path, page: str, markdown: str, tables: list[Table], data: Collected) -> Path:
    """Write the files, each whole or not at all, the page last. Returns the page's path.

    Raises:
        UserError: a file could not be written.
    """
    files = {"images.jsonl": make_jsonl(data), "scores.csv": make_csv(tables), "report.md": markdown, "report.html": page}
    try:
        for name, content in files.items():
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"name: the report could not be written to {folder} ({brief(error)}). Free disk space, or close the program in "
            "which a file of the report is open, and queue again."
        ) from error
    return folder / "report.html"
