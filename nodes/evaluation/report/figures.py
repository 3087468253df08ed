"""The report's figures: scores with intervals, and the paper's Fig. 1 (scores over training steps). Fig. 5 is in `bubble`."""

from collections.abc import Container

from ... import plotting
from ...plotting import DASHED, INK, PAPER, SERIES, SOFT, Axes, Chart, Figure, styled
from ..metrics import TITLES
from ..statistics import CONFIDENCE, Bootstrap, Estimate, estimate
from .gather import Collected, System
from .tables import ceiling, held_out

WIDE, NARROW = 760, 372  # pixels of width: in the graph and in the page on a screen, on a phone
_LEFT, _RIGHT, _TOP = 50, 22, 28  # pixels: for labels at the axes' left, half a label at their right, the heading


@styled()
def empty(title: str, text: str, width: int = WIDE) -> Chart:
    """A chart of nothing that says why."""
    figure = plotting.blank(width, 72)
    plotting.heading(figure, title)
    plotting.words(figure, 0, 48, plotting.shorten(text, width, 12), color=SOFT)
    return Chart(figure, title, text)


# --- scores with intervals ------------------------------------------------------------------------------------------


@styled()
def intervals(data: Collected, bootstrap: Bootstrap, width: int = WIDE) -> Chart:
    """Each held-out score with its interval, a row a system; the ceiling as a line."""
    systems, scores = [system for system in data.compared if system.images], held_out(data)
    entries, title = _interval_key(data), _interval_title(data)
    top = _TOP + plotting.key_height(entries, width)
    row = 38 if width == NARROW else 26
    tall = row * len(systems) + 60
    figure = plotting.blank(width, top + tall * len(scores))
    plotting.heading(figure, title)
    plotting.key(figure, _TOP, entries)
    left = 20 if width == NARROW else min(280.0, 14 + max(plotting.text_width(system.name, 13) for system in systems))
    for number, score in enumerate(scores):
        start = top + number * tall + 32
        plotting.words(figure, 0, start - 14, TITLES[score], size=13, weight="bold")
        axes = plotting.panel(figure, left, start, width - _RIGHT, start + row * len(systems))
        estimates = [estimate(system.values(score), bootstrap) for system in systems]
        _draw_intervals(axes, systems, estimates, ceiling(data, score))
        plotting.few_ticks(axes.xaxis, 5 if width == NARROW else 7)
        for i, system in enumerate(systems):
            if width == NARROW:
                plotting.words(figure, 0, start + row * i + 11, plotting.shorten(system.name, width, 12))
            else:
                name = plotting.shorten(system.name, left - 14, 13)
                plotting.words(figure, left - 12, start + row * (i + 0.5), name, size=13, ha="right")
    spoken = (f"{TITLES[k]}: " + ", ".join(f"{s.name} {s.mean(k):.3f}" for s in systems) for k in scores)
    caption = (
        "How to read it: the dot is a system's mean score. The bar shows where the mean might lie if other subjects or photos "
        "had been used. Further right is better. Where two bars overlap, see the paired differences below before you call one "
        "system better."
    )
    return Chart(figure, title, "; ".join(spoken), f"{caption} {_SCHEDULES}" if len(data.schedules) > 1 else caption)


_SCHEDULES = (
    "Cosine, zero and the like are schedules: how the weight of the contrast between subject and attractors grows over a "
    "training. The paper compares them in its Fig. 7."
)


def _interval_title(data: Collected) -> str:
    """Named after the paper's figure where schedules are all that is compared."""
    methods = {system.method for system in data.compared if not system.floor}
    if len(data.schedules) > 1 and len(methods) == 1:
        return "Fig. 7: held-out scores by schedule of the contrast"
    return "Held-out scores with intervals"


def _interval_key(data: Collected) -> plotting.Key:
    entries = [(f"mean and {CONFIDENCE:.0%} interval", {"color": INK, "linewidth": 3, "marker": "o", "markersize": 9})]
    if any(system.floor for system in data.compared):
        hollow = {"color": SOFT, "marker": "o", "markersize": 9, "markerfacecolor": PAPER, "linestyle": "none"}
        entries.append(("floor", hollow))
    if any(ceiling(data, score) is not None for score in held_out(data)):
        entries.append(("ceiling", {"color": SOFT, "linewidth": 1.5, "linestyle": DASHED}))
    return entries


