"""The folder with the merged results. It is the only memory: what is whole there is done, whatever was running when."""

import json
import os
from pathlib import Path, PurePosixPath

from .outcomes import Lost, WrongUse


class ResultFolder:
    """`<entry>-shard-<i>-of-<k>.jsonl` and what they name, as PDST Evaluate writes it, so that PDST Report opens it.

    A results file gets its name when all images that it names are there, whole and on disk.
    """

    def __init__(self, path: Path):
        self.path = path
        self._headers: dict[str, dict] = {}  # of the whole files, by file name
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else []:
            self._look_at(file)

    def _look_at(self, file: Path) -> None:
        try:
            header, *records = map(json.loads, file.read_bytes().splitlines())
            pictures = [record["image"] for record in records if record["image"]]
            evaluation, _ = header["evaluation"], header["shard"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WrongUse(f"{file} is no results file of an evaluation ({error}). Move it away.") from error
        if all((self.path / picture).is_file() for picture in pictures):
            self._headers[file.name] = {**header, "evaluation": evaluation}

    def check(self, names: set[str]) -> None:
        """Make sure that nothing else is in the folder than results of these evaluations.

        Raises:
            WrongUse: something is.
        """
        known = {_last(name) for name in names}
        for file, header in self._headers.items():
            if header["evaluation"] not in known:
                raise WrongUse(
                    f"{self.path} has {file}, made with another graph, other settings or other files ({header['evaluation']}). "
                    "Give the evaluation another name, or name another folder (--results)."
                )

    def headers(self) -> list[dict]:
        return list(self._headers.values())

    def shards_of(self, name: str) -> int:
        """Into how many shards the evaluation was cut before; 0 if nothing of it is there."""
        return next((h["shard"][1] for h in self._headers.values() if h["evaluation"] == _last(name)), 0)

    def missing(self, name: str, shards: int) -> list[int]:
        """The shards that are not whole: of one or more of the entries that were evaluated together."""
        own = [header for header in self._headers.values() if header["evaluation"] == _last(name)]
        there = {(header["entry"], header["shard"][0]) for header in own}
        entries = {entry for header in own for entry in header["together"]}
        return [s for s in range(1, shards + 1) if not entries or any((entry, s) not in there for entry in entries)]

    def put(self, name: str, data: bytes) -> None:
        """Write a file that a worker sent.

        Raises:
            Lost: its name leads out of the folder, or it is a results file that is not whole.
        """
        if PurePosixPath(name).is_absolute() or {"..", ""} & set(name.split("/")) or "\\" in name or ":" in name:
            raise Lost(f"it names a file {name!r}")
        write(self.path / name, data)
        if name.endswith(".jsonl"):
            self._look_at(self.path / name)

    def problems(self) -> list[str]:
        """What is wrong with the merged results: images that are there twice or not at all."""
        found, counts = [], {}
        for file, header in self._headers.items():
            lines = (self.path / file).read_bytes().splitlines()[1:]
            counts.setdefault(header["entry"], (header["expected"], []))[1].extend(json.loads(line)["number"] for line in lines)
        for entry, (expected, numbers) in sorted(counts.items()):
            if sorted(numbers) != list(range(expected)):
                twice = len(numbers) - len(set(numbers))
                found.append(
                    f"{entry}: {len(set(numbers))} of {expected} images are there"
                    + (f", {twice} of them twice" if twice else "")
                )
        return found


def write(path: Path, data: bytes) -> None:
    """A whole file or none, also when the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _last(name: str) -> str:
    return name.rpartition("/")[2]
