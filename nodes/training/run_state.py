"""What can be told of a training run by its name: while it goes on in this process, and from its folder at any other time."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from ...trainer.reading import BadFile, Checked, conform, read_json
from ..host import folders
from ..locks import is_held
from .curves import points
from .live import RECORD_FILE, live_run

_SAMPLE = re.compile(r"step-(\d{6,7})(?:-(\d{1,3}))?\.png")
_MOST_SAMPLES = 1000
_LARGEST = 2**20  # bytes of run.json
_ENDED = ("cancelled", "failed", "done")
Point = tuple[int, float]


class _Photo(Checked):
    file: Annotated[str, Field(pattern=r"^[\w-]+\.png$")]
    label: Annotated[str, Field(max_length=100)]


class _Record(Checked):
    """`run.json`: what `Live` kept of a run."""

    model_config = ConfigDict(strict=False, allow_inf_nan=False, extra="ignore")

    state: Annotated[str, Field(max_length=20)]
    text: Annotated[str, Field(max_length=2000)]
    step: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    kept: Annotated[int, Field(ge=0)]
    notes: list[Annotated[str, Field(max_length=1000)]] = []
    method: Annotated[str, Field(max_length=100)] = ""
    watched: Annotated[str, Field(max_length=100)] = ""
    best: dict[str, float] | None = None
    schedule: Annotated[list[Point], Field(max_length=200)] = []
    photo: _Photo | None = None


class _Curves(Checked):
    curves: Annotated[dict[str, list[float]], Field(max_length=32)]

    model_config = ConfigDict(strict=False, allow_inf_nan=True)


class _Scores(Checked):
    scores: list[dict[str, float]]


def run_state(name: str) -> dict[str, Any]:
    """Everything that the panel shows, JSON-able and of bounded size: `Live`'s record; `curves` as points by name; `scores` by
    step; `samples` with step, number of the prompt, file and time; `folder`, where those files are under the output folder. A
    run that does not exist has the state `none`, one that was killed `stopped`.

    Raises:
        UserError: the name cannot be that of a run.
    """
    folder = folders.output_path(name)
    live = live_run(folder)
    if live is not None:
        record, curves, scores, stale = live.record, dict(live.curves()), list(live.scores()), set(live.stale())
    else:
        record, stale = _stored(folder), set()
        curves = _read(folder / "curves.json", _Curves, "curves") or {}
        scores = _read(folder / "scores.json", _Scores, "scores") or []
    return {
        **record,
        "name": name,
        "folder": f"{folders.TOKENS}/{name}",
        "curves": {key: points(list(curve), smooth=key not in ("fixed", "contrast_weight")) for key, curve in curves.items()},
        "scores": scores[-1000:],
        "samples": [sample for sample in _samples(folder) if sample.pop("path") not in stale],
    }


def _stored(folder: Path) -> dict[str, Any]:
    """The record of a run that is not going on here."""
    try:
        content = read_json(_own(folder / RECORD_FILE), most=_LARGEST)
        record = conform(_Record, content, RECORD_FILE).model_dump()
    except BadFile:
        known = (folder / "resume.state").is_file()  # of a version that wrote no record, or the record is damaged
        text = "A run of this name is there: queueing goes on with it." if known else ""
        return {"state": "stopped" if known else "none", "text": text, "step": 0, "steps": 0, "notes": []}
    if record["state"] in _ENDED or is_held(folder):
        return record
    kept = f"Step {record['kept']} of {record['steps']} is kept: queue again to go on."
    return {**record, "state": "stopped", "text": f"ComfyUI ended in the middle of this run. {kept}"}


def _read(path: Path, schema: type[Checked], key: str) -> Any:
    """A part of a file of the run, or None if it is not there or damaged."""
    try:
        content = read_json(_own(path))
        return getattr(conform(schema, {key: content} if key == "curves" else content, path.name), key)
    except BadFile:
        return None


def _own(path: Path) -> Path:
    """A file of a run's folder.

    Raises:
        BadFile: it is a link.
    """
    if path.is_symlink():
        raise BadFile(f"{path.name} is a link to another place.")
    return path


def _samples(folder: Path) -> list[dict[str, Any]]:
    """The latest sample images, in order of steps."""
    root = folder / "samples"
    names = [] if root.is_symlink() else _names(root)
    found = [(int(match[1]), int(match[2] or 1), root / match[0]) for name in names if (match := _SAMPLE.fullmatch(name))]
    return [
        {"step": step, "prompt": prompt, "file": path.name, "time": path.stat().st_mtime_ns // 10**6, "path": path}
        for step, prompt, path in sorted(found)[-_MOST_SAMPLES:]
        if path.is_file() and not path.is_symlink()
    ]


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
