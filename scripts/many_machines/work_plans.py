"""What is to be done: the shards of one evaluation that are not there yet (a grid of trainings: `training_grid`)."""

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .graph_files import (
    CHECKPOINTS,
    DATASET,
    EVALUATE,
    OPTIONS,
    TOKEN_LOADER,
    TRAIN,
    LocalFiles,
    is_wire,
    needed_by,
    nodes_of,
    number,
    only_node,
    read_graph,
    typed,
)
from .jobs import Job, fingerprint
from .outcomes import WrongUse
from .result_folder import ResultFolder

IMAGES_A_SHARD = 200  # at most, so that not much is lost with a worker
SHARDS_A_WORKER = 4  # at least, so that the quick ones do more
MOST_SHARDS = 1000  # that PDST Evaluate Options takes


@dataclass
class Plan:
    """Jobs to begin with, and what each makes possible.

    images, trainings: how many all that is. after(job): the jobs that follow a finished one.
    """

    results: ResultFolder
    jobs: list[Job]
    images: int
    trainings: int = 0
    after: Callable[[Job], list[Job]] = field(default=lambda job: [])


@dataclass(frozen=True)
class Sharding:
    """How many shards an evaluation has: as asked for (0: not), or made of workers and images."""

    workers: int
    asked: int = 0

    def count(self, images: int, batches: int) -> int:
        if self.asked:
            return self.asked
        each = max(SHARDS_A_WORKER, math.ceil(images / IMAGES_A_SHARD / self.workers))  # as many for each: they end together
        return max(1, min(each * self.workers, batches, MOST_SHARDS))


@dataclass(frozen=True)
class EvaluationWork:
    """An evaluation as it goes to servers: its graph without shard, its name there, and what it makes."""

    graph: dict
    node: str
    name: str
    bundles: list
    images: int
    batches: int

    @classmethod
    def of(cls, graph: dict, title: str, files: LocalFiles) -> "EvaluationWork":
        """Of a graph with one PDST Evaluate. title: what its name begins with; a hash of all that it depends on follows."""
        node = nodes_of(graph, EVALUATE)[0]
        graph = needed_by(graph, node)
        if nodes_of(graph, TRAIN):
            raise WrongUse(
                "PDST Evaluate's tokens come from a training in the same graph, which every server would repeat. Load the "
                "token by Load NeTI Mapper, or use train-and-evaluate."
            )
        inputs, options = graph[node]["inputs"], _options(graph, node)
        images = images_of(graph, node, files)
        each, batch = number(inputs, "images_per_caption", 5), number(options, "batch_size", 5)
        bundles = files.put_in(graph)
        options.pop("shard", None), options.pop("shards", None)
        inputs.update(name="", start_over=False)
        name = inputs["name"] = f"cluster/{plain(title)}-{fingerprint(graph)}"
        return cls(graph, node, name, bundles, images, math.ceil(images / each) * math.ceil(each / batch))

    def jobs(self, title: str, sharding: Sharding, results: ResultFolder) -> list[Job]:
        """Those of the shards that are not in the result folder yet."""
        shards = results.shards_of(self.name) or sharding.count(self.images, self.batches)
        jobs = []
        for shard in results.missing(self.name, shards):
            graph = copy.deepcopy(self.graph)
            _options(graph, self.node).update(shard=shard, shards=shards)
            share = self.images // shards + (shard <= self.images % shards)
            jobs.append(Job(f"{title} {shard}/{shards}", "evaluate", graph, self.name, self.bundles, shard, shards, share))
        return jobs


def _options(graph: dict, node: str) -> dict:
    """The inputs of the options node of a PDST Evaluate, which is added where there is none."""
    wire = graph[node]["inputs"].get("options")
    if not is_wire(wire):
        graph["cluster-options"] = {"class_type": OPTIONS, "inputs": {}}
        wire = graph[node]["inputs"]["options"] = ["cluster-options", 0]
    if graph[wire[0]]["class_type"] != OPTIONS:
        raise WrongUse("options of PDST Evaluate do not come straight from PDST Evaluate Options.")
    return graph[wire[0]]["inputs"]


def images_of(graph: dict, node: str, files: LocalFiles) -> int:
    """Images that an evaluation makes. With several subjects of unlike numbers of captions it is about that many."""
    inputs = graph[node]["inputs"]
    datasets = nodes_of(graph, DATASET)
    if not datasets:
        raise WrongUse("PDST Evaluate's data set does not come from Load PDST Dataset, so it cannot be sent to servers.")
    each = number(inputs, "images_per_caption", 5)
    limits = [number(inputs, name, 0) for name in ("max_photos", "max_captions")]
    captions = files.captions(*typed(graph[datasets[0]], "folder", "subjects"), *limits)
    entries = len(nodes_of(graph, TOKEN_LOADER)) if is_wire(inputs.get("tokens")) else 0
    entries += sum(len(files.checkpoints(typed(graph[key], "run")[0])) for key in nodes_of(graph, CHECKPOINTS))
    for line in filter(None, map(str.strip, str(inputs.get("trigger", "")).splitlines())):
        entries += 1 if line.partition(":")[0].strip() in captions else len(captions)  # of all, if it names none
    floors = (min(entries, len(captions)) if entries else len(captions)) if inputs.get("include_floor", True) else 0
    return round((entries + floors) * sum(captions.values()) / max(1, len(captions))) * each


def plain(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.+") or "evaluation"


def evaluate(path: Path, files: LocalFiles, results_of: Callable[[str], ResultFolder], sharding: Sharding) -> Plan:
    """The shards of one graph. results_of(name): the folder for results of this name."""
    graph = read_graph(path)
    node = only_node(graph, EVALUATE, "PDST Evaluate", path)
    name = typed(graph[node], "name")[0]
    work, results = EvaluationWork.of(graph, name, files), results_of(name)
    results.check({work.name})
    jobs = work.jobs("shard", sharding, results)
    return Plan(results, jobs, sum(job.images for job in jobs))
