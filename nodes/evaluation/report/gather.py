"""From results on disk to the systems that a report compares."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ...errors import UserError
from ...host.folders import below
from ..entries import FLOOR, TRIGGER
from ..header import header_differences
from ..metrics import SCORES
from ..results import EntryResults, read_results
from ..statistics import Bootstrap, Estimate, Key, estimate

FEW = 6  # systems that can all be shown side by side
_METHODS = {  # as in the paper, but the last
    "textual_inversion": "TI",
    "textual_inversion+": "TI+",
    "neti": "NeTI",
    "neti+": "NeTI+",
    "dreambooth": "DreamBooth",
    "dreambooth_lora": "DreamBooth-LoRA",
    "custom_diffusion": "Custom Diffusion",
    TRIGGER: "trigger phrase",
}


@dataclass(frozen=True, eq=False)
class Image:
    """A generated image. folder: of its evaluation. photo: the copy of its held-out photo, relative to the folder."""

    folder: Path
    evaluation: str
    entry: str
    key: Key
    record: dict
    photo: str | None

    @property
    def path(self) -> Path | None:
        """The file; None if it was not saved."""
        return _file(self.folder, self.record["image"])

    @property
    def reference(self) -> Path | None:
        """The held-out photo's file; None if it was not saved."""
        return _file(self.folder, self.photo)

    @property
    def scores(self) -> dict[str, float]:
        return self.record["scores"]


@dataclass(frozen=True, eq=False)
class System:
    """A row of the report: a method over its subjects, one checkpoint of it, one token, or the floor.

    series: the name of its run, if it is one of several checkpoints of that run. method: as tokens name it. schedule: of the
    contrast's weight, if all its tokens have one and it is the same.
    """

    name: str
    images: dict[Key, Image]
    floor: bool = False
    step: int | None = None
    series: str | None = None
    method: str = FLOOR
    schedule: str | None = None

    def values(self, score: str, subjects: Iterable[str] | None = None) -> dict[Key, float]:
        """{image: its score}, for some subjects or all."""
        chosen = self._by_subject if subjects is None else subjects
        return {
            image.key: image.scores[score]
            for name in chosen
            for image in self._by_subject.get(name, ())
            if score in image.scores
        }

    def mean(self, score: str) -> float:
        values = self.values(score).values()
        return sum(values) / len(values)

    def estimate(self, score: str, bootstrap: Bootstrap, subjects: Iterable[str] | None = None) -> Estimate | None:
        """The mean of a score with its interval; None if there are no images."""
        values = self.values(score, subjects)
        return estimate(values, bootstrap) if values else None

    @property
    def subjects(self) -> set[str]:
        return set(self._by_subject)

    @cached_property
    def _by_subject(self) -> dict[str, list[Image]]:
        found: dict[str, list[Image]] = {}
        for key, image in self.images.items():
            found.setdefault(key[0], []).append(image)
        return found


@dataclass(frozen=True, eq=False)
class Collected:
    """Everything that a report is made from.

    systems: in order, the floor last. subjects: {name: {super_category, kind, ...}}. ceiling: {subject: {score: value}}.
    scores: those that the results have, in the order of `SCORES`. warnings: what makes rows hard to compare.
    """

    systems: tuple[System, ...]
    subjects: dict[str, dict]
    ceiling: dict[str, dict[str, float | None]]
    encoders: dict[str, dict[str, str]]
    settings: dict
    scores: tuple[str, ...]
    evaluations: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[System, ...]:
        """All systems if they are few; else only the last checkpoint of each run, and whatever is not a checkpoint."""
        if len(self.systems) <= FEW:
            return self.systems
        last = {system.series: system for system in self.systems if system.series}
        return tuple(system for system in self.systems if not system.series or last[system.series] is system)

    @property
    def schedules(self) -> list[str]:
        """The schedules of the contrast's weight, in order; more than one makes the comparison that of the paper's Fig. 7."""
        return list(dict.fromkeys(system.schedule for system in self.systems if system.schedule))

    @property
    def series(self) -> dict[str, list[System]]:
        """{run: its checkpoints, in the order of steps}."""
        found: dict[str, list[System]] = {}
        for system in self.systems:
            if system.series:
                found.setdefault(system.series, []).append(system)
        return found

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, subject in self.subjects.items() if subject["kind"] == kind]


