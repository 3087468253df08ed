"""The report as CSV, JSON lines and Markdown."""

import csv
import io
import json
from collections.abc import Iterable

from ..statistics import Difference, Estimate
from .gather import Collected
from .tables import Cell, Table, plain

_CSV = ("table", "row", "column", "value", "low", "high", "unit", "units", "images", "wins", "text")


def make_csv(tables: list[Table]) -> str:
    """Every cell of every table, each on a line of its own, in full precision."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(_CSV)
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns[1:], row[1:], strict=True):
                if cell is not None:
                    writer.writerow([table.name, _safe(str(row[0])), column, *_numbers(cell)])
    return written.getvalue()


def _numbers(cell: Cell) -> list:
    wins = cell.wins if isinstance(cell, Difference) else ""
    e = cell.estimate if isinstance(cell, Difference) else cell
    if isinstance(e, Estimate):
        low, high = ("", "") if e.low is None else (e.low, e.high)
        return [e.mean, low, high, e.unit, e.units, e.images, wins, ""]
    return ["", *[""] * 6, _safe(e)] if isinstance(e, str) else [e, *[""] * 7]


def _safe(text: str) -> str:
    """Text that a spreadsheet will not run as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def make_jsonl(data: Collected) -> str:
    """Every image of every system, each on a line of its own."""
    lines = []
    for system in data.systems:
        for image in system.images.values():
            line = {"system": system.name, "evaluation": image.evaluation, "entry": image.entry, **image.record}
            lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
    return "\n".join(lines) + "\n"


def make_markdown(title: str, data: Collected, tables: list[Table]) -> str:
    parts = [f"# {_markdown(title)}: held-out evaluation"]
    if data.warnings:
        parts.append("\n".join(["Read with care:", *(f"- {_markdown(text)}" for text in data.warnings)]))
    for table in tables:
        lines = [f"## {_markdown(table.title)}"]
        lines += [text for note in table.note.splitlines() for text in ("", _markdown(note))]
        lines += ["", _line(table.columns), _line(["---"] * len(table.columns))]
        lines += [_line([_text(cell) for cell in row]) for row in table.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def make_brief(data: Collected, table: Table) -> str:
    """A table's rows as lines of plain text, with what is to be read with care."""
    lines = [f"Read with care: {text}" for text in data.warnings]
    for row in table.rows:
        cells = [
            f"{column} {plain(cell)[0]}" for column, cell in zip(table.columns[1:], row[1:], strict=True) if cell is not None
        ]
        lines.append(f"{row[0]}: {' · '.join(cells)}")
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(cell: Cell) -> str:
    value, below = plain(cell)
    return _markdown(f"{value} ({below})" if below else value)


def _markdown(text: str) -> str:
    """Text with the characters escaped that Markdown would read as markup."""
    for mark in "\\`*_{}[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
