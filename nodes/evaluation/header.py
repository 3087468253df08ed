"""The first line of a results file: everything that its images and scores depend on, and how two of them differ."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from ...trainer.reading import MEGABYTE, BadFile, Checked, check_size, faults
from ..errors import UserError
from ..pictures import LARGEST_FILE
from .encoders import EvaluationEncoders
from .entries import Entry
from .pdst import Subject

FORMAT, VERSION = "attractor-pdst", 1
LARGEST_RESULTS = 256 * MEGABYTE  # 100,000 images have 70 MB
_LONGEST = 16 * MEGABYTE  # of a header; one of 1,000 photos has 0.3 MB
_Count = Annotated[int, Field(ge=0, le=10_000_000)]


class _Token(Checked):
    placeholder: str
    method: str
    run: str | None = None
    schedule: str | None = None


class _Encoder(Checked):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, str] = Field(init=False)

    backbone: str
    weights: str
    resize: str
    crop: str
    norm: str
    dtype: str


class _Subject(Checked):
    super_category: str
    kind: str
    train: list[str]
    test: list[str]
    captions: list[_Count]
    references: list[str] = []

    @model_validator(mode="after")
    def _one_for_each_test_photo(self) -> "_Subject":
        if len(self.captions) != len(self.test) or len(self.references) not in (0, len(self.test)):
            raise ValueError("captions and references must be one for each test photo")
        return self


class _Header(Checked):
    """The fields of a header that this version reads; they are described in `results`."""

    version: int
    entry: Annotated[str, Field(min_length=1, max_length=1_000)]
    step: _Count | None
    shard: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=2, max_length=2)]
    expected: _Count
    token: _Token | None
    identity: dict[str, str]
    settings: dict[str, Any]
    encoders: dict[str, _Encoder]
    ceiling: dict[str, dict[str, float | None]]
    subjects: dict[str, _Subject]
    trigger: str | None = None
    own_graph: str | None = None


def make_header(
    evaluation: str,
    entry: Entry,
    settings: dict,
    identity: dict[str, str],
    encoders: EvaluationEncoders | None,
    shard: tuple[int, int],
    expected: int,
    together: list[str],
    made_with: dict[str, str],
) -> dict:
    """The header of an entry's results; its fields are described in `results`. identity: hashes of models and subject."""
    subject = entry.subject
    return {
        "format": FORMAT,
        "version": VERSION,
        "evaluation": evaluation,
        "entry": entry.label,
        "step": entry.step,
        "shard": [*shard],
        "expected": expected,
        "token": entry.describe(),
        "identity": {"token": entry.identity or "none", **identity},
        "settings": settings,
        "encoders": encoders.describe() if encoders else {},
        "ceiling": {},
        "subjects": {subject.name: describe_subject(subject)},
        "together": together,
        "made_with": made_with,
        **entry.door(),
    }


def subject_identity(subject: Subject) -> dict[str, str]:
    """Hashes of the content of every photo and of its captions, and what the subject is."""
    name = subject.name
    found = {f"subject {name}": f"{subject.super_category}, {subject.kind}"}
    for path in (*subject.train, *(photo.path for photo in subject.test)):
        check_size(path, LARGEST_FILE, "a photo")
        found[f"photo {name}/{path.parent.name}/{path.name}"] = _short_hash(path.read_bytes())
    for photo in subject.test:
        found[f"captions {name}/{photo.path.name}"] = _short_hash("\n".join(photo.captions).encode())
    return found


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def describe_subject(subject: Subject) -> dict:
    """A subject for a header."""
    return {
        "super_category": subject.super_category,
        "kind": subject.kind,
        "train": [path.name for path in subject.train],
        "test": [photo.path.name for photo in subject.test],
        "captions": [len(photo.captions) for photo in subject.test],
        "references": [f"photos/{subject.name}/{photo.path.stem}.jpg" for photo in subject.test],
    }


def read_header(path: Path) -> dict | None:
    """The header of a results file; None if there is no file, or only a part of a header.

    Raises:
        UserError: it is not a results file that this version can read.
    """
    if not path.exists():
        return None
    try:
        check_size(path, LARGEST_RESULTS, "a file of results")
    except BadFile as error:
        raise UserError(str(error)) from error
    with open(path, "rb") as file:
        line = file.readline(_LONGEST)
    if not line.endswith(b"\n") and len(line) < _LONGEST:
        return None
    try:
        header = json.loads(line)
        json.dumps(header, ensure_ascii=False).encode()  # lone surrogates, which no report could show
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise UserError(f"{path.name} is not a results file of PDST Evaluate. Move it out of the folder {path.parent.name}.")
    if isinstance(header.get("version"), int) and header["version"] > VERSION:
        raise UserError(f"{path.name} has version {header['version']} and this pack reads up to {VERSION}: update the pack.")
    if wrong := faults(_Header, header):
        raise UserError(
            f"{path.name} is damaged in its first line ({', '.join(wrong)}). Restore it, or delete it and evaluate again."
        )
    return header


def header_differences(old: dict, new: dict, alone: bool = True) -> list[str]:
    """What differs between two headers, in words; empty if their results belong together.

    alone: compare as results of one entry; else as two entries of one evaluation, whose tokens and subjects may differ. How
    the images of an own graph were sampled nobody knows: of the settings those are compared that both have.
    """
    new = json.loads(json.dumps(new))
    settings = [old["settings"], new["settings"]]
    if not alone and ("own_graph" in old) != ("own_graph" in new):
        settings = [{key: one[key] for key in one if all(key in other for other in settings)} for one in settings]
    found = _changes(settings[0], settings[1], "setting ") + _changes(old["encoders"], new["encoders"], "encoder ")
    before, now = old["identity"], new["identity"]
    if alone:
        found += _changes(before, now, "")
        found += [f"{key} was {old[key]!r}, is {new[key]!r}" for key in ("entry", "step", "expected") if old[key] != new[key]]
    else:
        shared = [name for name in old["subjects"] if name in new["subjects"]]
        own = [key for key in before if key in now and key != "token" and not _of_subject(key)]
        own += [key for key in {**before, **now} if _of_subject(key) in shared]
        found += _changes({k: before[k] for k in own if k in before}, {k: now[k] for k in own if k in now}, "")
    return found


def _of_subject(key: str) -> str | None:
    """The subject that a part of the identity belongs to; `photo cat/train/1.jpg` -> cat."""
    kind, _, path = key.partition(" ")
    return path.split("/")[0] if kind in ("photo", "captions", "subject") else None


def _changes(old: dict, new: dict, prefix: str) -> list[str]:
    lines = []
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            if prefix:
                lines.append(f"{prefix}{key} was {old.get(key)!r}, is {new.get(key)!r}")
            else:
                change = "is new" if key not in old else "is gone" if key not in new else "has changed"
                lines.append(f"{key} {change}")
    return lines


def differs(path: Path, differences: list[str]) -> str:
    """The message that results on disk were made from something else."""
    other = (
        "If this is another token with the same placeholder, method and step, type names into labels. "
        if "token has changed" in differences
        else ""
    )
    shown = differences[:12] + ([f"and {len(differences) - 12} more"] if len(differences) > 12 else [])
    return (
        f"name: {path.parent.name}/{path.name} holds results of other settings, models or files, and results are not mixed:\n- "
        + "\n- ".join(shown)
        + f"\n{other}Restore what differs, use another name, or turn on start_over to replace the results under this name."
    )
