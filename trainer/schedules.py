"""The weight w_c of the InfoNCE loss over training (paper, Fig. 7 and 16; formulas are this project's reading)."""

import math

_SHAPES = {
    "cosine": lambda p: (1 - math.cos(math.pi * p)) / 2,
    "sigmoid": lambda p: (_logistic(12 * p - 6) - _logistic(-6)) / (_logistic(6) - _logistic(-6)),
    "linear": lambda p: p,
    # Fast rise: the reading under which the paper's explanation (too heavy too early) fits.
    "exponential": lambda p: (1 - math.exp(-5 * p)) / (1 - math.exp(-5)),
    "exponential_late": lambda p: (math.exp(5 * p) - 1) / (math.exp(5) - 1),
    "zero": lambda p: 0.0,
    "one": lambda p: 1.0,
}
SCHEDULES = tuple(_SHAPES)


def contrast_weight(schedule: str, step: int, steps: int) -> float:
    """w_c / peak, in 0..1, of step 0..steps-1; the progress is p = step / (steps - 1).

    Raises:
        ValueError: unknown schedule.
    """
    if schedule not in _SHAPES:
        raise ValueError(f"contrast_schedule is {schedule!r}: choose one of {', '.join(SCHEDULES)}.")
    return _SHAPES[schedule](step / (steps - 1) if steps > 1 else 0.0)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
