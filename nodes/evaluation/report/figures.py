"""The report's charts: the paper's Fig. 5 (systems as discs), Fig. 1 (scores over checkpoints), scores with intervals."""

import math
from collections.abc import Callable

from ..statistics import Bootstrap, Estimate
from .drawing import Drawing, series_colour, text_width
from .gather import Collected
from .tables import TITLES, ceiling, held_out

PICTURE, WIDE, NARROW = 760, 1080, 372  # pixels of width: in the graph, in the page on a screen, on a phone
_ROW = 26


def _ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """At most `most` + 1 round numbers from `low` to `high`, and how they are written: all to the same decimal."""
    rough = max(high - low, 1e-6) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(tick, f"{tick + 0.0:.{decimals}f}".replace("-", "−")) for tick in ticks]


def _span(values: list[float], margin: float = 0.12) -> tuple[float, float]:
    """A range with room around the values."""
    low, high = min(values), max(values)
    room = max((high - low) * margin, 0.004)
    return low - room, high + room


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _shorten(text: str, width: float, size: int) -> str:
    """A text that fits into `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def empty(title: str, text: str, width: int = PICTURE) -> Drawing:
    """A chart of nothing that says why."""
    drawing = Drawing(width, 120, title, text)
    drawing.words(0, 18, title, bold=True, size=15)
    drawing.words(0, 58, text, "soft")
    return drawing


def bubble(data: Collected, y_score: str, width: int = PICTURE) -> Drawing:
    """Fig. 5: each system a disc; CLIP-T to the right, `y_score` up, the third score its size."""
    scores = held_out(data)
    if len(scores) < 3:
        return empty("Systems by all three scores", "Needs CLIP-T, CLIP-I and DINO: evaluate with both encoders.", width)
    size_score = "clip_i" if y_score == "dino" else "dino"
    systems = [s for s in data.compared if s.images]
    means = {s: {score: s.mean(score) for score in scores} for s in systems}
    narrow = width < 500
    height, left, right, top, bottom = (400 if narrow else 480), 62, 2, 62, 52
    drawing = Drawing(
        width,
        height,
        f"CLIP-T, {TITLES[y_score]} and {TITLES[size_score]} of each system",
        "; ".join(f"{s.name}: " + ", ".join(f"{TITLES[score]} {means[s][score]:.3f}" for score in scores) for s in systems),
    )
    drawing.words(0, 18, f"CLIP-T and {TITLES[y_score]}", bold=True, size=15)
    drawing.words(0, 40, f"disc: {TITLES[size_score]} · up and right is better", "soft", 12)
    x_low, x_high = _span([means[s]["clip_t"] for s in systems], 0.3)
    y_low, y_high = _span([means[s][y_score] for s in systems], 0.25)
    x = _scale(x_low, x_high, left, width - right)
    y = _scale(y_low, y_high, height - bottom, top)
    for tick, label in _ticks(x_low, x_high, 4 if narrow else 7):
        drawing.line([(x(tick), top), (x(tick), height - bottom)], "grid")
        drawing.words(x(tick), height - bottom + 14, label, "soft", 12, "middle")
    for tick, label in _ticks(y_low, y_high, 6):
        drawing.line([(left, y(tick)), (width - right, y(tick))], "grid")
        drawing.words(left - 8, y(tick), label, "soft", 12, "end")
    drawing.words((left + width - right) / 2, height - 14, "CLIP-T (follows the caption)", "soft", 12, "middle")
    drawing.words(
        13,
        (top + height - bottom) / 2,
        f"{TITLES[y_score]} (looks like the held-out photo)",
        "soft",
        12,
        "middle",
        upright=False,
    )
    sizes = [means[s][size_score] for s in systems]
    low, high = min(sizes), max(sizes)
    radius = {s: 9 + 15 * ((means[s][size_score] - low) / (high - low) if high > low else 0.5) for s in systems}
    discs = {s: (x(means[s]["clip_t"]), y(means[s][y_score]), radius[s]) for s in systems}
    for i, system in sorted(enumerate(systems), key=lambda pair: -radius[pair[1]]):
        drawing.disc(*discs[system], "soft" if system.floor else series_colour(i), 0.35, hollow=system.floor)
    taken = [(cx - r, cy - r, cx + r, cy + r) for cx, cy, r in discs.values()]
    for system in systems:
        text = _shorten(system.name, width - left - right - 12, 13)
        box = _place(discs[system], text_width(text, 13), (left, top, width - right, height - bottom), taken)
        taken.append(box)
        drawing.words(box[0], (box[1] + box[3]) / 2, text)
        drawing.words(box[0], (box[1] + box[3]) / 2 + 14, f"{means[system][size_score]:.3f}", "soft", 11)
    return drawing


def _place(disc, width: float, frame, taken: list) -> tuple[float, float, float, float]:
    """Where a label of two lines beside a disc covers the least of others, and stays in the frame."""
    cx, cy, r = disc
    height = 32
    beyond, before, middle = cx + r, cx - r - width, cx - width / 2
    spots = [
        (beyond + 5, cy - 9),
        (before - 5, cy - 9),
        (middle, cy + r + 5),
        (middle, cy - r - 5 - height),
        (beyond, cy + r * 0.7),
        (beyond, cy - r - height),
        (before, cy + r * 0.7),
        (before, cy - r - height),
    ]
    best, least = None, math.inf
    for order, (left, top) in enumerate(spots):
        left = min(max(left, frame[0] + 2), frame[2] - width)
        top = min(max(top, frame[1]), frame[3] - height)
        box = (left, top, left + width, top + height)
        cover = sum(
            max(0.0, min(box[2], o[2]) - max(box[0], o[0])) * max(0.0, min(box[3], o[3]) - max(box[1], o[1])) for o in taken
        )
        if cover + order * 1e-3 < least:
            best, least = box, cover + order * 1e-3
    return best


def curves(data: Collected, bootstrap: Bootstrap, width: int = PICTURE) -> Drawing:
    """Fig. 1: scores over checkpoints, against held-out photos (solid) and against training photos (dashed)."""
    title = "Scores over checkpoints"
    if not data.series:
        return empty(title, "Evaluate several checkpoints of a run to see them over steps.", width)
    panels = [(score, [score, *([f"{score}_train"] if f"{score}_train" in data.scores else [])]) for score in held_out(data)]
    panels.sort(key=lambda panel: ("dino", "clip_i", "clip_t").index(panel[0]))
    series = list(data.series.items())
    colours = {name: series_colour(data.compared.index(systems[-1])) for name, systems in series}
    steps = [system.step for _, systems in series for system in systems]
    legend, left, right, tall = 84 + 20 * len(series), 46, 8, 190
    height = legend + len(panels) * (tall + 34) + 22
    drawing = Drawing(width, height, title, _spoken(series, panels))
    drawing.words(0, 18, title, bold=True, size=15)
    both = any(len(names) > 1 for _, names in panels)
    _legend(drawing, colours, width, both)
    x = _scale(min(steps), max(steps), left + 8, width - right - 8)
    for number, (score, names) in enumerate(panels):
        top = legend + number * (tall + 34) + 24
        found = {
            (name, measure): [(s.step, s.estimate(measure, bootstrap)) for s in systems]
            for name, systems in series
            for measure in names
        }
        _panel(drawing, found, TITLES[score], x, (left, top, width - right, top + tall - 8), colours)
    for step in sorted(set(_at_most(sorted(set(steps)), 4 if width < 500 else 8))):
        drawing.words(x(step), height - 14, f"{step}", "soft", 12, "middle")
    drawing.words(left - 8, height - 14, "step", "soft", 12, "end")
    return drawing


def _at_most(values: list[int], count: int) -> list[int]:
    """So many of the values, evenly, the first and last among them."""
    if len(values) <= count:
        return values
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _legend(drawing: Drawing, colours: dict[str, str], width: int, both: bool) -> None:
    left = 0
    for i, (name, colour) in enumerate(colours.items()):
        y = 42 + 20 * i
        drawing.line([(left, y), (left + 22, y)], colour, 2.5)
        drawing.words(left + 28, y, _shorten(name, width - left - 40, 13))
    y = 42 + 20 * len(colours)
    if both:
        drawing.line([(left, y), (left + 22, y)], "ink", 2)
        drawing.words(left + 28, y, "held-out", "soft", 12)
        drawing.line([(left + 96, y), (left + 118, y)], "ink", 2, dashed=True)
        drawing.words(left + 124, y, "training photos (biased)", "soft", 12)
        y += 20
    drawing.disc(left + 11, y, 6, "ink", 0.25)
    drawing.words(left + 28, y, "best step by held-out photos", "soft", 12)


def _panel(drawing: Drawing, found: dict, title: str, x, box, colours: dict[str, str]) -> None:
    left, top, right, bottom = box
    values = [v for line in found.values() for _, e in line for v in (e.mean, e.low, e.high) if v is not None]
    low, high = _span(values, 0.06)
    y = _scale(low, high, bottom, top)
    for tick, label in _ticks(low, high, 4):
        drawing.line([(left, y(tick)), (right, y(tick))], "grid")
        drawing.words(left - 8, y(tick), label, "soft", 12, "end")
    drawing.words(0, top - 14, title, bold=True)
    for (name, measure), line in found.items():
        if not measure.endswith("_train") and all(e.low is not None for _, e in line):
            band = [(x(s), y(e.low)) for s, e in line] + [(x(s), y(e.high)) for s, e in reversed(line)]
            drawing.area(band, colours[name], 0.12)
    for (name, measure), line in found.items():
        colour, biased = colours[name], measure.endswith("_train")
        drawing.line([(x(s), y(e.mean)) for s, e in line], colour, 2.2, dashed=biased)
        for step, e in line:
            drawing.disc(x(step), y(e.mean), 2.5, colour)
        if not biased:
            best = max(line, key=lambda point: point[1].mean)
            drawing.disc(x(best[0]), y(best[1].mean), 6, colour, 0.25)


def _spoken(series, panels) -> str:
    parts = []
    for name, systems in series:
        for _, measures in panels:
            for measure in measures:
                line = ", ".join(f"step {s.step} {s.mean(measure):.3f}" for s in systems)
                parts.append(f"{name}, {TITLES[measure]}: {line}")
    return "; ".join(parts)


def intervals(data: Collected, bootstrap: Bootstrap, width: int = PICTURE) -> Drawing:
    """Each score with its interval, a row a system; the ceiling as a line."""
    systems, scores = [s for s in data.compared if s.images], held_out(data)
    narrow = width < 500
    names = 0 if narrow else min(280, 12 + max(text_width(s.name, 13) for s in systems))
    row = _ROW + 16 if narrow else _ROW
    tall = row * len(systems) + 62
    drawing = Drawing(
        width,
        34 + tall * len(scores),
        "Held-out scores with intervals",
        "; ".join(f"{TITLES[score]}: " + ", ".join(f"{s.name} {s.mean(score):.3f}" for s in systems) for score in scores),
    )
    drawing.words(0, 18, "Held-out scores with intervals", bold=True, size=15)
    for number, score in enumerate(scores):
        found = [system.estimate(score, bootstrap) for system in systems]
        real = ceiling(data, score)
        values = [v for e in found for v in (e.mean, e.low, e.high) if v is not None] + ([real] if real is not None else [])
        low, high = _span(values, 0.05)
        left, right, top = 6 + names, width - 6, 34 + number * tall + 24
        x, bottom = _scale(low, high, left, right), top + row * len(systems)
        drawing.words(0, top - 10, TITLES[score], bold=True)
        for tick, label in _ticks(low, high, 4 if narrow else 7):
            drawing.line([(x(tick), top), (x(tick), bottom)], "grid")
            drawing.words(x(tick), bottom + 12, label, "soft", 12, "middle")
        if real is not None:
            drawing.line([(x(real), top), (x(real), bottom)], "soft", 1.5, dashed=True)
            drawing.words(min(x(real), right), top - 10, "real photos", "soft", 12, "end")
        for i, (system, e) in enumerate(zip(systems, found, strict=True)):
            y = top + row * (i + 0.5)
            colour = "soft" if system.floor else series_colour(i)
            if narrow:
                drawing.words(0, y - 9, _shorten(system.name, right - left, 12), "ink", 12)
                y += 8
            else:
                drawing.words(left - 10, y, _shorten(system.name, names - 10, 13), "ink", 13, "end")
            if e.low is not None:
                drawing.line([(x(e.low), y), (x(e.high), y)], colour, 3)
            drawing.disc(x(e.mean), y, 5, colour, 0 if system.floor else 1)
    return drawing


def training_curve(
    name: str, scores: list[dict[str, float]], best_step: int | None, why_empty: str, width: int = WIDE
) -> Drawing:
    """Fig. 1 of a single run, from the scores it took while training: `{"step": 100, "clip_t": 0.25, ...}` each."""
    title = f"{name}: held-out scores over steps"
    if not scores:
        return empty(title, why_empty, width)
    shown = [score for score in ("dino", "clip_i", "clip_t") if score in scores[0]]
    steps = [entry["step"] for entry in scores]
    legend, left, right, tall = 104, 46, 8, 150
    height = legend + len(shown) * (tall + 34) + 22
    drawing = Drawing(width, height, title, f"best step {best_step}")
    drawing.words(0, 18, title, bold=True, size=15)
    colours = {f"kept: step {best_step}, by the geometric mean of all": series_colour(0)}
    (series,) = colours
    _legend(drawing, colours, width, both=True)
    x = _scale(min(steps) - 0.5, max(steps) + 0.5, left + 8, width - right - 8)
    for number, score in enumerate(shown):
        top = legend + number * (tall + 34) + 24
        found = {
            (series, measure): [(entry["step"], Estimate(entry[measure], None, None, 1, 1, "image")) for entry in scores]
            for measure in (score, f"{score}_train")
            if measure in scores[0]
        }
        box = (left, top, width - right, top + tall - 8)
        drawing.line([(x(best_step), box[1]), (x(best_step), box[3])], "soft", 1, dashed=True)
        _panel(drawing, found, TITLES[score], x, box, colours)
    for step in _at_most(steps, 8):
        drawing.words(x(step), height - 14, f"{step}", "soft", 12, "middle")
    drawing.words(left - 8, height - 14, "step", "soft", 12, "end")
    return drawing