def _draw_intervals(axes: Axes, systems: list[System], estimates: list[Estimate], real: float | None) -> None:
    narrow = plotting.pixels(axes.figure)[0] == NARROW  # names stand above the marks, not at their left
    ends = [value for e in estimates for value in (e.mean, e.low, e.high, real) if value is not None]
    axes.set_xlim(plotting.span(ends, 0.05))
    axes.set_ylim(len(systems) - 0.5, -0.5)
    axes.set_yticks([])
    if real is not None:
        axes.axvline(real, color=SOFT, linewidth=1.5, linestyle=DASHED)
    for i, (system, e) in enumerate(zip(systems, estimates, strict=True)):
        colour, y = SOFT if system.floor else SERIES[i % len(SERIES)], i + (0.2 if narrow else 0)
        if e.low is not None:
            axes.plot([e.low, e.high], [y, y], color=colour, linewidth=3)
        axes.plot(e.mean, y, "o", color=colour, markersize=9, markerfacecolor=PAPER if system.floor else colour)


# --- scores over training steps -------------------------------------------------------------------------------------

Lines = dict[tuple[str, str], list[tuple[int, Estimate]]]  # {(series, score): [(step, its estimate)]}
_CURVE_CAPTION = (
    "How to read it: solid lines compare the images with photos that training never saw, dashed lines with the training "
    "photos. While a token learns, both rise. Where the dashed line stays up and the solid one falls, the token overfits: it "
    "repeats its training photos. The best step was chosen on these very photos, so its score is a little too good."
)


@styled()
def curves(data: Collected, bootstrap: Bootstrap, width: int = WIDE) -> Chart:
    """Fig. 1: scores over checkpoints, against held-out photos (solid) and against training photos (dashed)."""
    title = "Fig. 1: scores over training steps"
    if not data.series:
        return empty(title, "Evaluate several checkpoints of a run to see them over steps.", width)
    panels = {
        score: {
            (name, measure): [
                (system.step, estimate(system.values(measure), bootstrap)) for system in systems if system.step is not None
            ]
            for name, systems in data.series.items()
            for measure in (score, f"{score}_train")
            if measure in data.scores
        }
        for score in _in_order(held_out(data))
    }
    colours = {name: SERIES[data.compared.index(systems[-1]) % len(SERIES)] for name, systems in data.series.items()}
    best = ("best held-out score", {"color": INK, "linestyle": "none", "markerfacecolor": "none", **_RING})
    entries = [*((name, {"color": colour}) for name, colour in colours.items()), *_line_key(panels), best]
    top, tall = _TOP + plotting.key_height(entries, width), _HEAD + 160
    figure = plotting.blank(width, top + len(panels) * tall + _FOOT)
    plotting.heading(figure, title)
    plotting.key(figure, _TOP, entries)
    steps = [step for lines in panels.values() for line in lines.values() for step, _ in line]
    for number, (score, lines) in enumerate(panels.items()):
        start = top + number * tall
        axes = _panel(figure, TITLES[score], (0, start, width, start + tall), steps)
        axes.tick_params(labelbottom=score == list(panels)[-1])
        _draw_lines(axes, lines, colours)
        for (name, measure), line in lines.items():
            if measure == score:
                step, highest = max(line, key=lambda point: point[1].mean)
                axes.plot(step, highest.mean, color=colours[name], markerfacecolor="none", **_RING)
    spoken = (
        f"{name}, {TITLES[measure]}: " + ", ".join(f"step {step} {e.mean:.3f}" for step, e in line)
        for lines in panels.values()
        for (name, measure), line in lines.items()
    )
    return Chart(figure, title, "; ".join(spoken), _CURVE_CAPTION)


