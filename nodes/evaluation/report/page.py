"""The report as one HTML file: pictures inside it, no scripts, nothing fetched; for screens, phones and paper."""

import base64
import io
from collections.abc import Callable
from html import escape
from pathlib import Path

from ...plotting import Chart
from ..metrics import TITLES
from .figures import NARROW, WIDE
from .gather import Collected
from .sheet import Row, Sheet, score_texts, thumbnail
from .style import STYLE
from .tables import Cell, Difference, Estimate, Table, plain

_QUALITY = 85
_PAPER = "Towards More Accurate Personalized Image Generation: Addressing Overfitting and Evaluation Bias (arXiv 2503.06632)"
_SCORES_OF = {"clip": "CLIP-T, CLIP-I", "dino": "DINO"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # whatever a name contains, nothing is fetched or run


def make_page(
    title: str,
    data: Collected,
    tables: list[Table],
    charts: list[Callable[[int], Chart]],
    sheet: Sheet | None,
) -> str:
    """The whole page. charts: each draws itself at a width in pixels. All texts are escaped."""
    first, *others = [table for table in tables if not table.folded]
    folded = [table for table in tables if table.folded]
    drawn = [(draw(WIDE), draw(NARROW)) for draw in charts]
    figures = {f"chart-{i}": wide.title for i, (wide, _) in enumerate(drawn)}
    titles = {first.name: first.title, **figures, **{table.name: table.title for table in others}}
    shown_sheet = _sheet(sheet)
    titles |= {"sheet": "Fig. 6: contact sheet"} if shown_sheet else {}
    titles |= {table.name: table.title for table in folded}
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}: held-out evaluation</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        _header(title, data),
        "<main>",
        _warnings(data),
        _contents(titles),
        _table(first),
        '<section class="charts" aria-label="Charts">',
        *(_chart(wide, narrow, f"chart-{i}") for i, (wide, narrow) in enumerate(drawn)),
        "</section>",
        *(_table(table) for table in others),
        shown_sheet,
        *(_folded(table) for table in folded),
        "</main>",
        "<footer><p>All scores are cosine similarities; higher is better. PDST, the protocol: images are made from captions of "
        "photos that training never saw, and each is compared with the photo that its caption describes. Figure numbers are "
        f"those of the paper, <cite>{_PAPER}</cite>.</p></footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _header(title: str, data: Collected) -> str:
    systems = [system for system in data.systems if not system.floor]
    images = sum(len(system.images) for system in data.systems)
    tiles = [
        (len(systems), "system" if len(systems) == 1 else "systems"),
        (len(data.subjects), "subject" if len(data.subjects) == 1 else "subjects"),
        (f"{images:,}", "images"),
    ]
    items = "".join(f"<li><b>{escape(str(value))}</b><span>{escape(label)}</span></li>" for value, label in tiles)
    names = " and ".join(f"{encoder['backbone']} ({_SCORES_OF[name]})" for name, encoder in data.encoders.items())
    return (
        f'<header><p class="soft">Held-out evaluation</p><h1>{escape(title)}</h1>'
        f'<p class="soft">Scored by {escape(names)}.</p>'
        f'<ul class="tiles" aria-label="At a glance">{items}</ul></header>'
    )


def _warnings(data: Collected) -> str:
    if not data.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in data.warnings[:12])
    more = f"<li>and {len(data.warnings) - 12} more</li>" if len(data.warnings) > 12 else ""
    return f'<div class="warning" role="note"><b>Read with care</b><ul>{items}{more}</ul></div>'


def _table(table: Table) -> str:
    return f'<section id="{table.name}"><h2>{escape(table.title)}</h2>{_note(table)}{_rows(table)}</section>'


def _folded(table: Table) -> str:
    return f'<details id="{table.name}"><summary>{escape(table.title)}</summary>{_note(table)}{_rows(table)}</details>'


def _note(table: Table) -> str:
    return "".join(f'<p class="note">{escape(line)}</p>' for line in table.note.splitlines())


