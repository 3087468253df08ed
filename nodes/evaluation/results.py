"""Results on disk: one JSON-lines file for each entry (token, checkpoint or floor) and shard, and their reader.

<evaluation>/<entry>.jsonl or <entry>-shard-<i>-of-<k>.jsonl. The first line is the header:

    format, version, evaluation, entry, step (or null), shard [i, k], expected (images of all shards)
    token       {placeholder, super_category, kind, method, width, run (hash, or null), schedule (of the contrast's weight, or
                null)} or null for the floor; files of earlier versions have no schedule
    identity    {"what": hash}: everything that the images and scores depend on
    settings    sampler, scheduler, steps, cfg, width, height, batch_size, seed, negative, images_per_caption, metrics, ...
    encoders    what the metrics are computed with
    ceiling     {subject: {...}} real photos against real photos
    subjects    {name: {super_category, kind, train: [file names], test: [file names], captions: [how many each], references:
                [small copies of the test photos, relative to the evaluation's folder]}}; an entry has one
    together    the entries that were evaluated in one go; told, never compared, and missing in older files, as is
    made_with   {pack, comfyui, torch, device}: what made the images
    trigger     only where no token is used: the phrase that stands for the subject in prompts. `token` then describes
                the phrase, with kind `trigger` and width 0, and `token` in identity is its hash
    own_graph   only where a graph of the user's made the images: what the user says of it, or "". `token` then has kind `own
                graph`; models and how they sampled are unknown, so identity and settings do not have them; made_with is what
                scored the images; each image has `pixels`, a hash by which it is known again

and each further line is an image, in the order in which they were made:

    number (place in the plan), subject, photo (file name), caption (index), text (caption with {}), prompt, index, seed,
    scores {name: cosine}, image (relative to the evaluation's folder) or null, seconds_sampling, seconds_other
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...trainer.reading import Checked, faults
from ...trainer.storage import replacing
from ..errors import UserError
from .header import differs, header_differences, read_header
from .metrics import SCORES
from .pdst import brief
from .plan import Shot

_SHARD = re.compile(r"(?P<entry>.+)-shard-(?P<shard>\d+)-of-(?P<shards>\d+)")
_SAME_IN_SHARDS = ("entry", "step", "expected", "token", "identity", "settings", "encoders", "subjects")


@dataclass(frozen=True)
class EntryResults:
    """The results of one entry from all its shards; images in the order of the plan."""

    evaluation: str
    entry: str
    header: dict
    records: list[dict]

    @property
    def step(self) -> int | None:
        return self.header["step"]


def file_name(entry: str, shard: int, shards: int) -> str:
    return f"{entry}.jsonl" if shards == 1 else f"{entry}-shard-{shard}-of-{shards}.jsonl"


class ResultsFile:
    """The results of one entry in one shard, added to batch by batch.

    A batch is saved completely or not at all: what a crash left of one is dropped when the file is opened again.
    """

    def __init__(self, path: Path, header: dict, batches: list[list[Shot]]):
        """batches: of this shard, in the order in which they are made."""
        self.path, self.header = path, header
        self._left = {batch[0].number: batch for batch in batches}

    def open(
        self, complete: Callable[[dict], None] = lambda header: None, keep: Callable[[dict], bool] = lambda record: True
    ) -> list[dict]:
        """Continue the file, or start it; the records that are already there.

        complete(header): called before the file is started, if it has no complete batch; may add to the header.
        keep(record): whether it still holds; those that do not are removed. Only for batches of one.

        Raises:
            UserError: it holds results of something else; the message says what differs.
        """
        existing = read_header(self.path)
        records = read_records(self.path)[0] if existing else []
        if existing is not None and records:
            differences = header_differences(existing, self.header)
            if differences:
                raise UserError(differs(self.path, differences))
            records = self._whole_batches(self._kept(records, keep))
        if not records:
            complete(self.header)
            with writing(self.path.name), replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self.header, allow_nan=False) + "\n", encoding="utf-8")
        return records

    def _kept(self, records: list[dict], keep: Callable[[dict], bool]) -> list[dict]:
        found = [record for record in records if keep(record)]
        if len(found) < len(records):
            with open(self.path, "rb") as file:
                header = file.readline()
            with writing(self.path.name), replacing(self.path) as temporary:
                temporary.write_bytes(header + _lines(found))
        return found

    def _whole_batches(self, records: list[dict]) -> list[dict]:
        kept = 0
        while kept < len(records):
            batch = self._left.get(records[kept]["number"])
            part = records[kept : kept + len(batch or ())]
            if batch and len(part) < len(batch):
                break
            if not batch or [(r["number"], r["seed"]) for r in part] != [(shot.number, shot.seed) for shot in batch]:
                raise UserError(f"name: {self.path.name} is damaged at image {kept + 1}. Delete it, or use another name.")
            kept += len(batch)
            del self._left[batch[0].number]
        end = _end_of_line(self.path, 1 + kept)
        if self.path.stat().st_size != end:  # otherwise it stays untouched, even its modification time
            with open(self.path, "r+b") as file:
                file.truncate(end)
        return records[:kept]

    @property
    def left(self) -> list[list[Shot]]:
        """The batches that are missing, in the order in which they are made."""
        return [*self._left.values()]

    def add(self, records: list[dict]) -> None:
        """Append a batch's records; on disk when this returns.

        Raises:
            UserError: it could not be written.
        """
        lines = _lines(records)
        with writing(self.path.name), open(self.path, "ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        del self._left[records[0]["number"]]


def _lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turns an OSError of the block into a UserError. name: of the file that is written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{name} could not be written ({brief(error)}). Free some space, or turn save_images off, and queue again: it "
            "continues from the last batch."
        ) from error


def _end_of_line(path: Path, lines: int) -> int:
    """Bytes of the first `lines` lines."""
    with open(path, "rb") as file:
        return sum(len(file.readline()) for _ in range(lines))


def result_stamps(folders: Iterable[Path]) -> str:
    """A hash that changes whenever results in these folders change: of their files' names, times and sizes."""
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.jsonl"))]
    stamps = [f"{file}|{file.stat().st_mtime_ns}|{file.stat().st_size}" for file in files]
    return hashlib.sha256("\n".join(stamps).encode(errors="surrogateescape")).hexdigest()


