"""The words that a training run says of itself."""

import time

from ...trainer.loop import StepResult
from ..evaluation.metrics import TITLES
from .held_out import COMPARED


class Pace:
    """Steps a second since a run went on."""

    def __init__(self, first: int):
        self._first, self._started = first, time.monotonic()

    def of(self, step: int) -> float:
        return (step - self._first) / (time.monotonic() - self._started)


def step_line(result: StepResult, steps: int, pace: float, left: float) -> str:
    """The text line of a step: what one wants to know first comes first, as the end may be cut off. left: in seconds."""
    losses = " · ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    speed = f"{pace:.2f} steps/s" if pace >= 0.5 else f"{1 / pace:.1f} s/step"
    return f"Step {result.step} of {steps} · {duration(left)} left · {speed} · {losses}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def summary(name: str, step: int, best: dict[str, float] | None, token: str, best_token: str, early: int) -> str:
    """What came out of a run. best: the scores of its best step, if there are any. token, best_token: names of the files.
    early: after how many scores that were no better it stopped before its last step; 0: it did not."""
    where, done = f"output/neti/{name}", f"Done: {step} steps."
    if early:
        done += f" It stopped early, as {early} held-out score{'s were' if early > 1 else ' was'} no better (patience)."
    if best is None:
        return f"{done} The token is {where}/{token}"
    scores = ", ".join(f"{TITLES[name]} {best[name]:.3f}" for name in COMPARED if name in best)
    return f"{done} The best is step {best['step']:.0f} ({scores}): {where}/{best_token}"
