"""One training run on disk and on screen: resumes, reports progress, and keeps what was learnt whatever happens."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ...trainer.checkpoint import CannotResume, load_state, save_state
from ...trainer.concept import PersonalizedToken
from ...trainer.disk import MANY_PHOTOS, keeps_steps
from ...trainer.loop import NonFiniteLoss, StepResult, Trainer
from ...trainer.storage import replacing
from ...trainer.token_file import save_token
from ..errors import UserError
from ..host.memory import is_out_of_memory
from ..host.progress import Interrupted, Progress
from ..pictures import BadPicture, opened
from .curves import schedule
from .held_out import ScoreLog
from .live import Live
from .run_pictures import RunPictures
from .sentences import Pace, step_line, summary

STATE_FILE, PHOTO_FILE = "resume.state", "photo.png"
MakeSample = Callable[[PersonalizedToken], list[Image.Image]]
Score = Callable[[PersonalizedToken, Callable[[int], None]], dict[str, float]]


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
        live: Live,
        scored_with: dict | None = None,
    ):
        """shrink(trainer, error): makes the next attempt at a step need less memory, or raises. live: told what goes on.
        scored_with: what held-out scores depend on; None if there are none."""
        self.trainer, self.folder, self._identity, self._record, self.live = trainer, folder, identity, record, live
        self._shrink = shrink
        self._saved_step = -1
        self._stale = self._earlier()
        self.score_log = ScoreLog(folder / "scores.json", scored_with)
        self.notes: list[str] = []  # for the user, shown before the status
        self._failed: dict[str, str] = {}  # what could not be made, by what it is
        self._photo: tuple[Image.Image, str] | None = None  # until it is saved
        watched = "held-out photos" if trainer.held_out else "training photos"
        self.pictures = RunPictures(trainer, folder.name, self.score_log, watched)
        live.curves, live.scores, live.stale = lambda: trainer.curves, lambda: self.score_log.scores, lambda: self._stale
        live.about(
            method=trainer.settings.method,
            watched=watched,
            schedule=schedule(trainer.settings),
        )

    def compare_with(self, photo: Image.Image, what: str) -> None:
        """A photo of the subject that the panel shows beside the samples."""
        self._photo = (photo, what)

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
        self.live.kept = self.trainer.step_count
        self.notes.append(f"resumed at step {self.trainer.step_count}")
        if note := self.score_log.resume(self.trainer.step_count):
            self.notes.append(note)
        self.pictures.sample = self._last_sample()
        return self.trainer.step_count

    def train(self, progress: Progress, sample: MakeSample, score: Score | None = None) -> None:
        """Run the remaining steps.

        sample(token) makes a picture of each sample prompt. score(token, report) gives held-out scores and reports each image;
        without it nothing is scored.

        Raises:
            Interrupted: the user cancelled; the partial result is saved.
            UserError: a loss is not finite, or a file could not be written.
        """
        settings, pace = self.trainer.settings, Pace(self.trainer.step_count)
        self._sweep()
        self._say("training", "The first step is on its way.")
        try:
            self._do_what_is_due(sample, score)  # what a kill or a cancel came before, and a data set wired since
            while self.trainer.step_count < settings.steps and not self.score_log.has_stalled(settings.patience):
                result = self._step()
                self._do_what_is_due(sample, score)
                speed = pace.of(result.step)
                left = (settings.steps - result.step) / speed
                self._say("training", step_line(result, settings.steps, speed, left), pace=speed, seconds_left=left)
                self._show(progress, result.step)
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
        self.live.done(self.summary(), step=self.trainer.step_count)

    def _say(self, state: str, text: str, **facts: float) -> None:
        notes = [*self.notes, *self._failed.values()]
        self.live.say(state, text, step=self.trainer.step_count, notes=notes, best=self.score_log.best(), **facts)

    def summary(self) -> str:
        """What came out, in a sentence or two."""
        settings, best = self.trainer.settings, self.score_log.best()
        early = settings.patience if self.trainer.step_count < settings.steps else 0
        files = self.token_path.name, self.best_path.name
        return summary(self.live.record["name"], self.trainer.step_count, best, *files, early)

    def _do_what_is_due(self, sample: MakeSample, score: Score | None) -> None:
        """Checkpoint, held-out scores and sample of the present step, where they are due and not there yet.

        What was learnt is saved before anything else is tried, and what else fails does not stop the training.
        """
        step, settings = self.trainer.step_count, self.trainer.settings
        if step == 0:
            return
        scored = score is not None and settings.score_every > 0 and not self.score_log.of_step(step)
        scored = scored and (_due(step, settings.score_every) or step == settings.steps)
        there = self._is_there(self._step_path(step)) if keeps_steps(settings) else self._saved_step == step
        checkpoint = _due(step, settings.checkpoint_every) and not there
        sampled = _due(step, settings.sample_every) and not self._is_there(self._sample_path(step))
        if not (scored or checkpoint or sampled):
            return
        self.save(with_chart=self.pictures.are_due)
        if scored and score is not None:
            self._optional("held-out scores", lambda: self._score(score))
        if checkpoint and keeps_steps(settings):
            with self.writing():
                save_token(self._step_token(), self._step_path(step))
        if sampled:
            self._optional("the sample", lambda: self._make_sample(sample))

    def _score(self, score: Score) -> None:
        """Score the token as it is, and keep it if it is the best so far."""
        step = self.trainer.step_count
        images = self.trainer.settings.score_images

        def report(made: int) -> None:
            self._say("scoring", f"Step {step}: scoring on held-out photos, image {made} of {images}.")

        self.score_log.add(step, score(self.token(), report))
        best = self.score_log.best()
        if best is not None and best["step"] == step:
            save_token(self._step_token(), self.best_path)
        self.score_log.save()

    def _make_sample(self, sample: MakeSample) -> None:
        self._say("sampling", f"Step {self.trainer.step_count}: making the sample image.")
        pictures = sample(self.token())
        self.pictures.sample = pictures[0]
        for number, picture in reversed(list(enumerate(pictures, 1))):  # the first last: once it is there, all are
            _save_picture(picture, self._sample_path(self.trainer.step_count, number))

    def _optional(self, what: str, action: Callable[[], object]) -> None:
        """Something that training can do without. If it fails, training continues and says so on the node and in the log."""
        try:
            action()
            self._failed.pop(what, None)
        except Interrupted:
            raise
        except Exception as error:
            step = self.trainer.step_count
            logging.warning("%s of step %d could not be made, training continues", what, step, exc_info=error)
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self._failed[what] = f"{what} of step {step} could not be made ({reason[0][:200]})"

    def _last_sample(self) -> Image.Image | None:
        """The picture that an earlier part of the run ended with."""
        paths = sorted(path for path in self.folder.glob("samples/step-*.png") if path <= self._sample_path(self._saved_step))
        if paths:
            with suppress(BadPicture), opened(paths[-1]) as picture:  # if it is damaged, the next sample takes its place
                return picture.convert("RGB")
        return None

    def _step_path(self, step: int) -> Path:
        return self.folder / f"{self.folder.name}-step-{step:06d}.safetensors"

    def _sample_path(self, step: int, prompt: int = 1) -> Path:
        """Of a sample prompt, counted from 1."""
        return self.folder / "samples" / (f"step-{step:06d}.png" if prompt == 1 else f"step-{step:06d}-{prompt}.png")

    def _is_there(self, path: Path) -> bool:
        """Whether a file of this run is there; one that an earlier run of the same name left does not count."""
        return path.exists() and path not in self._stale

    def _show(self, progress: Progress, step: int) -> None:
        """Move the bar, with a new preview where it is time for one."""
        preview: list[Image.Image] = []
        if self.pictures.are_due or step == self.trainer.settings.steps:
            self._optional("the preview", lambda: preview.append(self.pictures.preview()))
        progress.update(step, *preview)

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

    def _step_token(self) -> PersonalizedToken:
        """The same for a step's file: of many photos without the attractors, which the state and the last token have."""
        token = self.token()
        return token if len(token.attractors) <= MANY_PHOTOS else replace(token, attractors=())

    def save(self, with_chart: bool = True) -> None:
        """Write token, state and curves, and the chart if it is wanted and can be drawn.

        Raises:
            UserError: a file could not be written; those before it are whole.
        """
        with self.writing():
            save_token(self.token(), self.token_path)
            save_state(self.trainer, self.folder / STATE_FILE, self._identity)
            with replacing(self.folder / "curves.json") as temporary:
                temporary.write_text(json.dumps(self.trainer.curves))
            self._remove_stale()
            if self._photo is not None:
                photo, what = self._photo
                _save_picture(photo, self.folder / PHOTO_FILE)
                self.live.about(photo={"file": PHOTO_FILE, "label": what})
                self._photo = None
            self.live.saved(self.trainer.step_count)
        self._saved_step = self.trainer.step_count
        if with_chart:
            self._optional("the chart", lambda: _save_picture(self.pictures.chart(), self.folder / "chart.png"))

    @contextmanager
    def writing(self) -> Iterator[None]:
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

    def _sweep(self) -> None:
        """Remove what a write that was killed has left: ours, and safetensors' own. Nobody else writes here, as the folder is
        locked."""
        for left in (*self.folder.rglob(".*.tmp"), *self.folder.rglob(".tmp??????")):
            left.unlink(missing_ok=True)


def _save_picture(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _due(step: int, every: int) -> bool:
    """Whether something is to be done at a step that is done every so many steps; 0 is never."""
    return every > 0 and step % every == 0
