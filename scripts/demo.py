"""The whole job, end to end, through a real server's HTTP API; `dev.py demo` runs this.

In the toy world (tests/toy_world: a small model that has really learnt its captions), five photos of a monster that the model
has never seen become a token. It is used in stock prompts, scored on photos held back, and reported. Leaves token, chart,
report and a contact sheet in `output/`.
"""

# ruff: noqa: E402
import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]

import torch
from demo_sheet import Row, draw_sheet
from graphs import add_sampling, add_toy_evaluation, add_training, encode
from PIL import Image

from comfy_client import ComfyClient, ExecutionFailed, Graph, GraphRejected
from comfy_server import ComfyServer, ServerFailed
from toy_world import judges, toy_subjects
from toy_world.scenes import render

NAME = "demo"
SUBJECT = 2  # of toy_world.toy_subjects
PLACEHOLDER = "<my-monster>"
SIZE = 128  # pixels
SEED = 1
SAMPLER, SCHEDULER, CFG = "dpmpp_2m", "karras", 5.0


def main(words: list[str] | None = None, base: Path = ROOT / ".dev" / "demo") -> int:
    """words: of the command line. base: the server's folder.

    Raises:
        SystemExit: a step failed; with the server's error.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=160, help="of training")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--photos", type=int, default=10, help="held-out photos to score on")
    parser.add_argument("--output", type=Path, default=ROOT / "output")
    arguments = parser.parse_args(words)

    started = time.monotonic()
    host = os.environ["COMFYUI_PATH"]
    output = arguments.output.resolve()
    for old in (output / "neti" / NAME, output / "pdst" / NAME):
        shutil.rmtree(old, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    toy = toy_subjects.toy_subject(SUBJECT)
    toy_subjects.write_subject(toy, base / "models" / "pdst" / toy_subjects.DATASET, base / "input")
    judges.write_encoders(base / "models" / "evaluation", host)
    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}
    options = [] if torch.accelerator.is_available() else ["--cpu"]
    options += ["--output-directory", str(output)]
    server = ComfyServer(host, base, packs, options=options)
    try:
        with server:
            demo = Demo(server, toy, arguments)
            demo.train()
            demo.use()
            demo.evaluate()
    except GraphRejected as failure:
        sys.exit("the server refused the graph:\n" + "\n".join(failure.messages or [str(failure)]))
    except (ExecutionFailed, ServerFailed, TimeoutError) as failure:
        sys.exit(f"the demo failed: {failure}\nThe server's log: {server.log_path}")
    sheet = output / f"{NAME}.png"
    demo.sheet().save(sheet)
    print(f"{time.monotonic() - started:.0f} s in all. Look at {shown(sheet)} first; then")
    for path in (
        output / "neti" / NAME / f"{NAME}.safetensors",
        output / "neti" / NAME / "chart.png",
        output / "pdst" / NAME / "report" / "report.html",
    ):
        print(f"  {shown(path)}")
    return 0


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


class Demo:
    """Graphs sent to a server, and what came back."""

    def __init__(self, server, toy, arguments):
        self.comfy, self.toy, self.arguments = ComfyClient(server.url), toy, arguments
        self.output = arguments.output.resolve()
        self.prompts = new_scenes(toy)

    def run(self, what: str, graph) -> dict:
        """Run a graph to its end; its history entry."""
        print(f"{what} ...", flush=True)
        started = time.monotonic()
        entry = self.comfy.run(graph, timeout=3000)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
        return entry

    def train(self) -> None:
        """Cut-outs to a token, with a sample now and then."""
        steps, graph = self.arguments.steps, Graph()
        photos = graph.add(
            "AttractorLoadSubjectImages", folder=self.toy.name, alpha="opaque is the subject", unreadable_files="stop"
        )
        add_training(
            graph,
            graph.add("TestToyWorld"),
            photos[0],
            photos[1],
            name=NAME,
            super_category=self.toy.subject.category,
            placeholder=PLACEHOLDER,
            method="neti+",
            steps=steps,
            batch_size=4,
            quality="paper",
            learning_rate_preset="auto",
            resolution=SIZE,
            sample_every=max(1, steps // 4),
            sample_steps=self.arguments.sampling_steps,
            sample_cfg=CFG,
            sample_prompt=self.prompts[0],
            text_chunk=1024,
        )  # a CPU is quick with few, large pieces
        self.run(f"training neti+ on {len(self.toy.train)} photos, {steps} steps", graph)

    def use(self) -> None:
        """The token from its file in stock prompts; the plain word in the same prompts; the attractor of every photo."""
        graph, word = Graph(), self.toy.subject.category
        loader = graph.add("TestToyWorld")
        token = graph.add("AttractorLoadNeTIMapper", file=f"{NAME}/{NAME}.safetensors")
        rows = {
            "token": [self._picture(graph, loader, prompt.format(PLACEHOLDER), token) for prompt in self.prompts],
            "word": [self._picture(graph, loader, prompt.format(word)) for prompt in self.prompts],
            "attractor": [
                self._picture(graph, loader, f"a photo of {PLACEHOLDER}", token, number)
                for number in range(1, len(self.toy.train) + 1)
            ],
        }
        entry = self.run("using the token in stock prompts", graph)
        self.pictures = {row: [self.comfy.images(entry, node)[0] for node in nodes] for row, nodes in rows.items()}

    def _picture(self, graph, loader, prompt: str, token=None, attractor: int = 0):
        """The preview of a sampled prompt, with the token or one of its attractors applied."""
        model, clip = loader[0], loader[1]
        if token is not None:
            applied = graph.add("AttractorApplyToken", model=model, clip=clip, token=token[0], attractor=attractor)
            model, clip = applied[0], applied[1]
        sampled = add_sampling(
            graph,
            model,
            encode(graph, clip, prompt),
            encode(graph, clip, ""),
            seed=SEED,
            steps=self.arguments.sampling_steps,
            sampler_name=SAMPLER,
            scheduler=SCHEDULER,
            cfg=CFG,
        )
        return graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[2])[0])

    def evaluate(self) -> None:
        """Token and plain word on the photos held back; the report."""
        graph = Graph()
        loader = graph.add("TestToyWorld")
        token = graph.add("AttractorLoadNeTIMapper", file=f"{NAME}/{NAME}.safetensors")
        evaluated = add_toy_evaluation(
            graph,
            loader,
            self.toy.name,
            tokens=token[0],
            name=NAME,
            images_per_caption=1,
            sampler=SAMPLER,
            scheduler=SCHEDULER,
            steps=self.arguments.sampling_steps,
            cfg=CFG,
            width=SIZE,
            height=SIZE,
            batch_size=1,
            seed=SEED,
            include_floor=True,
            max_photos=self.arguments.photos,
            max_captions=1,
        )
        graph.add(
            "AttractorPDSTReport",
            results=evaluated[0],
            evaluations="",
            name="",
            y_axis="dino",
            contact_sheet="best, median, worst",
        )
        self.run("scoring token and plain word on the photos held back", graph)

    def scores(self) -> dict[str, dict[str, float]]:
        """Mean scores of the token and of the plain word."""
        found = {}
        for path in (self.output / "pdst" / NAME).glob("*.jsonl"):
            header, *records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            means = {score: sum(r["scores"][score] for r in records) / len(records) for score in records[0]["scores"]}
            found["token" if header["token"] else "word"] = means
        return found

    def sheet(self):
        """The contact sheet, a picture."""
        word, photos = self.toy.subject.category, [render(scene) for scene in self.toy.train]
        rows = [
            Row(
                "Five photos and masks",
                "All that training sees, and the same place each time: a token learnt the usual way "
                f"learns the {self.toy.confound.place} as well.",
                [Image.fromarray(picture) for picture, _ in photos],
                small=[Image.fromarray((mask * 255).astype("uint8")) for _, mask in photos],
            ),
            Row(
                f"{PLACEHOLDER} in new scenes",
                f"Stock prompts, stock sampler. No photo shows these places, and the model had never seen this {word}.",
                self.pictures["token"],
                [p.format(PLACEHOLDER) for p in self.prompts],
            ),
            Row(
                "What the attractors hold",
                "Each photo has a second token, which takes up its background. Here they are in "
                "the prompt instead of the subject's.",
                self.pictures["attractor"],
                [f"a photo of the attractor of photo {i + 1}" for i in range(len(photos))],
            ),
            Row(
                f"The plain word “{word}”",
                "The same prompts and the same noise without the token: what the model knew before.",
                self.pictures["word"],
                [p.format(word) for p in self.prompts],
            ),
        ]
        columns = {
            "clip_i": "CLIP-I, held-out photos",
            "dino": "DINO, held-out photos",
            "clip_t": "CLIP-T, prompts",
            "clip_i_train": "CLIP-I, training photos",
            "dino_train": "DINO, training photos",
        }
        names, scores = {"token": PLACEHOLDER, "word": f"plain word “{word}”"}, self.scores()
        table = [["Scores (cosines)", *columns.values()]]
        table += [[names[row], *(f"{scores[row][score]:.3f}" for score in columns)] for row in names]
        return draw_sheet(
            "A subject learnt from five photos, without their background",
            "The demo of ComfyUI-Attractor, in its toy world: a small Stable Diffusion model, trained on drawn scenes.",
            rows,
            table,
            f"Means over the captions of {self.arguments.photos} photos that training never saw, one image each. "
            "No prompt names the training photos' setting: a token scores well on those photos only by bringing it along.",
        )


def new_scenes(toy) -> list[str]:
    """Captions with {} for the subject, of photos held back: one for each place."""
    return list({scene.setting.place: toy_subjects.captions(scene)[0] for scene in reversed(toy.test)}.values())[::-1]


if __name__ == "__main__":
    sys.exit(main())
