"""The loss chart, drawn with Pillow: no plotting library to install or to wait for at start."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLOURS = {
    "fixed": (20, 90, 200),
    "subject": (230, 130, 20),
    "background": (60, 160, 80),
    "joint": (150, 90, 190),
    "prior": (110, 110, 110),
    "contrast": (200, 50, 60),
}
_GREY, _INK, _PAPER = (225, 225, 225), (60, 60, 60), (255, 255, 255)
_LEFT, _RIGHT = 64, 16


def draw_chart(
    curves: dict[str, list[float]],
    steps: int,
    title: str,
    size: tuple[int, int] = (640, 400),
    watched: str = "training photos",
) -> Image.Image:
    """Losses over steps. The fixed-batch loss is the bold main curve; the step's own losses lie thin behind it,
    and the contrast loss, of another size, in a strip of its own.

    curves: as `trainer.loop.Trainer.curves`, NaN where a step has no value. steps: length of the axis. watched: whose loss the
    fixed-batch loss is.
    """
    image = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    shown = {name: _points(curves.get(name, []), smooth=name != "fixed") for name in _COLOURS}
    shown = {name: points for name, points in shown.items() if points}
    contrast = {name: shown.pop(name) for name in ("contrast",) if name in shown}

    draw.text((_LEFT, 4), title, fill=_INK, font=font)
    left = _LEFT
    for name in (*shown, *contrast):
        label = f"fixed batch ({watched})" if name == "fixed" else name
        draw.rectangle([left, 26, left + 10, 34], fill=_COLOURS[name])
        draw.text((left + 14, 22), label, fill=_INK, font=font)
        left += 28 + draw.textlength(label, font=font)
    floor = size[1] - 28
    divide = floor - 90 if contrast else floor
    _panel(draw, font, shown, steps, (_LEFT, 50, size[0] - _RIGHT, divide), rows=5)
    if contrast:
        _panel(draw, font, contrast, steps, (_LEFT, divide + 26, size[0] - _RIGHT, floor), rows=2)
    draw.text((_LEFT, floor + 6), "step 1", fill=_INK, font=font)
    draw.text((size[0] - _RIGHT, floor + 6), str(steps), fill=_INK, font=font, anchor="ra")
    return image


def _panel(draw, font, shown: dict[str, list], steps: int, box: tuple[int, int, int, int], rows: int) -> None:
    """Curves of (step, value) points in a box (left, top, right, bottom) with `rows` labelled lines."""
    left, top, right, bottom = box
    values = [value for points in shown.values() for _, value in points] or [0.0, 1.0]
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * (step - 1) / max(steps - 1, 1)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    for i in range(rows):
        value = low + (high - low) * i / (rows - 1)
        y = place(1, value)[1]
        draw.line([(left, y), (right, y)], fill=_GREY)
        draw.text((left - 8, y), f"{value:.3g}", fill=_INK, font=font, anchor="rm")
    for name, points in reversed(shown.items()):
        path = [place(*point) for point in points]
        if len(path) > 1:
            draw.line(path, fill=_COLOURS[name], width=3 if name == "fixed" else 1, joint="curve")
        else:
            draw.circle(path[0], 3, fill=_COLOURS[name])


def _points(curve: list[float], smooth: bool) -> list[tuple[int, float]]:
    """(step, value) of the finite values; noisy curves as a running mean, at most about 400 points."""
    points = [(i + 1, value) for i, value in enumerate(curve) if math.isfinite(value)]
    if not smooth or len(points) < 8:
        return points
    window = max(4, len(points) // 40)
    values = np.convolve([value for _, value in points], np.ones(window) / window, "valid")
    middle = [step for step, _ in points[window // 2 :]]
    stride = max(1, len(values) // 400)
    return list(zip(middle, values.tolist(), strict=False))[::stride]
