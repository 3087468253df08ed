"""Train Attractor Embedding through the HTTP API of the real host."""

import json
import math

import pytest
from graphs import add_photos, add_sampling, add_tiny, add_training, encode
from safetensors import safe_open
from safetensors.torch import load_file

from attractor.trainer.disk import MANY_PHOTOS
from comfy_client import ComfyClient, Graph, Interrupted

METHODS = ("neti+", "textual_inversion+", "neti", "textual_inversion")


@pytest.fixture
def run_folder(comfy_server):
    return lambda name: comfy_server.output / "neti" / name


def test_training_then_stock_prompt_samples_an_image_on_the_stock_loader(comfy, small_checkpoint, run_folder):
    """The whole main job on a checkpoint file: train, apply, stock CLIP Text Encode, KSampler."""
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=small_checkpoint.name)
    images, masks = add_photos(graph, comfy, count=2)
    trained = add_training(
        graph, loader, images, masks, name="main-job", sample_every=1, steps=1, sample_steps=1, prompts_per_step="one"
    )
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=trained[0])
    sampled = add_sampling(
        graph, applied[0], encode(graph, applied[1], "a photo of <my-cat> on the moon"), encode(graph, applied[1], "")
    )
    image = graph.add(
        "SaveImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[2])[0], filename_prefix="main-job"
    )
    with comfy.listen() as listener:
        entry = comfy.run(graph, timeout=600)
    assert comfy.images(entry, image)[0].size == (128, 128)
    assert comfy.images(entry, trained)[0].size[0] >= 640, "the chart is shown on the node"
    folder = run_folder("main-job")
    assert {p.name for p in folder.iterdir()} >= {"main-job.safetensors", "resume.state", "chart.png", "curves.json"}
    assert (folder / "samples" / "step-000001.png").exists()
    assert listener.of_type("preview"), "no live chart was sent"
    assert any("Step 1 of 1" in message["text"] for message in listener.of_type("text")), "no text line was sent"
    with safe_open(folder / "main-job.safetensors", "pt") as file:
        header = json.loads(file.metadata()["attractor"])
    assert (header["kind"], header["placeholder"], header["record"]["step"]) == ("neti", "<my-cat>", 1)
    assert header["record"]["settings"]["learning_rate"] == 2e-3, "NeTI's, times the batch of 2"
    assert "/" not in json.dumps(header["record"]), "a path of this machine is in the file"


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_and_records_its_losses(comfy, run_folder, method):
    graph = Graph()
    images, masks = add_photos(graph, comfy)
    name = method.replace("+", "-plus")
    settings = {"method": method, "name": name, "super_category": "teddy bear", "prompts_per_step": "all"}
    trained = add_training(graph, add_tiny(graph), images, masks if "+" in method else None, **settings)
    graph.add("LossGraphNode", loss=trained[2], filename_prefix="loss")
    comfy.run(graph, timeout=300)
    curves = json.loads((run_folder(name) / "curves.json").read_text())
    expected = {"subject", "background", "joint", "contrast"} if "+" in method else {"subject"}
    assert set(curves) == expected | {"fixed", "contrast_weight"}
    assert all(math.isfinite(value) for key in expected for value in curves[key])
    tensors = load_file(run_folder(name) / f"{name}.safetensors")
    attractors = {key.split(".")[0] for key in tensors} - {"subject"}
    assert len(attractors) == (3 if "+" in method else 0)


def test_same_seed_gives_the_same_token_and_another_seed_another(comfy, run_folder):
    tokens = []
    for name, seed in (("seed-a", 5), ("seed-b", 5), ("seed-c", 6)):
        graph = Graph()
        images, masks = add_photos(graph, comfy)
        add_training(graph, add_tiny(graph), images, masks, name=name, seed=seed, method="textual_inversion+")
        comfy.run(graph)
        tokens.append(load_file(run_folder(name) / f"{name}.safetensors"))
    assert all(tokens[0][key].equal(tokens[1][key]) for key in tokens[0])
    assert not tokens[0]["subject.vectors"].equal(tokens[2]["subject.vectors"])


@pytest.mark.one_host
def test_of_many_photos_the_attractors_stay_out_of_step_files_and_the_cost_is_said(comfy, run_folder):
    graph = Graph()
    images = graph.add("EmptyImage", width=64, height=64, batch_size=MANY_PHOTOS + 1, color=8421504)[0]
    mask = graph.add("SolidMask", value=0.5, width=64, height=64)[0]
    masks = graph.add("RepeatImageBatch", image=graph.add("MaskToImage", mask=mask)[0], amount=MANY_PHOTOS + 1)[0]
    settings = {"steps": 1, "checkpoint_every": 1, "resolution": 64, "method": "textual_inversion+", "name": "many"}
    add_training(graph, add_tiny(graph), images, graph.add("ImageToMask", image=masks, channel="red")[0], **settings)
    with comfy.listen() as listener:
        comfy.run(graph, timeout=300)
    assert len(load_file(run_folder("many") / "many.safetensors")) == 1 + MANY_PHOTOS + 1
    assert list(load_file(run_folder("many") / "many-step-000001.safetensors")) == ["subject.vectors"]
    assert any("writes a step file of under 1 MB, a state of" in message["text"] for message in listener.of_type("text"))


