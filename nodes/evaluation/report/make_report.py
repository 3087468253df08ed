"""From evaluations on disk to a report on disk and its pictures."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ....trainer.storage import replacing
from ...errors import UserError
from ..pdst import brief
from ..statistics import Bootstrap
from .bubble import bubble
from .exports import make_csv, make_jsonl, make_markdown
from .figures import WIDE, curves, intervals
from .gather import Collected, collect
from .page import make_page
from .sheet import draw_sheet, make_sheet
from .tables import Table, held_out, make_tables


@dataclass(frozen=True)
class Report:
    """path: of the page. pictures: scores, bubbles, curves, contact sheet. summary: the first table in Markdown."""

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
        UserError: results that cannot be reported, a baseline that is not there, a file that cannot be written.
    """
    data = collect(paths, group_by)
    names = [system.name for system in data.systems]
    if baseline.strip() and baseline.strip() not in names:
        raise UserError(f"baseline: there is no system {baseline.strip()!r}. There are: {', '.join(names)}.")
    bootstrap = Bootstrap(resamples, seed)
    tables = make_tables(data, bootstrap, baseline.strip())
    charts = [partial(intervals, data, bootstrap), partial(bubble, data, y_axis), partial(curves, data, bootstrap)]
    shown = [charts[0], *([charts[1]] if len(held_out(data)) == 3 else []), *([charts[2]] if data.series else [])]
    sheet = make_sheet(data, contact_sheet)
    page = make_page(title, data, tables, shown, sheet)
    markdown = make_markdown(title, data, tables)
    path = write(folder, page, markdown, tables, data)
    pictures = (*(draw(WIDE).picture() for draw in charts), draw_sheet(sheet))
    return Report(path, markdown, make_markdown(title, data, tables[:1]), pictures)


def write(folder: Path, page: str, markdown: str, tables: list[Table], data: Collected) -> Path:
    """Every file whole or not at all; the page last. Returns the page's path.

    Raises:
        UserError: the disk is full or not writable.
    """
    files = {"images.jsonl": make_jsonl(data), "scores.csv": make_csv(tables), "report.md": markdown, "report.html": page}
    try:
        for name, content in files.items():
            with replacing(folder / name) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            f"The report could not be written ({brief(error)}). Free space, or close the file where it is "
            "open, and queue again."
        ) from error
    return folder / "report.html"