def collect(paths: list[Path], grouping: str = "method") -> Collected:
    """Read evaluations and group their images into the systems that a report compares.

    grouping: `method`: the tokens of one method, each on its own subject, are one system. `token`: each token is a system.

    Raises:
        UserError: results are incomplete, have no scores, or were scored by different encoders.
    """
    paths = list(dict.fromkeys(Path(path).resolve() for path in paths))
    read = _read(paths)
    scored = [(folder, entry) for folder, entry in read if entry.header["encoders"]]
    if not scored:
        raise UserError("results: there are images but no scores. Evaluate again with metrics on and encoders wired.")
    warnings = [
        f"{entry.evaluation}/{entry.entry} has no scores and is left out." for _, entry in read if not entry.header["encoders"]
    ]
    warnings += _differences([entry for _, entry in scored])
    subjects: dict[str, dict] = {}
    ceiling: dict[str, dict[str, float | None]] = {}
    for _, entry in scored:
        for name, subject in entry.header["subjects"].items():
            subjects.setdefault(name, subject)
            ceiling.setdefault(name, entry.header["ceiling"].get(name, {}))
    systems = _systems(scored, grouping)
    warnings += _coverage(systems)
    records = [record for _, entry in scored for record in entry.records]
    present = {name for record in records for name in record["scores"]}
    first = scored[0][1].header
    return Collected(
        tuple(systems),
        subjects,
        ceiling,
        first["encoders"],
        _settings([entry.header for _, entry in scored]),
        tuple(name for name in SCORES if name in present),
        tuple(dict.fromkeys(entry.evaluation for _, entry in scored)),
        tuple(dict.fromkeys(warnings)),
        {name: sum(record.get(f"seconds_{name}") or 0.0 for record in records) for name in ("sampling", "other")},
    )


def _settings(headers: list[dict]) -> dict:
    """How the images were made: as the first entry says that was sampled here, and what users say of their own graphs."""
    sampled = next((header for header in headers if header.get("own_graph") is None), headers[0])
    said = {f"images of {h['entry']}": h["own_graph"] or "an own graph" for h in headers if h.get("own_graph") is not None}
    return {**sampled["settings"], **said}


def _differences(entries: list[EntryResults]) -> list[str]:
    """Where results were made in other ways than the first.

    Raises:
        UserError: they were scored by other encoders.
    """
    first, *others = entries
    found = []
    for entry in others:
        if entry.header["encoders"] != first.header["encoders"]:
            raise UserError(
                f"results: {entry.evaluation} and {first.evaluation} were scored by different encoders, so their scores "
                "cannot be compared. Make a report of each, or evaluate one of them again."
            )
        differences = header_differences(first.header, entry.header, alone=False)
        found += [f"{entry.evaluation} against {first.evaluation}: {line}." for line in differences]
    return found


def _coverage(systems: list[System]) -> list[str]:
    """A warning if not all systems have the same subjects."""
    shared = set.intersection(*(system.subjects for system in systems))
    counts = [f"{system.name}: {len(system.subjects)}" for system in systems if system.subjects != shared]
    if not counts:
        return []
    return [
        f"Systems cover different subjects, of which all share {len(shared)} ({', '.join(counts)}). Means over different "
        "subjects cannot be compared; paired differences can."
    ]


def _read(paths: list[Path]) -> list[tuple[Path, EntryResults]]:
    found, problems = [], []
    for path in paths:
        try:
            found += [(path, entry) for entry in read_results(path)]
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError.of(problems)
    if not found:
        raise UserError(
            "results: none are wired and evaluations is empty. Wire PDST Evaluate's results, or name evaluations "
            "(folders in output/pdst), one per line."
        )
    return found


def _method(entry: EntryResults) -> str:
    token = entry.header["token"]
    return FLOOR if token is None else token["method"]


def _schedule(entry: EntryResults) -> str | None:
    return (entry.header["token"] or {}).get("schedule")


