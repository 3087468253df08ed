"""One run of the benchmark through a server's HTTP API, and what is kept of it: a JSON file for each run that has ended."""

import hashlib
import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from graphs import add_toy_dataset, add_toy_evaluation, add_trainer
from PIL import Image

from comfy_client import Graph

from .. import toy_subjects
from ..judges import Judge, write_encoders
from . import grid
from .measures import confound_share, measure, subject_share

_ALONE_IMAGES = 4  # of "a photo of {v*}", of each attractor and of the word that attractors start from
_HOURS = 3600


@dataclass(frozen=True)
class Plan:
    """Everything that decides the figures beside the weights: changed, it is another folder."""

    steps: int = grid.STEPS
    evaluation: tuple = tuple(grid.EVALUATION.items())

    @property
    def hash(self) -> str:
        weights = Path(__file__).resolve().parents[1] / "weights"
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(weights.glob("*.safetensors"))}
        return grid.short_hash(grid.BASE, self.steps, self.evaluation, files)


@dataclass(frozen=True)
class Run:
    configuration: grid.Configuration
    toy: toy_subjects.ToySubject
    seed: int
    plan: Plan

    @property
    def inputs(self) -> dict:
        """Of the training node. For the floor: none."""
        if not self.configuration.trained:
            return {}
        word = grid.word_for(self.configuration, self.toy.subject.category)
        return {**self.configuration.inputs(self.plan.steps), "super_category": word, "seed": self.seed}

    @property
    def key(self) -> str:
        """Names the run's folders and files; another for other settings."""
        own = grid.short_hash(self.inputs, repr(self.toy))
        return f"{self.configuration.name}, {self.toy.name}, seed {self.seed}, {own}".replace(",", "").replace(" ", "-")

    def __str__(self) -> str:
        return f"{self.configuration.name}, {self.toy.name}, seed {self.seed}"


def write_world(root: Path, toys: list[toy_subjects.ToySubject], host: str) -> None:
    """Data set, cut-outs and encoders, where servers with these `models` and `input` folders find them."""
    for toy in toys:
        if not (root / "models" / "pdst" / toy_subjects.DATASET / toy.name / "meta.json").exists():
            toy_subjects.write_subject(toy, root / "models" / "pdst" / toy_subjects.DATASET, root / "input")
    if not (root / "models" / "evaluation" / "toy-dino").exists():
        write_encoders(root / "models" / "evaluation", host)


def result_path(root: Path, run: Run) -> Path:
    return root / "results" / f"{run.key}.json"


def carry_out(run: Run, comfy, root: Path, judge: Judge) -> dict:
    """Train, evaluate, look at the images; the result, which is on disk when this returns. What an interrupted run has left is
    gone on with: training from its last checkpoint, evaluation from its last image.

    comfy: a client of a server whose output folder is `root`/output.
    """
    started = time.monotonic()
    if run.configuration.trained:
        comfy.run(training_graph(run), timeout=6 * _HOURS)
    trained = time.monotonic()
    comfy.run(_evaluation(run), timeout=6 * _HOURS)
    evaluated = time.monotonic()
    result = {
        "configuration": run.configuration.name,
        "subject": run.toy.name,
        "seed": run.seed,
        "inputs": run.inputs,
        "plan": asdict(run.plan),
        "entries": _entries(run, root / "output" / "pdst" / run.key, judge),
        "alone": _alone(run, comfy, judge),
        "scores": _scores(root / "output" / "neti" / run.key) if _is_scored(run) else [],
        "steps": _steps(root / "output" / "neti" / run.key) if run.configuration.trained else 0,
        "seconds": {
            "training": round(trained - started, 1),
            "evaluation": round(evaluated - trained, 1),
            "all": round(time.monotonic() - started, 1),
        },
        "version": _version(),
    }
    path = result_path(root, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)
    return result


# -- graphs ---------------------------------------------------------------------------------------------


def training_graph(run: Run) -> Graph:
    graph = Graph()
    loader = graph.add("TestToyWorld")
    wired = {"model": loader[0], "clip": loader[1], "vae": loader[2]}
    if run.configuration.masked:
        photos = graph.add(
            "AttractorLoadSubjectImages", folder=run.toy.name, alpha="opaque is the subject", unreadable_files="stop"
        )
        wired |= {"images": photos[0], "masks": photos[1]}
    else:
        wired["images"] = add_toy_dataset(graph, run.toy.name)[1]
    if _is_scored(run):
        encoders = {"clip": "evaluation/toy-clip", "dino": "evaluation/toy-dino", "download_if_missing": False}
        wired["dataset"] = add_toy_dataset(graph, run.toy.name)[0]
        wired["encoders"] = graph.add("AttractorLoadEvaluationEncoders", **encoders)[0]
    add_trainer(graph, name=run.key, resume=True, sample_prompt="a photo of a {}", **wired, **run.inputs)
    return graph