def _rows(table: Table) -> str:
    best = _best(table)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = []
    for row in table.rows:
        cells = "".join(
            _cell(cell, table.best and cell is not None and cell is best.get(column)) for column, cell in enumerate(row[1:], 1)
        )
        aside = ' class="aside"' if row[0] in table.aside else ""
        body.append(f'<tr{aside}><th scope="row">{_breakable(str(row[0]))}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}, table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _breakable(text: str) -> str:
    """A name that a browser may break where a person would."""
    return escape(text).replace("_", "_<wbr>").replace("-", "-<wbr>").replace("/", "/<wbr>")


def _best(table: Table) -> dict[int, Estimate]:
    """{column: its highest estimate}, where at least two rows that are not `aside` have one."""
    rows = [row for row in table.rows if row[0] not in table.aside]
    found: dict[int, Estimate] = {}
    for column in range(1, len(table.columns)):
        cells = [cell for row in rows if isinstance(cell := row[column], Estimate)]
        if len(cells) > 1:
            found[column] = max(cells, key=lambda cell: cell.mean)
    return found


def _cell(cell: Cell, best: bool) -> str:
    value, below = plain(cell)
    if isinstance(cell, str):
        return f'<td class="words">{escape(value)}</td>'
    text = f"<b>{escape(value)}</b>" if best or isinstance(cell, Difference) else escape(value)
    small = "".join(f"<small>{escape(line)}</small>" for line in below.split(" · ") if line)
    kind = "number count" if isinstance(cell, int) else "number best" if best else "number"
    return f'<td class="{kind}">{text}{small}</td>'


def _contents(titles: dict[str, str]) -> str:
    """Links to the parts of the page. titles: by the part's id."""
    items = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in titles.items())
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _chart(wide: Chart, narrow: Chart, name: str) -> str:
    drawn = wide.svg("wide", f"{name}-wide") + narrow.svg("narrow", f"{name}-narrow")
    return f'<figure class="chart" id="{name}"><div>{drawn}</div><figcaption>{escape(wide.caption)}</figcaption></figure>'


def _sheet(sheet: Sheet | None) -> str:
    if sheet is None or not sheet.rows:
        return ""
    ranked = any(row.place for row in sheet.rows)
    how = (
        f"For each subject, the captions with the best, the median and the worst {TITLES[sheet.score]} (mean of all systems)."
        if ranked
        else "The first caption of each held-out photo."
    )
    names = [system.name for system in sheet.columns]
    rows = "".join(_sheet_row(row, names) for row in sheet.rows)
    return (
        f'<section id="sheet"><h2>Fig. 6: contact sheet</h2><p class="note">{escape(how)} The held-out photo comes first, then '
        f"what each system made of its caption. {escape(sheet.note)}</p>{rows}</section>"
    )


def _sheet_row(row: Row, names: list[str]) -> str:
    heading = escape(" · ".join(filter(None, [row.subject, row.place])))
    cells = [_picture(row.reference, f"Held-out photo of {row.subject}", "held-out photo", [])]
    for name, image in zip(names, row.images, strict=True):
        path, lines = (image.path, score_texts(image)) if image else (None, [])
        cells.append(_picture(path, f"{name}: {row.caption}", name, lines))
    caption = escape(row.caption)
    return f'<div class="row"><h3>{heading} <em>{caption}</em></h3><div class="cells">{"".join(cells)}</div></div>'


def _picture(path: Path | None, alt: str, name: str, lines: list[str]) -> str:
    source = _embedded(path)
    shown = f'<img src="{source}" alt="{escape(alt)}">' if source else '<div class="none">no picture</div>'
    scores = " · ".join(f"<span>{escape(part)}</span>" for part in lines)
    return f"<figure>{shown}<figcaption><b>{_breakable(name)}</b>{scores}</figcaption></figure>"


def _embedded(path: Path | None) -> str | None:
    """A small JPEG as a data address; None if there is no file or it cannot be read."""
    picture = thumbnail(path)
    if picture is None:
        return None
    written = io.BytesIO()
    picture.save(written, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
