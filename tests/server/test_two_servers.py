"""Two real servers with one output folder, on one run and on one share of an evaluation: the second is told who has it."""

import json
import re

import pytest
from graphs import add_evaluation, add_photos, add_tiny, add_training
from safetensors import safe_open
from safetensors.torch import load_file

from comfy_client import ComfyClient, ExecutionFailed, Graph, Interrupted
from comfy_server import ComfyServer
from pdst_set import write_subject

pytestmark = pytest.mark.one_host
IMAGES = 12  # of a caption


@pytest.fixture(scope="module")
def two(comfy_server, host_root, server_packs, tmp_path_factory):
    """Clients of the session's server and of another one that writes to the same output folder."""
    base = tmp_path_factory.mktemp("other")
    for root in (comfy_server.base, base):
        write_subject(root / "models" / "pdst" / "two-servers", "cat", train=1, test=1, captions=2, seed=90)
    options = ("--cpu", "--output-directory", str(comfy_server.output))
    with ComfyServer(host_root, base, server_packs, options=options, env={"HF_HUB_OFFLINE": "1"}) as other:
        yield ComfyClient(comfy_server.url), ComfyClient(other.url)


def training(comfy, steps):
    graph = Graph()
    images, masks = add_photos(graph, comfy)
    settings = {"method": "textual_inversion+", "resume": True, "checkpoint_every": 1}
    add_training(graph, add_tiny(graph), images, masks, name="two-servers", steps=steps, **settings)
    return graph


def evaluation(shard):
    """One of two shares of the plain word's images."""
    graph = Graph()
    loader = add_tiny(graph)
    dataset = graph.add("AttractorLoadPDST", folder="pdst/two-servers", subjects="all", captions_per_photo=2)[0]
    inputs = {
        "name": "two-servers",
        "dataset": dataset,
        "include_floor": True,
        "save_images": True,
        "metrics": False,
        "seed": 1,
    }
    sampling = {"steps": 1, "width": 64, "height": 64, "batch_size": 1, "shard": shard, "shards": 2}
    wires = {"model": loader[0], "clip": loader[1], "vae": loader[2]}
    add_evaluation(graph, **wires, **inputs, **sampling, images_per_caption=IMAGES)
    return graph


def refusal(comfy, graph):
    with pytest.raises(ExecutionFailed) as failed:
        comfy.run(graph)
    return failed.value.exception_message


def steps_done(folder):
    with safe_open(folder / "resume.state", "pt") as file:
        return json.loads(file.metadata()["attractor"])["step"]


def test_the_second_to_train_a_run_is_told_who_does_and_takes_it_up_afterwards(two, comfy_server):
    first, second = two
    folder = comfy_server.output / "neti" / "two-servers"
    with first.listen() as listener:
        running = first.queue(training(first, 400))
        listener.wait_for("progress", lambda event: event["max"] == 400 and event["value"] >= 2, timeout=300)
        message = refusal(second, training(second, 400))
        told = re.search(
            r"name: the run 'two-servers' is being written by another ComfyUI \(process (\d+) on .*, since \d", message
        )
        assert told and int(told[1]) == comfy_server.process.pid
        after = len(listener.of_type("progress"))
        listener.wait_for("progress", lambda event: len(listener.of_type("progress")) > after, timeout=60)
        first.interrupt(running)
        with pytest.raises(Interrupted):
            first.wait(running)
    done = steps_done(folder)
    assert len(list(folder.glob("two-servers-step-*"))) == done, "a step file is missing, or one too many"
    second.run(training(second, done + 1))
    assert steps_done(folder) == done + 1
    for path in folder.glob("*.safetensors"):
        load_file(path)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_second_to_evaluate_a_share_is_told_and_can_take_the_other(two, comfy_server):
    first, second = two
    folder = comfy_server.output / "pdst" / "two-servers"
    with first.listen() as listener:
        running = first.queue(evaluation(1))
        listener.wait_for("progress", lambda event: event["value"] >= 2, timeout=120)
        message = refusal(second, evaluation(1))
        assert re.search(rf"another ComfyUI \(process {comfy_server.process.pid} on .*another name or shard", message)
        second.run(evaluation(2))
        first.wait(running)
    records = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()[1:]]
    images = [record["image"] for record in records]
    assert len(images) == len(set(images)) == 2 * IMAGES, "images are missing, or there twice"
    assert all((folder / image).is_file() for image in images)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
