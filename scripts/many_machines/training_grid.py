"""A grid of subjects, methods and seeds: each cell trains a token, which is then evaluated; each subject's floor once."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .graph_files import (
    DATASET,
    EVALUATE,
    TOKEN_LOADER,
    TRAIN,
    TRAIN_OPTIONS,
    LocalFiles,
    is_wire,
    needed_by,
    nodes_of,
    only_node,
    read_graph,
    read_json,
    typed,
)
from .jobs import Job, fingerprint
from .outcomes import WrongUse
from .result_folder import ResultFolder
from .work_plans import EvaluationWork, Plan, Sharding, images_of, plain

FIELDS = {"name": str, "train": str, "evaluate": str, "subjects": list, "methods": (list, dict), "seeds": list}
TOKENS = "tokens"  # the folder for them, in the results


@dataclass
class Cell:
    """One token: its training, and the evaluation that follows. job: None for a floor, which needs none."""

    label: str
    graph: dict  # of the evaluation
    job: Job | None
    token: Path | None

    @property
    def trained(self) -> bool:
        return self.token is None or self.token.is_file()


def read_plan(path: Path) -> dict:
    """`plan.json`: name, the two graphs' files beside it, subjects, methods (a list, or name -> training's inputs), seeds."""
    plan = {"token": "last", **read_json(path)}
    for name, kind in FIELDS.items():
        if not isinstance(plan.get(name), kind) or not plan[name]:
            raise WrongUse(f"{path}: {name} is missing, or is not of the kind that it should be. See docs/many_machines.md.")
    if unknown := set(plan) - {*FIELDS, "token"}:
        raise WrongUse(f"{path}: {', '.join(sorted(unknown))} is not known. It can have {', '.join(FIELDS)} and token.")
    if plan["token"] not in ("last", "best"):
        raise WrongUse(f'{path}: token is {plan["token"]!r}: write "last" or "best".')
    if not isinstance(plan["methods"], dict):
        plan["methods"] = dict.fromkeys(plan["methods"], {})
    return plan


class Grid:
    """The cells of a plan, and their jobs."""

    def __init__(self, path: Path, files: LocalFiles, results_of: Callable[[str], ResultFolder], sharding: Sharding):
        self._plan, self._files, self._sharding = read_plan(path), files, sharding
        self._train, self._evaluate = (read_graph(path.parent / self._plan[name]) for name in ("train", "evaluate"))
        self._trainer = only_node(self._train, TRAIN, "Train Attractor Embedding", path.parent / self._plan["train"])
        self._evaluator = only_node(self._evaluate, EVALUATE, "PDST Evaluate", path.parent / self._plan["evaluate"])
        self._check_photos()
        self.results = results_of(self._plan["name"])
        self._cells = [*self._floors(), *self._tokens()]

    def _check_photos(self) -> None:
        """Make sure that each subject is trained on its own photos."""
        wire = self._train[self._trainer]["inputs"].get("images")
        before = needed_by(self._train, wire[0]).values() if is_wire(wire) else ()
        texts = [value for node in before for value in node["inputs"].values() if isinstance(value, str)]
        if not any(node["class_type"] == DATASET for node in before) and not any("{subject}" in value for value in texts):
            raise WrongUse(
                "the training's photos are the same for every subject: take them from train_images of Load PDST Dataset, or "
                "write {subject} into the folder's name."
            )

    def plan(self) -> Plan:
        """What is still to do.

        Raises:
            WrongUse: the results' folder has other results.
        """
        works = {cell.label: self._work(cell) for cell in self._cells if cell.trained}
        self.results.check({work.name for work in works.values()})
        jobs, images = [], 0
        for cell in self._cells:
            if cell.trained:
                own = works[cell.label].jobs(cell.label, self._sharding, self.results)
                jobs, images = jobs + own, images + sum(job.images for job in own)
            else:
                jobs.append(cell.job)
                images += images_of(self._with_token(cell, None), self._evaluator, self._files)
        trainings = [job for job in jobs if job.kind == "train"]
        rest = [job for job in jobs if job.kind != "train"]
        return Plan(self.results, trainings + rest, images, len(trainings), self._after)  # long jobs first

    def _after(self, job: Job) -> list[Job]:
        """What a finished training makes possible."""
        cell = next((cell for cell in self._cells if cell.job is job), None)
        return self._work(cell).jobs(cell.label, self._sharding, self.results) if cell else []

    def _work(self, cell: Cell) -> EvaluationWork:
        if cell.token is not None:
            self._files.tokens[cell.label] = cell.token
        return EvaluationWork.of(self._with_token(cell, cell.label), cell.label, self._files)

    def _with_token(self, cell: Cell, file: str | None) -> dict:
        """The cell's evaluation; with the token of that name, if it is of a token."""
        graph = copy.deepcopy(cell.graph)
        if cell.job is not None:
            graph["cluster-token"] = {"class_type": TOKEN_LOADER, "inputs": {"file": file or ""}}
            graph[self._evaluator]["inputs"]["tokens"] = ["cluster-token", 0]
        return graph

    # -- the cells -------------------------------------------------------------------------------------

    def _floors(self) -> list[Cell]:
        if not self._evaluate[self._evaluator]["inputs"].get("include_floor", True):
            return []
        return [Cell(f"floor {subject}", self._evaluation(subject, "", True), None, None) for subject in self._plan["subjects"]]

    def _tokens(self) -> list[Cell]:
        cells = []
        for subject in self._plan["subjects"]:
            for method, settings in self._plan["methods"].items():
                for seed in self._plan["seeds"]:
                    label = plain(f"{subject}-{method}-seed-{seed}")
                    job = self._training(label, subject, method, seed, settings)
                    token = self.results.path / f"{job.place}{job.wanted[-1]}"
                    cells.append(Cell(label, self._evaluation(subject, label, False), job, token))
        if len({cell.label for cell in cells}) < len(cells):
            raise WrongUse("the plan has the same cell twice: name each subject, method and seed once.")
        return cells

    def _evaluation(self, subject: str, label: str, floor: bool) -> dict:
        graph = copy.deepcopy(self._evaluate)
        for key in nodes_of(graph, DATASET):
            graph[key]["inputs"]["subjects"] = subject
        inputs = graph[self._evaluator]["inputs"]
        inputs.update(labels=label, pairs="", include_floor=floor)
        inputs.pop("tokens", None)
        return needed_by(graph, self._evaluator)

    def _training(self, label: str, subject: str, method: str, seed: int, settings: dict) -> Job:
        graph = needed_by(self._train, self._trainer)
        category = self._super_category(graph, subject)
        for node in graph.values():
            if node["class_type"] == DATASET:
                node["inputs"]["subjects"] = subject
            for name, value in node["inputs"].items():
                if isinstance(value, str):
                    node["inputs"][name] = value.replace("{subject}", subject).replace("{super_category}", category)
        inputs = graph[self._trainer]["inputs"]
        inputs.update(
            method=method, seed=seed, super_category=category, placeholder=f"<{plain(subject)}>", resume=True, name=""
        )
        for name, value in settings.items():
            homes = [graph[key]["inputs"] for key in nodes_of(graph, TRAIN, TRAIN_OPTIONS) if name in graph[key]["inputs"]]
            if not homes:
                raise WrongUse(f"methods: {method} sets {name}, which no training node of the graph has.")
            homes[0][name] = value
        bundles = self._files.put_in(graph)
        own = f"{label}-{fingerprint(graph)}"
        inputs["name"] = f"cluster/{own}"
        best = "-best" if self._plan["token"] == "best" else ""
        wanted = ("curves.json", "run.json", f"{own}{best}.safetensors")  # the token last: where it is, the rest is too
        return Job(f"train {label}", "train", graph, f"cluster/{own}", bundles, wanted=wanted, place=f"{TOKENS}/{own}/")

    def _super_category(self, graph: dict, subject: str) -> str:
        """The subject's word, from its data set; the training node's where there is none."""
        for key in nodes_of(graph, DATASET):
            meta = self._files.dataset(typed(graph[key], "folder")[0]) / subject / "meta.json"
            if not meta.is_file():
                raise WrongUse(f"subjects: there is no {meta}.")
            return str(read_json(meta).get("super_category", ""))
        return typed(graph[self._trainer], "super_category")[0]
