"""The pictures of a run while it goes on, and when they are drawn: so seldom that drawing is a small share of the time."""

import time

from PIL import Image

from ...trainer.loop import Trainer
from ..pictures import beside
from .held_out import ScoreLog

SECONDS_APART, LARGEST_SHARE = 2.0, 0.05


class RunPictures:
    """Charts of a run, and what its node shows."""

    def __init__(self, trainer: Trainer, name: str, score_log: ScoreLog, watched: str):
        """watched: what the fixed-batch loss is of, in words."""
        self._trainer, self._name, self._score_log, self._watched = trainer, name, score_log, watched
        self.sample: Image.Image | None = None  # the latest
        self._chart: tuple[int, Image.Image] | None = None  # of so many steps
        self._curve: tuple[int, Image.Image] | None = None  # of so many scores
        self._next = 0.0

    @property
    def are_due(self) -> bool:
        """Whether it is time to draw again."""
        return time.monotonic() >= self._next

    def chart(self) -> Image.Image:
        """The loss chart so far."""
        from .charts import draw_chart  # only now: ComfyUI's start need not wait for matplotlib

        settings, step, started = self._trainer.settings, self._trainer.step_count, time.monotonic()
        if self._chart is None or self._chart[0] != step:
            title = f"{self._name}: {settings.method}, step {step}/{settings.steps}"
            self._chart = step, draw_chart(self._trainer.curves, settings.steps, title, watched=self._watched)
            self._drawn(started)
        return self._chart[1]

    def overfitting_curve(self) -> Image.Image:
        """Held-out scores over steps beside those on the training photos (the paper's Fig. 1)."""
        from ..evaluation.report.figures import training_curve  # only now, as above

        scores, started = self._score_log.scores, time.monotonic()
        if self._curve is None or self._curve[0] != len(scores):
            best, why = self._score_log.best(), self._score_log.why_empty()
            step = None if best is None else int(best["step"])
            self._curve = len(scores), training_curve(self._name, scores, step, why).picture()
            self._drawn(started)
        return self._curve[1]

    def preview(self) -> Image.Image:
        """Losses, held-out scores if there are any, the latest sample."""
        chart = beside(self.chart(), self.overfitting_curve()) if self._score_log.scores else self.chart()
        return beside(chart, self.sample)

    def _drawn(self, started: float) -> None:
        now = time.monotonic()
        self._next = now + max(SECONDS_APART, (now - started) / LARGEST_SHARE)
