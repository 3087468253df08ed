"""Curves of a run made short enough to be drawn and sent."""

import math
from collections.abc import Sequence

import numpy as np

from ...trainer.schedules import contrast_weight
from ...trainer.settings import TrainingSettings

MOST_POINTS = 400


def points(curve: Sequence[float], smooth: bool) -> list[tuple[int, float]]:
    """(step, value) of the finite values of a curve, at most about `MOST_POINTS`; the last one is among them unless smoothed.

    curve: a value for each step from 1 on. smooth: as a running mean, for curves that are noisy.
    """
    found = [(step, value) for step, value in enumerate(curve, 1) if math.isfinite(value)]
    if smooth and len(found) >= 8:
        window = max(4, len(found) // 40)
        means = np.convolve([value for _, value in found], np.ones(window) / window, "valid").tolist()
        found = list(zip([step for step, _ in found[window // 2 :]], means, strict=False))
    stride = math.ceil(len(found) / MOST_POINTS)
    return found if stride < 2 else [*found[:-1:stride], found[-1]]


def schedule(settings: TrainingSettings) -> list[tuple[int, float]]:
    """w_c over the whole run, as `points`; empty without contrast."""
    if not settings.uses_contrast:
        return []
    shape, last = settings.contrast_schedule, settings.steps
    steps = [*range(1, last, max(1, last // 60)), last]
    return [(step, settings.contrast_weight * contrast_weight(shape, step - 1, last)) for step in steps]
