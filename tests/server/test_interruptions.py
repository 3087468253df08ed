"""A training that is killed or cancelled at random moments, and queued again each time, ends as the straight run does: every
file is the same to the byte.

CI has time for a moment of each. ATTRACTOR_KILLS=50 ATTRACTOR_CANCELS=20 in the environment, and -s to see what was hit, is the
long form: about half an hour on two cores. ATTRACTOR_METHOD=dreambooth is the same of another method.
"""

import json
import os
import random
import shutil
import time
from contextlib import suppress

import pytest
from graphs import add_photos, add_tiny, add_training
from safetensors.torch import load_file

from attractor.trainer.methods import METHODS
from comfy_client import ComfyClient, Graph, Interrupted
from pdst_set import write_subject

KILLS = int(os.environ.get("ATTRACTOR_KILLS", "1"))
CANCELS = int(os.environ.get("ATTRACTOR_CANCELS", "1"))
METHOD = os.environ.get("ATTRACTOR_METHOD", "neti+")
KINDS = ("scoring", "writing", "sampling", "training", "any time")
A_RUN = 3  # interruptions of one run at most
STEPS, SCORE_EVERY, FILES_EVERY = 6, 3, 2


@pytest.fixture(scope="module")
def folder(comfy_server, server_encoders):
    """Of the run; its data set is there."""
    write_subject(comfy_server.base / "models" / "pdst" / "interrupted", "cat", seed=70)
    return comfy_server.output / "neti" / "interrupted"


def training(comfy):
    """A run with everything: scores, step files, samples."""
    graph = Graph()
    photos, masks = add_photos(graph, comfy, count=2)
    options = {"steps": STEPS, "score_every": SCORE_EVERY, "score_images": 2, "sample_steps": 2, "resume": True}
    options |= {"sample_every": FILES_EVERY, "checkpoint_every": FILES_EVERY, "prompts_per_step": "one"}
    encoders = {"clip": "evaluation/clip-tiny", "dino": "evaluation/dino-tiny", "download_if_missing": False}
    options["encoders"] = graph.add("AttractorLoadEvaluationEncoders", **encoders)[0]
    options["dataset"] = graph.add("AttractorLoadPDST", folder="pdst/interrupted", subjects="all", captions_per_photo=2)[0]
    options |= {"method": METHOD, "class_images": 3}
    add_training(graph, add_tiny(graph), photos, masks, name="interrupted", **options)
    return graph