def known_tokens(folder: Path) -> frozenset[tuple[str, str]]:
    """Entry and token identity of the results in an evaluation's folder; files that cannot be read are left out."""
    found = set()
    for path in folder.glob("*.jsonl") if folder.is_dir() else ():
        try:
            header = read_header(path)
        except UserError:
            continue  # reported where results are compared
        if header is not None:
            found.add((header["entry"], header["identity"].get("token")))
    return frozenset(found)


_LARGEST_SCORE = 1_000  # cosines are at most 1
_Words = Annotated[str, Field(max_length=100_000)]  # of encodable characters: pydantic refuses lone surrogates


class _Record(Checked):
    """The fields of an image's line that this version reads."""

    number: Annotated[int, Field(ge=0)]
    subject: _Words
    photo: _Words
    caption: Annotated[int, Field(ge=0, le=10_000_000)]
    text: _Words
    index: int
    seed: int
    scores: dict[_Words, Annotated[float, Field(ge=-_LARGEST_SCORE, le=_LARGEST_SCORE)]]
    image: _Words | None
    seconds_sampling: float | None = None
    seconds_other: float | None = None


def read_records(path: Path) -> tuple[list[dict], bool]:
    """The records of a results file, and whether its last line is incomplete (it is left out).

    Raises:
        UserError: another line is damaged.
    """
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[1:]
    records, half = [], bool(lines and lines.pop())
    for number, line in enumerate(lines, 2):
        try:
            records.append(json.loads(line))
            wrong = faults(_Record, records[-1])
        except (ValueError, RecursionError):
            wrong = ["it is no JSON"]
        if wrong:
            raise UserError(
                f"{path.name} is damaged at line {number} ({', '.join(wrong)}). Restore it, or delete it and evaluate again."
            )
    return records, half