def test_training_leaves_the_loaded_model_as_it_was(comfy, comfy_server):
    """The same stock image before and after a training on the same MODEL."""

    def sample(prefix, train):
        graph = Graph()
        loader = add_tiny(graph)
        sampled = add_sampling(graph, loader[0], encode(graph, loader[1], "a cat"), encode(graph, loader[1], ""))
        graph.add("SaveLatent", samples=sampled[0], filename_prefix=prefix)
        if train:
            images, masks = add_photos(graph, comfy)
            add_training(graph, loader, images, masks, name="unchanged")
        comfy.run(graph, timeout=300)

    sample("before", train=False)
    sample("train", train=True)
    comfy.request("/free", {"unload_models": False, "free_memory": True})
    sample("after", train=False)
    before, after = (load_file(next(comfy_server.output.glob(f"{p}_*.latent")))["latent_tensor"] for p in ("before", "after"))
    assert before.equal(after)


def training_graph(comfy, name, steps=4, **changes):
    graph = Graph()
    images, masks = add_photos(graph, comfy)
    add_training(graph, add_tiny(graph), images, masks, name=name, steps=steps, resume=True, **changes)
    return graph


def test_steps_kill_restart_and_the_rest_equal_straight_steps_bit_for_bit(comfy_server, run_folder):
    comfy = ComfyClient(comfy_server.url)
    comfy.run(training_graph(comfy, "straight"), timeout=300)
    with comfy.listen() as listener:
        comfy.queue(training_graph(comfy, "killed", checkpoint_every=1))
        listener.wait_for("progress", lambda event: event["max"] == 4 and event["value"] >= 2, timeout=300)
        comfy_server.kill()
    state = run_folder("killed") / "resume.state"
    with safe_open(state, "pt") as file:
        done = json.loads(file.metadata()["attractor"])["step"]
    assert 2 <= done < 4, "the kill came too late to show anything"
    for left in (".tmpAb12Cd", ".killed.safetensors.99.tmp"):  # a kill while a file is written: safetensors' own, and ours
        (state.parent / left).touch()
    comfy_server.restart()
    comfy = ComfyClient(comfy_server.url)
    comfy.run(training_graph(comfy, "killed", checkpoint_every=1), timeout=300)
    for file in ("{}.safetensors", "resume.state"):
        straight = load_file(run_folder("straight") / file.format("straight"))
        resumed = load_file(run_folder("killed") / file.format("killed"))
        assert straight.keys() == resumed.keys()
        for key in straight:
            assert straight[key].nan_to_num(-1).equal(resumed[key].nan_to_num(-1)), key
    assert not [path.name for path in state.parent.iterdir() if path.name.startswith(".")], "what the kill left is still there"


def test_cancel_keeps_a_loadable_token_and_queueing_again_resumes(comfy, run_folder):
    with comfy.listen() as listener:
        prompt_id = comfy.queue(training_graph(comfy, "cancelled", steps=400, method="textual_inversion+"))
        listener.wait_for("progress", lambda event: event["max"] == 400 and event["value"] >= 2, timeout=300)
        comfy.interrupt(prompt_id)
        with pytest.raises(Interrupted):
            comfy.wait(prompt_id)
    with safe_open(run_folder("cancelled") / "resume.state", "pt") as file:
        done = json.loads(file.metadata()["attractor"])["step"]
    assert 2 <= done < 400
    graph = Graph()
    loader = add_tiny(graph)
    loaded = graph.add("AttractorLoadNeTIMapper", file="cancelled/cancelled.safetensors")
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=loaded[0])
    sampled = add_sampling(graph, applied[0], encode(graph, applied[1], "<my-cat>"), encode(graph, applied[1], ""))
    graph.add("SaveLatent", samples=sampled[0], filename_prefix="cancelled")
    comfy.run(graph)
    comfy.run(training_graph(comfy, "cancelled", steps=done + 1, method="textual_inversion+"), timeout=300)
    with safe_open(run_folder("cancelled") / "resume.state", "pt") as file:
        assert json.loads(file.metadata()["attractor"])["step"] == done + 1
