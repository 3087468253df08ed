"""What a training run says of itself while it goes on: a sentence on the node, and the record that the panel shows."""

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ...trainer.storage import replacing
from ..errors import UserError
from ..host import folders
from ..host.progress import Interrupted, Progress
from ..host.web import tell

EVENT, RECORD_FILE = "attractor.run", "run.json"
_SECONDS_APART = 0.5  # between two events of one state
_going_on: dict[Path, "Live"] = {}  # by the run's folder
_lock = threading.Lock()


def live_run(folder: Path) -> "Live | None":
    """The run that this process is training in a folder."""
    with _lock:
        return _going_on.get(folder.resolve())


class Live:
    """A run in this process, for as long as the `with` block lasts. What it says goes to the node as a line of text, to every
    open page as an event and, once something of the run has been kept, to `run.json` in its folder.

    state is one of preparing, training, scoring, sampling, cancelled, failed, done.
    """

    def __init__(self, folder: Path, name: str, steps: int, progress: Progress):
        """name: of the run, under output/neti."""
        self.folder, self._progress = folder, progress
        self._record: dict[str, Any] = {
            "name": name,
            "folder": f"{folders.TOKENS}/{name}",
            "state": "preparing",
            "text": "",
            "step": 0,
            "steps": steps,
            "notes": [],
        }
        self.kept: int | None = None  # the last step that is on disk
        self._saved = False  # whether this part of the run has written anything yet
        self._told = 0.0
        # Of the run that is trained, once there is one.
        self.curves: Callable[[], Mapping[str, list[float]]] = dict
        self.scores: Callable[[], list[dict[str, float]]] = list
        self.stale: Callable[[], Collection[Path]] = tuple  # files that an earlier run of this name has left

    def __enter__(self) -> "Live":
        with _lock:
            _going_on[self.folder.resolve()] = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None) -> None:
        if isinstance(error, Interrupted):
            self._end("cancelled", self._cancelled())
        elif error is not None:
            said = str(error) if isinstance(error, UserError) else f"Stopped by an error: {type(error).__name__}: {error}"
            self._end("failed", " ".join(said.split())[:400])
        with _lock:
            _going_on.pop(self.folder.resolve(), None)

    @property
    def record(self) -> dict[str, Any]:
        """A copy of what the run says now, JSON-able."""
        return {**self._record, "kept": self.kept}

    def say(self, state: str, text: str, **facts: Any) -> None:
        """A new sentence. facts: further entries of the record, kept until they are said anew."""
        changed = state != self._record["state"]
        self._record = {**self._record, "state": state, "text": text, **facts}
        self._progress.text(" · ".join([text, *self._record["notes"]]))
        now = time.monotonic()
        if changed or now - self._told >= _SECONDS_APART:
            self._told = now
            tell(EVENT, {**self.record, "node": self._progress.node_id})

    def about(self, **facts: Any) -> None:
        """Entries of the record that are the same for the whole run."""
        self._record.update(facts)

    def done(self, text: str, **facts: Any) -> None:
        """The run is at its last step, and all of it is on disk."""
        self._record.update(facts)
        self._end("done", text)

    def saved(self, step: int) -> None:
        """What was learnt up to a step is on disk."""
        self.kept, self._saved = step, True
        self._store()

    def _end(self, state: str, text: str) -> None:
        self.say(state, text, pace=None, seconds_left=None)
        if self._saved:
            with suppress(OSError):  # the sentence has been said; the record of the last save stands
                self._store()

    def _cancelled(self) -> str:
        if self._record["state"] == "preparing":
            return "Cancelled before training began. What is in the run's folder is as it was."
        where = f"output/{self._record['folder']}"
        return f"Cancelled at step {self.kept} of {self._record['steps']}. Kept in {where}: queue again to go on."

    def _store(self) -> None:
        with replacing(self.folder / RECORD_FILE) as temporary:
            temporary.write_text(json.dumps(self.record, indent=1), encoding="utf-8")
