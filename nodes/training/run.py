"""One training run on disk and on screen: resumes, reports progress, and keeps what was learnt whatever happens."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ...trainer.checkpoint import CannotResume, load_state, save_state
from ...trainer.concept import PersonalizedToken
from ...trainer.loop import NonFiniteLoss, StepResult, Trainer
from ...trainer.storage import replacing
from ...trainer.token_file import save_token
from ..errors import UserError
from ..host.progress import Interrupted, Progress, is_out_of_memory
from ..pictures import beside
from .held_out import ScoreLog

STATE_FILE = "resume.state"
MakeSample = Callable[[PersonalizedToken], Image.Image]
Score = Callable[[PersonalizedToken, Callable[[int], None]], dict[str, float]]
PREVIEW_SECONDS = 2.0


class Run:
    """A run's folder and its loop: `<folder>/<name>.safetensors`, `resume.state`, `chart.png`, `curves.json`, `samples/`,
    a token for each checkpoint, and with a data set `scores.json` and the best step's token, `<name>-best.safetensors`."""

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        identity: dict[str, str],
        record: dict,
        shrink: Callable[[Trainer, Exception], None],
        scored_with: dict | None = None,
    ):
        """shrink(trainer, error): makes the next attempt at a step need less memory, or raises. scored_with: what held-out
        scores depend on; None if there are none."""
        self.trainer, self.folder, self._identity, self._record = trainer, folder, identity, record
        self._shrink = shrink
        self._sample: Image.Image | None = None
        self._saved_step = -1
        self._stale = self._earlier()
        self.score_log = ScoreLog(folder / "scores.json", scored_with)
        self.notes: list[str] = []  # for the user, shown before the status
        self._shown = 0.0  # when the last preview was
        self._curve: Image.Image | None = None  # as of the last score; previews come far more often

    @property
    def token_path(self) -> Path:
        return self.folder / f"{self.folder.name}.safetensors"

    @property
    def best_path(self) -> Path:
        """Where the token of the best step is, if steps were scored."""
        return self.folder / f"{self.folder.name}-best.safetensors"

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
            raise UserError(
                f"name: the run '{self.folder.name}' exists and cannot be resumed: {error} Give another name, "
                "restore what differs, or turn resume off to start over."
            ) from error
        self._saved_step, self._stale = self.trainer.step_count, {}
        if note := self.score_log.resume(self.trainer.step_count):
            self.notes.append(note)
        return self.trainer.step_count

    def train(self, progress: Progress, sample: MakeSample, score: Score | None = None) -> None:
        """Run the remaining steps.

        sample(token) makes a sample picture. score(token, report) gives held-out scores and reports each image; without it
        nothing is scored.

        Raises:
            Interrupted: the user cancelled; the partial result is saved.
            UserError: a loss is not finite, or a file could not be written.
        """
        settings, pace = self.trainer.settings, _Pace(self.trainer.step_count)
        try:
            self._score_if_due(progress, score)  # cancelled while it was scored, or done before a data set was wired
            while self.trainer.step_count < settings.steps:
                result = self._step()
                scored = self._score_if_due(progress, score)
                if _due(result.step, settings.checkpoint_every):
                    self.save(snapshot=True)
                sampled = _due(result.step, settings.sample_every)
                if sampled:
                    self._sample = sample(self.token())
                    self._save_sample(self._sample, result.step)
                progress.text(" · ".join([*self.notes, _status(result, settings.steps, pace.of(result.step))]))
                self._show(progress, result.step, sampled or scored or result.step == settings.steps)
        except Interrupted:
            self.save()
            raise
        except NonFiniteLoss as error:
            kept = f"at step {self._saved_step}" if self._saved_step > 0 else "(none was saved yet)"
            raise UserError(
                f"Training stopped at {error}. Lower learning_rate (preset 'paper' is the lowest) and give the run "
                f"another name. Kept: this run's last checkpoint {kept}."
            ) from error
        self.save()

    def _show(self, progress: Progress, step: int, at_once: bool) -> None:
        """Move the bar, with a new preview where there is something new or the last one is old."""
        if at_once or time.monotonic() - self._shown > PREVIEW_SECONDS:
            self._shown = time.monotonic()
            progress.update(step, self._preview())
        else:
            progress.update(step)

    def _score_if_due(self, progress: Progress, score: Score | None) -> bool:
        """Score the token as it is, if this step is to be scored and is not yet; keep it if it is the best so far."""
        step, settings = self.trainer.step_count, self.trainer.settings
        due = settings.score_every and step and (_due(step, settings.score_every) or step == settings.steps)
        if score is None or not due or self.score_log.of_step(step):
            return False
        self.save()  # nothing is lost if scoring fails, and no score is ever of a later step than the state
        self.score_log.add(step, score(self.token(), lambda made: progress.text(f"step {step}: scoring image {made}")))
        self._curve = None
        with self._writing():
            best = self.score_log.best()
            if best is not None and best["step"] == step:
                save_token(self.token(), self.best_path)
            self.score_log.save()
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

    def token(self) -> PersonalizedToken:
        """The run's state as a token, with its held-out scores if this step has them."""
        scored = self.score_log.of_step(self.trainer.step_count)
        record = {**self._record, "identity": self._identity, **({"scores": scored} if scored else {})}
        return self.trainer.token(record)

    def chart(self) -> Image.Image:
        """The run's loss chart so far."""
        from .charts import draw_chart  # only now: ComfyUI's start need not wait for matplotlib

        settings = self.trainer.settings
        return draw_chart(
            self.trainer.curves,
            settings.steps,
            f"{self.folder.name}: {settings.method}, step {self.trainer.step_count}/{settings.steps}",
            watched="held-out photos" if self.trainer.held_out else "training photos",
        )

    def overfitting_curve(self) -> Image.Image:
        """Held-out scores over steps beside those on the training photos (the paper's Fig. 1)."""
        from ..evaluation.report.figures import training_curve  # only now, as above

        if self._curve is None:
            best, why = self.score_log.best(), self.score_log.why_empty()
            step = None if best is None else int(best["step"])
            self._curve = training_curve(self.folder.name, self.score_log.scores, step, why).picture()
        return self._curve

    def _preview(self) -> Image.Image:
        """What the node shows while it works: losses, held-out scores if there are any, the latest sample."""
        chart = beside(self.chart(), self.overfitting_curve()) if self.score_log.scores else self.chart()
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
            self._remove_stale()
        self._saved_step = step

    def _save_sample(self, picture: Image.Image, step: int) -> None:
        with self._writing():
            self._save_picture(picture, self.folder / "samples" / f"step-{step:06d}.png")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what to do where a file cannot be written."""
        try:
            yield
        except Exception as error:  # safetensors raises an error class of its own
            raise UserError(
                f"The run '{self.folder.name}' could not be saved at step {self.trainer.step_count}: {error}. "
                "Free space or choose another output folder; queue again to resume from the last whole "
                "checkpoint."
            ) from error

    def _earlier(self) -> dict[Path, int]:
        """Files of an earlier run of this name, which would be taken for this one's, with the times of their last change."""
        own = self.folder.name
        found = [*self.folder.glob("*.safetensors"), *self.folder.glob("samples/step-*.png"), self.folder / "scores.json"]
        return {
            path: path.stat().st_mtime_ns
            for path in found
            if path.exists() and path.name.startswith((f"{own}-step-", f"{own}-best.", "step-", "scores."))
        }

    def _remove_stale(self) -> None:
        """Once there is something instead."""
        for path, changed in self._stale.items():
            if path.exists() and path.stat().st_mtime_ns == changed:
                path.unlink()
        self._stale = {}

    @staticmethod
    def _save_picture(picture: Image.Image, path: Path) -> None:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")


class _Pace:
    """Steps a second since a run went on."""

    def __init__(self, first: int):
        self._first, self._started = first, time.monotonic()

    def of(self, step: int) -> float:
        return (step - self._first) / (time.monotonic() - self._started)


def _due(step: int, every: int) -> bool:
    """Whether something is to be done at a step that is done every so many steps; 0 is never."""
    return every > 0 and step % every == 0


def _status(result: StepResult, steps: int, pace: float) -> str:
    """The text line of a step: step, losses, pace and time left."""
    losses = " · ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    left = int((steps - result.step) / pace)
    return f"step {result.step}/{steps} · {losses} · {pace:.2f} steps/s · {left // 60}:{left % 60:02d} left"
