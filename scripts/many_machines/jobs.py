"""A job: one graph for one server, the files it needs, and what is expected back."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Bundle:
    """Files of this machine that a graph reads, as they are laid out on a server.

    place: `input` or `output`, the folder of ComfyUI that they are uploaded to. folder: below it; named by the content, so what
    is there already need not be sent again, and nothing of the user's is overwritten. files: path below it -> file here.
    """

    place: str
    folder: str
    files: dict[str, Path]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    def contents(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self.files.items()}


def bundle(place: str, parent: str, files: dict[str, Path]) -> Bundle:
    """A bundle of files in `parent`/cluster/<hash of their names and contents>."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return Bundle(place, f"{parent}cluster/{digest.hexdigest()[:16]}", files)


@dataclass(eq=False)
class Job:
    """One graph for one server.

    title: what it is called on the screen. kind: `train` or `evaluate`. name: of the evaluation or the run on the server.
    images: how many it makes, as far as is known; 0 for a training. wanted: the files of a training that are to come back.
    place: where files go in the results' folder, with a slash at its end.
    tries, begun_by, failed_on: what the driver notes: how often it was lost, the worker that began it, those that did nothing.
    """

    title: str
    kind: str
    graph: dict
    name: str
    bundles: list[Bundle] = field(default_factory=list)
    shard: int = 1
    shards: int = 1
    images: int = 0
    wanted: tuple[str, ...] = ()
    place: str = ""
    tries: int = 0
    begun_by: str | None = None
    failed_on: set[str] = field(default_factory=set)


def fingerprint(graph: dict) -> str:
    """A short hash of a graph, whatever its nodes are called on the page."""
    plain = {key: [node["class_type"], node["inputs"]] for key, node in graph.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