def read_results(folder: Path) -> list[EntryResults]:
    """All entries of an evaluation, each complete: all shards, which match each other, and every image of the plan.

    Raises:
        UserError: every reason why they are not, in one message.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise UserError(f"name: there are no results in {folder.name}. Run PDST Evaluate with this name first.")
    parts: dict[str, dict[tuple[int, int], tuple[Path, dict]]] = {}
    problems, entries = [], []
    for path in files:
        header = read_header(path)
        if header is None:
            problems.append(f"{path.name} is empty: queue the evaluation again.")
            continue
        parts.setdefault(header["entry"], {})[tuple(header["shard"])] = path, header
    for entry, shards in parts.items():
        records, wrong = _merge(entry, shards)
        problems += wrong
        header = shards[min(shards)][1]
        entries.append(EntryResults(folder.name, entry, header, records))
    if problems:
        raise UserError(f"The results in {folder.name} cannot be used:\n" + "\n".join(f"- {p}" for p in problems))
    return sorted(entries, key=lambda e: (e.header["token"] is None, e.entry.rsplit("-step-", 1)[0], e.step or 0, e.entry))


def _merge(entry: str, shards: dict[tuple[int, int], tuple[Path, dict]]) -> tuple[list[dict], list[str]]:
    """The records of an entry's shards in the order of the plan, and what is wrong with them."""
    first_path, first = shards[min(shards)]
    counts = {count for _, count in shards}
    if len(counts) > 1:
        names = ", ".join(path.name for path, _ in shards.values())
        return [], [
            f"{entry} is there both as a single run and in shards, or in different numbers of shards ({names}): keep "
            "one of them."
        ]
    count = counts.pop()
    problems = [
        f"{entry}: shard {i} of {count} is missing ({file_name(entry, i, count)}): run it, or copy it here."
        for i in range(1, count + 1)
        if (i, count) not in shards
    ]
    records = []
    for (i, _), (path, header) in sorted(shards.items()):
        if path.name != file_name(entry, i, count):
            problems.append(f"{path.name} is {file_name(entry, i, count)} according to its header: rename it to that.")
        unlike = [key for key in _SAME_IN_SHARDS if header[key] != first[key]]
        if unlike:
            what = header_differences(first, header) or unlike
            problems.append(f"{path.name} does not match {first_path.name}: " + "; ".join(what[:8]))
            continue
        own, half = read_records(path)
        if half:
            problems.append(f"{path.name} ends in an incomplete line: queue that evaluation again to resume it.")
        problems += _misfits(path, header, own)
        records += own
    if problems:
        return [], problems
    records.sort(key=lambda record: record["number"])
    numbers = [record["number"] for record in records]
    if len(numbers) != first["expected"] or numbers != list(range(len(numbers))):
        twice = len(numbers) - len(set(numbers))
        more = f", {twice} of them twice" if twice else ""
        if len(numbers) == first["expected"]:
            return [], [f"{entry} was changed by hand: its images are not numbered one after the other. Evaluate it again."]
        return [], [
            f"{entry}: {len(numbers)} images of {first['expected']} are there{more}. Queue the evaluation again to resume it."
        ]
    return records, []


def _misfits(path: Path, header: dict, records: list[dict]) -> list[str]:
    """Images that the header knows nothing of, or that have other scores than the rest; the first of each."""
    tests = {name: set(subject["test"]) for name, subject in header["subjects"].items()}
    problems = []
    for record in records:
        if record["photo"] not in tests.get(record["subject"], ()):
            problems.append(f"the photo {record['subject']}/{record['photo']}, of which the first line says nothing")
            break
    for record in records:
        names = set(record["scores"])
        if names != set(records[0]["scores"]) or (names and not header["encoders"]) or names - set(SCORES):
            problems.append("other scores than the images before it, or than there are")
            break
    return [
        f"{path.name} was changed by hand: an image has {problem}. Restore it, or delete it and evaluate again."
        for problem in problems
    ]