def _systems(scored: list[tuple[Path, EntryResults]], grouping: str) -> list[System]:
    """Group by method if that gives each subject once; else by schedule or step too, else by evaluation too, else by token."""
    methods: dict[str, list[tuple[Path, EntryResults]]] = {}
    for folder, entry in scored:
        methods.setdefault(_method(entry), []).append((folder, entry))
    ways = [
        lambda entry: (_method(entry),),
        lambda entry: (_method(entry), _schedule(entry)),
        lambda entry: (_method(entry), entry.step),
        lambda entry: (_method(entry), _schedule(entry), entry.step),
        lambda entry: (entry.evaluation, _method(entry)),
        lambda entry: (entry.evaluation, _method(entry), entry.step),
    ]
    each = lambda entry: (entry.evaluation, entry.entry)  # noqa: E731
    systems = []
    for method, members in methods.items():
        for way in [*ways, each] if grouping == "method" or method == FLOOR else [each]:
            groups: dict[tuple, list[tuple[Path, EntryResults]]] = {}
            for member in members:
                groups.setdefault(way(member[1]), []).append(member)
            if way is each or all(_subjects_once(group) for group in groups.values()):
                systems += [_system(method, key, group) for key, group in groups.items()]
                break
    return _named(systems)


def _subjects_once(group: list[tuple[Path, EntryResults]]) -> bool:
    names = [name for _, entry in group for name in {record["subject"] for record in entry.records}]
    return len(names) == len(set(names))


def _system(method: str, key: tuple, group: list[tuple[Path, EntryResults]]) -> System:
    """A group as a system, with a name that others may have too: `_named` tells them apart."""
    steps = {entry.step for _, entry in group}
    step = steps.pop() if len(steps) == 1 else None
    evaluation = group[0][1].evaluation if len({entry.evaluation for _, entry in group}) == 1 else ""
    alone = len(group) == 1 and method != FLOOR
    name = group[0][1].entry if alone else _METHODS.get(method, method)
    runs = {(entry.header["token"] or {}).get("run") for _, entry in group}
    schedules = {_schedule(entry) for _, entry in group}
    schedule = schedules.pop() if len(schedules) == 1 else None
    run = f"run {run}" if len(runs) == 1 and (run := runs.pop()) else schedule or ""
    series = "\n".join([evaluation, name.rsplit("-step-", 1)[0] if alone else name, run])
    images = {}
    for folder, entry in group:
        for record in entry.records:
            image = _image(folder, entry, record)
            images[image.key] = image
    return System(name, images, method == FLOOR, step, None if method == FLOOR or step is None else series, method, schedule)


def _image(folder: Path, entry: EntryResults, record: dict) -> Image:
    subject = entry.header["subjects"][record["subject"]]
    reference = subject["references"][subject["test"].index(record["photo"])] if subject.get("references") else None
    key = (record["subject"], record["photo"], record["text"], record["index"])
    return Image(folder, entry.evaluation, entry.entry, key, record, reference)


def _file(folder: Path, name: str | None) -> Path | None:
    """A file of an evaluation; None if there is none. A name in a results file cannot lead out of the evaluation's folder."""
    path = below(folder, name)
    return path if path is not None and os.path.isfile(path) else None


def _named(systems: list[System]) -> list[System]:
    """The systems with unique names, series only where a run has several checkpoints at different steps, the floor last."""
    steps: dict[str, list[int]] = {}
    for system in systems:
        if system.series and system.step is not None:
            steps.setdefault(system.series, []).append(system.step)
    # Two runs that were not recorded as such may share a step, and then nobody can say which point belongs to which: no curve.
    kept = [series for series, found in steps.items() if 1 < len(found) == len(set(found))]
    several = len({system.schedule for system in systems if system.schedule}) > 1
    names = []
    for system in systems:
        name = f"{system.name}, {system.schedule}" if several and system.schedule else system.name
        if len(steps.get(system.series or "", ())) > 1 and "-step-" not in name:
            name = f"{name}, step {system.step}"
        names.append(name)
    found = []
    for system, name in zip(systems, names, strict=True):
        evaluation = next(iter(system.images.values())).evaluation if system.images else ""
        if names.count(name) > 1:
            name = f"{evaluation}: {name}"
        series = _series_name(system.series, kept) if system.series and system.series in kept else None
        found.append(replace(system, name=name, series=series))
    return sorted(found, key=lambda s: s.floor)


def _series_name(series: str, kept: list[str]) -> str:
    """A unique name: with the evaluation, the run or both where several series share a name."""
    evaluation, name, run = series.split("\n")
    alike = [other.split("\n") for other in kept if other.split("\n")[1] == name]
    several = len({other[0] for other in alike}) > 1
    runs = len({other[2] for other in alike if other[0] == evaluation}) > 1
    return (f"{evaluation}: " if several and evaluation else "") + name + (f", {run or 'run unknown'}" if runs else "")