def _evaluation(run: Run) -> Graph:
    graph = Graph()
    loader = graph.add("TestToyWorld")
    tokens = {}
    if run.configuration.curve:
        tokens["tokens"] = graph.add("AttractorLoadTokenCheckpoints", run=run.key, steps="")[0]
    elif run.configuration.trained:
        tokens["tokens"] = _token(graph, run)
    add_toy_evaluation(
        graph,
        loader,
        run.toy.name,
        name=run.key,
        seed=run.seed,
        include_floor=not tokens,
        **tokens,
        **dict(run.plan.evaluation),
    )
    return graph


def _token(graph: Graph, run: Run):
    step = f"-step-{run.plan.steps:06d}" if run.configuration.long else ""  # the one that is compared with others
    step = "-best" if run.configuration.quality else step
    return graph.add("AttractorLoadNeTIMapper", file=f"{run.key}/{run.key}{step}.safetensors")[0]


# -- what came out --------------------------------------------------------------------------------------


def _entries(run: Run, folder: Path, judge: Judge) -> list[dict]:
    """Every evaluated checkpoint: its step and its images with the product's scores and the ground truth's measures."""
    found = []
    for path in folder.glob("*.jsonl"):
        header, *lines = map(json.loads, path.read_text().splitlines())
        looks = judge.look(torch.stack([pixels(Image.open(folder / line["image"])) for line in lines]))
        images = [
            {
                "photo": line["photo"],
                "caption": line["caption"],
                "index": line["index"],
                "prompt": line["prompt"],
                "image": f"{folder.name}/{line['image']}",
                "values": {**line["scores"], **measure(seen, run.toy, run.toy.test[int(Path(line["photo"]).stem) - 1])},
            }
            for line, seen in zip(lines, looks, strict=True)
        ]
        # A preset's best step, whichever it is, is compared with the others' one.
        found.append({"step": run.plan.steps if run.configuration.quality else header["step"] or 0, "images": images})
    return sorted(found, key=lambda entry: entry["step"])


def _is_scored(run: Run) -> bool:
    return run.configuration.scored or bool(run.configuration.quality)


def _steps(folder: Path) -> int:
    """That the training did."""
    return json.loads((folder / "run.json").read_text())["step"]


def _scores(folder: Path) -> list[dict]:
    """What the training scored on its way: step, and means on held-out and training photos."""
    return json.loads((folder / "scores.json").read_text())["scores"]


def _alone(run: Run, comfy, judge: Judge) -> list[dict]:
    """What "a photo of {v*}" shows where no setting is asked for: the training photos' one, if it was learnt with the subject.

    Where attractors are looked at (Fig. 9) also "a photo of {A*}" and the plain word that they start from, and where weights
    were learnt "a photo of a <class>", which a prior loss should keep, on the same noise.
    """
    graph = Graph()
    loader = graph.add("TestToyWorld")
    sampling = dict(run.plan.evaluation)
    saved, numbers = {}, [-1, *range(len(run.toy.train) + 1)] if run.configuration.attractors else [0]
    numbers += [-2] if run.configuration.tuned else []
    token = _token(graph, run) if run.configuration.trained else None
    for number in numbers:  # -2: the class, -1: the attractors' word, 0: the subject
        model, clip, prompt = loader[0], loader[1], f"a photo of {'background' if number == -1 else run.toy.subject.category}"
        if number != -1 and token:
            applied = graph.add("AttractorApplyToken", model=model, clip=clip, token=token, attractor=max(number, 0))
            model, clip = applied[0], applied[1]
            prompt = prompt if number < 0 else f"a photo of {grid.BASE['placeholder']}"
        positive, negative = (graph.add("CLIPTextEncode", clip=clip, text=text)[0] for text in (prompt, ""))
        latent = graph.add("EmptyLatentImage", width=sampling["width"], height=sampling["height"], batch_size=_ALONE_IMAGES)
        sampled = graph.add(
            "KSampler",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent[0],
            seed=run.seed,
            steps=sampling["steps"],
            cfg=sampling["cfg"],
            sampler_name=sampling["sampler"],
            scheduler=sampling["scheduler"],
            denoise=1.0,
        )
        decoded = graph.add("VAEDecode", samples=sampled[0], vae=loader[2])
        saved[number] = graph.add("SaveImage", images=decoded[0], filename_prefix=f"alone/{run.key}/A{number}")
    entry = comfy.run(graph, timeout=_HOURS)
    found = []
    for number, node in saved.items():
        kind = {-2: "class", -1: "word", 0: "subject"}.get(number, "attractor")
        looks = judge.look(torch.stack([pixels(image) for image in comfy.images(entry, node)]))
        for index, (seen, file) in enumerate(zip(looks, entry["outputs"][node.id]["images"], strict=True)):
            found.append(
                {
                    "kind": kind,
                    "attractor": max(number, 0),
                    "index": index,
                    "image": f"{file['subfolder']}/{file['filename']}",
                    "present": float(seen["presence"] == "yes"),
                    "confound": confound_share(seen, run.toy),
                    "likeness": subject_share(seen, run.toy),
                }
            )
    return found


def pixels(picture: Image.Image) -> torch.Tensor:
    """(H, W, 3) in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)


def _version() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"