def contents(folder):
    """Of every file; of `run.json`, which says how fast the run was and that it was resumed, only whether it is done."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**found, "run.json": json.loads(found["run.json"])["state"]}


@pytest.fixture(scope="module")
def straight(comfy_server, folder):
    """The files of a run without a break, and how many seconds it took."""
    comfy, started = ComfyClient(comfy_server.url), time.monotonic()
    comfy.run(training(comfy), timeout=300)
    found = contents(folder)
    steps = [f"step-{step:06d}" for step in range(FILES_EVERY, STEPS + 1, FILES_EVERY)]
    expected = {f"samples/{step}.png" for step in steps}
    if METHOD != "dreambooth":  # whose files are large
        expected |= {f"interrupted-{step}.safetensors" for step in steps}
    if METHODS[METHOD].tunes:
        expected |= {name for name in found if name.startswith(("class/made-", "diffusers/"))}
    expected |= {"interrupted.safetensors", "interrupted-best.safetensors", "resume.state", "curves.json", "scores.json"}
    assert set(found) == expected | {"chart.png", "photo.png", "run.json"}
    return found, time.monotonic() - started


def half_written(folder):
    """Whether there is a file that has not taken its place yet; safetensors makes one of its own."""
    with suppress(FileNotFoundError):  # the run is about to make its folder
        return any(folder.rglob(".*.tmp")) or any(folder.rglob(".tmp??????"))
    return False


class Moment:
    """A moment of a kind in a run that has been queued."""

    def __init__(self, kind, folder, listener, seconds, draw):
        self._kind, self._folder, self._listener, self._draw = kind, folder, listener, draw
        self._end = time.monotonic() + draw.uniform(0, seconds)
        self._steps = draw.randint(1, STEPS - 1)
        self._writes, self._writing = draw.randint(1, 8), False

    def come(self):
        """Wait for it; False if the run has ended before."""
        while not self._now():
            if any(self._listener.of_type(kind) for kind in ("execution_success", "execution_error")):
                return False
            time.sleep(0.001)
        if self._kind not in ("writing", "any time"):
            time.sleep(self._draw.uniform(0, 0.2))
        return True

    def _now(self):
        if self._kind == "any time":
            return time.monotonic() > self._end
        if self._kind == "training":
            return any(event["value"] >= self._steps and event["max"] == STEPS for event in self._listener.of_type("progress"))
        if self._kind == "scoring":
            return any("scoring on held-out" in message["text"] for message in self._listener.of_type("text"))
        if self._kind == "sampling":
            return any("making the sample" in message["text"] for message in self._listener.of_type("text"))
        before, self._writing = self._writing, half_written(self._folder)
        self._writes -= self._writing and not before
        return self._writes <= 0


def check_that_all_is_whole(folder):
    """What has its name is a whole file."""
    for path in folder.rglob("*") if folder.exists() else ():
        if path.suffix in (".safetensors", ".state") and not path.name.startswith("."):
            load_file(path)
        if path.suffix == ".json" and not path.name.startswith("."):
            json.loads(path.read_text())


def forget(comfy):
    """Have the server forget what it has cached: it does so between two prompts."""
    comfy.request("/free", {"unload_models": False, "free_memory": True})
    graph = Graph()
    graph.add("PreviewAny", source="between")
    comfy.run(graph)


def run_with_interruptions(comfy_server, folder, interrupt, seconds, draw, most):
    """A run from its beginning to its end; the moments at which it was interrupted."""
    shutil.rmtree(folder, ignore_errors=True)
    forget(ComfyClient(comfy_server.url))
    moments = []
    while True:
        comfy = ComfyClient(comfy_server.url)
        graph, kind = training(comfy), draw.choice(KINDS)
        with comfy.listen() as listener:
            prompt_id = comfy.queue(graph)
            if len(moments) < most and Moment(kind, folder, listener, seconds, draw).come():
                moments.append(kind + (" with a file half written" if half_written(folder) else ""))
                interrupt(comfy, prompt_id)
                check_that_all_is_whole(folder)
                continue
        comfy.wait(prompt_id, 300)
        return moments


def interruptions(comfy_server, folder, straight, interrupt, count, draw):
    """So many interruptions, over as many runs as it takes; what was wrong at their ends."""
    (expected, seconds), done, wrong = straight, [], []
    while len(done) < count:
        moments = run_with_interruptions(comfy_server, folder, interrupt, seconds, draw, min(A_RUN, count - len(done)))
        found = contents(folder)
        differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        print(f"{len(done) + len(moments)} of {count}: {', '.join(moments) or 'none'}; differing: {differing}")
        wrong += [(moments, differing)] if differing else []
        done += moments
    return wrong


@pytest.mark.one_host
def test_a_run_killed_at_random_moments_ends_as_the_straight_one(comfy_server, folder, straight):
    def kill(_comfy, _prompt_id):
        comfy_server.kill()
        comfy_server.restart()

    assert interruptions(comfy_server, folder, straight, kill, KILLS, random.Random("kills")) == []


@pytest.mark.one_host
def test_a_run_cancelled_at_random_moments_ends_as_the_straight_one(comfy_server, folder, straight):
    def cancel(comfy, prompt_id):
        comfy.interrupt(prompt_id)
        try:
            comfy.wait(prompt_id, 300)  # it was done already
        except Interrupted:
            pass

    assert interruptions(comfy_server, folder, straight, cancel, CANCELS, random.Random("cancels")) == []
