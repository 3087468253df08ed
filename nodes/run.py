"""One training run on disk and on screen: resumes, reports progress, and keeps what was learnt whatever happens."""

import json
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..trainer.checkpoint import CannotResume, load_state, save_state
from ..trainer.files import replacing
from ..trainer.loop import NonFiniteLoss, StepResult, Trainer
from ..trainer.token_file import save_token
from .chart import beside, draw_chart
from .errors import UserError
from .host.progress import Interrupted, Progress, is_out_of_memory

STATE_FILE = "resume.state"
SCORES_FILE = "scores.json"
PREVIEW_SECONDS = 2.0


@dataclass(frozen=True)
class Schedule:
    """What a run does every so many steps; 0 is never."""

    checkpoint_every: int
    sample_every: int
    score_every: int = 0


class Run:
    """A run's folder and its loop: `<folder>/<name>.safetensors`, `resume.state`, `chart.png`, `curves.json`, `samples/`,
    a token for each checkpoint, and with a data set `scores.json` and the best step's token, `<name>-best.safetensors`.

    scores: held-out scores by step, `{"step": ..., "clip_t": ..., ...}` as `evaluation.metrics.score` names them.
    """

    def __init__(self, trainer: Trainer, folder: Path, identity: dict[str, str], record: dict, shrink):
        """shrink(trainer, error): makes the next attempt at a step need less memory, or raises."""
        self.trainer, self.folder, self._identity, self._record = trainer, folder, identity, record
        self._shrink = shrink
        self._sample: Image.Image | None = None
        self._saved_step = -1
        self.scores: list[dict[str, float]] = []

    @property
    def token_path(self) -> Path:
        return self.folder / f"{self.folder.name}.safetensors"

    @property
    def best_path(self) -> Path:
        """Where the token of the best step is, if steps were scored."""
        return self.folder / f"{self.folder.name}-best.safetensors"

    def best(self) -> dict[str, float] | None:
        """The scores of the best step so far; of equal ones the earliest."""
        return max(self.scores, key=overall_score, default=None)

    def resume(self) -> int:
        """Go on from the folder's state if there is one; returns the steps done.

        Raises:
            UserError: the state belongs to something else; says what differs.
        """
        path = self.folder / STATE_FILE
        if not path.exists():
            return 0
        try:
            load_state(self.trainer, path, self._identity)
        except CannotResume as error:
            raise UserError(f"name: the run '{self.folder.name}' exists and cannot be resumed: {error} Give another name, "
                            "restore what differs, or turn resume off to start over.") from error
        self._saved_step = self.trainer.step_count
        if (self.folder / SCORES_FILE).exists():
            # Steps after the saved one are taken, and scored, again.
            scored = json.loads((self.folder / SCORES_FILE).read_text())
            self.scores = [scores for scores in scored if scores["step"] <= self.trainer.step_count]
        return self.trainer.step_count

    def train(self, progress: Progress, schedule: Schedule, sample=None, score=None) -> None:
        """Run the remaining steps. `sample(token) -> Image` makes a sample picture, `score(token) -> dict` held-out scores.

        Raises:
            Interrupted: the user cancelled; the partial result is saved.
            UserError: a loss is not finite, or a file could not be written.
        """
        started, first = time.monotonic(), self.trainer.step_count
        last_preview = 0.0
        try:
            self._score_if_due(schedule, score)  # cancelled while it was scored, or done before a data set was wired
            while self.trainer.step_count < self.trainer.settings.steps:
                result = self._step()
                scored = self._score_if_due(schedule, score)
                if schedule.checkpoint_every and result.step % schedule.checkpoint_every == 0:
                    self.save(snapshot=True)
                sampled = sample and schedule.sample_every and result.step % schedule.sample_every == 0
                if sampled:
                    self._sample = sample(self.token())
                    self._save_sample(result.step)
                pace = (result.step - first) / (time.monotonic() - started)
                progress.text(_status(result, self.trainer.settings.steps, pace))
                due = time.monotonic() - last_preview > PREVIEW_SECONDS
                if sampled or scored or due or result.step == self.trainer.settings.steps:
                    last_preview = time.monotonic()
                    progress.update(result.step, self._preview())
                else:
                    progress.update(result.step)
        except Interrupted:
            self.save()
            raise
        except NonFiniteLoss as error:
            kept = f"at step {self._saved_step}" if self._saved_step > 0 else "(none was saved yet)"
            raise UserError(f"Training stopped at {error}. Lower learning_rate (preset 'paper' is the lowest) and give the run "
                            f"another name. Kept: this run's last checkpoint {kept}.") from error
        self.save()

    def _score_if_due(self, schedule: Schedule, score) -> bool:
        """Score the token as it is, if this step is to be scored and is not yet; keep it if it is the best so far."""
        step = self.trainer.step_count
        due = schedule.score_every and step and (step % schedule.score_every == 0 or step == self.trainer.settings.steps)
        if not (score and due) or any(scores["step"] == step for scores in self.scores):
            return False
        self.scores.append({"step": step, **score(self.token())})
        with self._writing():
            if self.best() is self.scores[-1]:
                save_token(self.token(), self.best_path)
            with replacing(self.folder / SCORES_FILE) as temporary:
                temporary.write_text(json.dumps(self.scores, indent=1))
        return True

    def _step(self) -> StepResult:
        """A step, taken again with less memory if the device runs out."""
        while True:
            try:
                return self.trainer.step()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = error.with_traceback(None)  # the traceback's frames hold the graph
            self._shrink(self.trainer, reason)

    def token(self):
        """The run's state as a token, with its held-out scores if this step has them."""
        scored = next((scores for scores in self.scores if scores["step"] == self.trainer.step_count), None)
        record = {**self._record, "identity": self._identity, **({"scores": scored} if scored else {})}
        return self.trainer.token(record)

    def chart(self) -> Image.Image:
        """The run's loss chart so far."""
        settings = self.trainer.settings
        return draw_chart(self.trainer.curves, settings.steps,
                          f"{self.folder.name}: {settings.method}, step {self.trainer.step_count}/{settings.steps}",
                          watched="held-out photos" if self.trainer.held_out else "training photos")

    def overfitting_curve(self) -> Image.Image:
        """Held-out scores over steps beside those on the training photos (the paper's Fig. 1)."""
        from .evaluation.report.charts import training_curve  # only now: ComfyUI's start need not wait for drawing

        best = self.best()
        return training_curve(self.folder.name, self.scores, best and best["step"]).picture(scale=1)

    def _preview(self) -> Image.Image:
        """What the node shows while it works: losses, held-out scores if there are any, the latest sample."""
        chart = beside(self.chart(), self.overfitting_curve()) if self.scores else self.chart()
        return beside(chart, self._sample)

    def save(self, snapshot: bool = False) -> None:
        """Write token, state, curves and chart; with `snapshot` also a token named after the step.

        Raises:
            UserError: a file could not be written; those before it are whole.
        """
        step = self.trainer.step_count
        with self._writing():
            token = self.token()
            save_token(token, self.token_path)
            if snapshot:
                save_token(token, self.folder / f"{self.folder.name}-step-{step:06d}.safetensors")
            save_state(self.trainer, self.folder / STATE_FILE, self._identity)
            with replacing(self.folder / "curves.json") as temporary:
                temporary.write_text(json.dumps(self.trainer.curves))
            self._save_picture(self.chart(), self.folder / "chart.png")
        self._saved_step = step

    def _save_sample(self, step: int) -> None:
        with self._writing():
            self._save_picture(self._sample, self.folder / "samples" / f"step-{step:06d}.png")

    @contextmanager
    def _writing(self):
        """Says what to do where a file cannot be written."""
        try:
            yield
        except Exception as error:  # safetensors raises an error class of its own
            raise UserError(f"The run '{self.folder.name}' could not be saved at step {self.trainer.step_count}: {error}. "
                            "Free space or choose another output folder; queue again to resume from the last whole "
                            "checkpoint.") from error

    @staticmethod
    def _save_picture(picture: Image.Image, path: Path) -> None:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")


def overall_score(scores: dict[str, float]) -> float:
    """One number to choose a checkpoint by: the geometric mean of the held-out CLIP-T, CLIP-I and DINO that are there.

    Relative changes count alike, whatever the scores' sizes; a token that trades all of one for another does not win.
    """
    values = [max(scores[name], 0.0) for name in ("clip_t", "clip_i", "dino") if name in scores]
    return math.prod(values) ** (1 / len(values))


def _status(result: StepResult, steps: int, pace: float) -> str:
    """The text line of a step: step, losses, pace and time left."""
    losses = " · ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    left = int((steps - result.step) / pace)
    return f"step {result.step}/{steps} · {losses} · {pace:.2f} steps/s · {left // 60}:{left % 60:02d} left"