@styled()
def training_curve(name: str, scores: list[dict[str, float]], best_step: int | None, why_empty: str) -> Chart:
    """Fig. 1 of a single run, from the scores it took while training: `{"step": 100, "clip_t": 0.25, ...}` each.

    With its margin it is as large as the loss chart.
    """
    title = f"{name}: scores over training steps"
    width, height = 640 - 2 * plotting.MARGIN, 400 - 2 * plotting.MARGIN
    names = {name for entry in scores for name in entry}
    if not _in_order(names) or best_step is None:
        return empty(title, why_empty, width)
    steps = [int(entry["step"]) for entry in scores]
    panels = {
        score: {
            ("", measure): [
                (step, Estimate(entry[measure], None, None, 1, 1, "image"))
                for step, entry in zip(steps, scores, strict=True)
                if measure in entry
            ]
            for measure in (score, f"{score}_train")
            if measure in names
        }
        for score in _in_order(names)
    }
    kept = {"color": SOFT, "linewidth": 1.5, "linestyle": ":"}
    entries = [*_line_key(panels), (f"kept as best: step {best_step}", kept)]
    figure = plotting.blank(width, height)
    plotting.heading(figure, title)
    plotting.key(figure, _TOP, entries)
    top = _TOP + plotting.key_height(entries, width)
    wide = width / len(panels)
    for number, (score, lines) in enumerate(panels.items()):
        axes = _panel(figure, TITLES[score], (number * wide, top, (number + 1) * wide, height - _FOOT), [0, *steps])
        axes.axvline(best_step, **kept)
        _draw_lines(axes, lines, {"": SERIES[0]})
    return Chart(figure, title, f"best step {best_step}")


_HEAD, _FOOT = 32, 42  # pixels: a panel's title, the labels below a panel
_RING = {"marker": "o", "markersize": 12, "markeredgewidth": 1.5}


def _in_order(scores: Container[str]) -> list[str]:
    """The held-out scores, those of the subject's likeness first: they are what overfitting lowers."""
    return [score for score in ("dino", "clip_i", "clip_t") if score in scores]


def _line_key(panels: dict[str, Lines]) -> plotting.Key:
    entries = [("held-out photos", {"color": INK, **_line_look(trained=False)})]
    if any(measure not in panels for lines in panels.values() for _, measure in lines):
        entries.append(("training photos", {"color": INK, **_line_look(trained=True)}))
    return entries


def _line_look(trained: bool) -> dict:
    return {"marker": "o", "markersize": 5, **({"linestyle": DASHED, "markerfacecolor": PAPER} if trained else {})}


def _panel(figure: Figure, title: str, box: tuple[float, float, float, float], steps: list[int]) -> Axes:
    """Axes with a title above them. box: left, top, right, bottom in pixels; labels of the steps stand below it."""
    left, top, right, bottom = box
    plotting.words(figure, left, top + _HEAD - 12, title, size=13, weight="bold")
    axes = plotting.panel(figure, left + _LEFT, top + _HEAD, right - _RIGHT, bottom)
    axes.set_xlim(plotting.span(steps, 0.02))
    plotting.few_ticks(axes.xaxis, round((right - left) / 90), integer=True)
    plotting.few_ticks(axes.yaxis, 5)
    if bottom > plotting.pixels(figure)[1] - _FOOT - 1:
        axes.set_xlabel("training step", labelpad=4)
    return axes


def _draw_lines(axes: Axes, lines: Lines, colours: dict[str, str]) -> None:
    """Held-out scores solid with a band for their interval, scores on training photos dashed."""
    ends = [value for line in lines.values() for _, e in line for value in (e.mean, e.low, e.high) if value is not None]
    axes.set_ylim(plotting.span(ends, 0.06))
    for (name, measure), line in lines.items():
        steps, trained = [step for step, _ in line], measure.endswith("_train")
        means = [e.mean for _, e in line]
        axes.plot(steps, means, color=colours[name], **_line_look(trained))
        if not trained and all(e.low is not None for _, e in line):
            low, high = [e.low for _, e in line], [e.high for _, e in line]
            axes.fill_between(steps, low, high, color=colours[name], alpha=0.12, linewidth=0)
