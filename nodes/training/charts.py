"""The loss chart."""

from PIL import Image

from .. import plotting
from ..plotting import SERIES, Axes, Chart, styled
from .curves import points as short

_COLOURS = {
    "fixed": SERIES[0],
    "subject": SERIES[1],
    "background": SERIES[2],
    "joint": SERIES[3],
    "prior": SERIES[7],
    "contrast": SERIES[4],
}
_TOP, _LEFT, _RIGHT, _FOOT = 34, 66, 10, 40  # pixels: title and a gap, labels of the losses, half a label, labels of the steps
_STRIP, _GAP = 78, 14  # pixels: the height of the contrast's own axes, and what is between them and the others


@styled()
def draw_chart(
    curves: dict[str, list[float]],
    steps: int,
    title: str,
    size: tuple[int, int] = (640, 400),
    watched: str = "training photos",
) -> Image.Image:
    """Losses over steps. The fixed-batch loss is the bold main curve; the losses of the steps themselves are thin and behind
    it. The contrast loss, which is of another size, has axes of its own.

    Import this module where a chart is drawn and no earlier, as matplotlib comes with it.

    curves: as `trainer.loop.Trainer.curves`, NaN where a step has no value. steps: length of the axis. watched: which photos
    the fixed-batch loss is computed on.
    """
    points = {name: short(curves.get(name, []), smooth=name != "fixed") for name in _COLOURS}
    points = {name: found for name, found in points.items() if found}
    contrast = points.pop("contrast", None)
    width, height = (side - 2 * plotting.MARGIN for side in size)
    figure = plotting.blank(width, height)
    plotting.heading(figure, title)
    top = _TOP
    if points:
        names = {"fixed": f"fixed batch ({watched})"}
        entries = [(names.get(name, name), _look(name)) for name in points]
        plotting.key(figure, 26, entries)
        top += plotting.key_height(entries, width)
    bottom = height - _FOOT
    divide = bottom - _STRIP - _GAP if contrast else bottom
    axes = plotting.panel(figure, _LEFT, top, width - _RIGHT, divide)
    _draw(axes, "loss", points, steps)
    if contrast:
        axes.tick_params(labelbottom=False)
        axes = plotting.panel(figure, _LEFT, divide + _GAP, width - _RIGHT, bottom)
        _draw(axes, "contrast", {"contrast": contrast}, steps)
    axes.set_xlabel("step")
    return Chart(figure, title).picture(scale=1)


def _draw(axes: Axes, label: str, points: dict[str, list[tuple[int, float]]], steps: int) -> None:
    """Curves of (step, value) points, the first on top."""
    axes.set_ylabel(label)
    axes.yaxis.set_label_coords(-54 / (plotting.pixels(axes.figure)[0] - _LEFT - _RIGHT), 0.5)
    axes.set_xlim(1 - 0.01 * steps, max(steps, 2) + 0.01 * steps)
    axes.set_ylim(plotting.span([value for curve in points.values() for _, value in curve] or [0.0, 1.0], 0.05))
    plotting.few_ticks(axes.xaxis, 8, integer=True)
    plotting.few_ticks(axes.yaxis, 3 if label == "contrast" else 6)
    for name, curve in reversed(points.items()):
        marked = {"marker": "o", "markersize": 4} if len(curve) < 20 else {}
        axes.plot(*zip(*curve, strict=True), **_look(name), **marked)


def _look(name: str) -> dict:
    return {"color": _COLOURS[name], "linewidth": 3 if name == "fixed" else 1.2}
