"""DreamBooth, DreamBooth-LoRA and Custom Diffusion over HTTP: trained, applied, saved, and used by stock nodes."""

import json
import shutil

import pytest
from graphs import add_photos, add_preview, add_tiny, add_training
from PIL import Image
from safetensors.torch import load_file

from comfy_client import ExecutionFailed, Graph

pytestmark = pytest.mark.one_host
METHODS = ("dreambooth", "dreambooth_lora", "custom_diffusion")
TUNED_MODEL = 6


@pytest.fixture
def run_folder(comfy_server):
    return lambda name: comfy_server.output / "neti" / name


def train(comfy, name, method, **changes):
    """A graph with a training; the photos and models in it."""
    graph = Graph()
    loader = add_tiny(graph)
    images, _ = add_photos(graph, comfy)
    settings = {"class_images": 2, "sample_steps": 2, "learning_rate_preset": "custom", "learning_rate": 1e-3, "rank": 2}
    trained = add_training(graph, loader, images, None, name=name, method=method, **{**settings, **changes})
    return graph, loader, trained


def apart(comfy, pictures):
    """The largest difference between two pictures, of 255; each an entry of the history and its node."""
    a, b = (comfy.images(entry, node)[0].convert("RGB") for entry, node in pictures)
    return max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_each_is_trained_applied_and_read_by_the_stock_loader(comfy, comfy_server, run_folder, method):
    name = f"baseline-{method}"
    graph, loader, trained = train(comfy, name, method, checkpoint_every=2, sample_every=3)
    saved = graph.add("AttractorSaveToken", token=trained[0], name=f"saved-{method}")
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=trained[0])
    node = add_preview(graph, loader, applied[0], applied[1], "a photo of <my-cat> at night")
    with comfy.listen() as listener:
        entry = comfy.run(graph, timeout=300)
    ours = entry, node
    # Stock nodes alone: dreambooth's word and class are written out, Custom Diffusion's token is a stock embedding.
    word = f"embedding:saved-{method}" if method == "custom_diffusion" else "sks"
    tuned = add_preview(graph, loader, trained[TUNED_MODEL], loader[1], f"a photo of {word} cat at night")
    before = add_preview(graph, loader, loader[0], loader[1], f"a photo of {word} cat at night")
    later = comfy.run(graph, timeout=300)  # the training is not carried out again
    assert apart(comfy, [ours, (later, tuned)]) <= 1, "a vector put in rounds otherwise than a word"
    assert apart(comfy, [ours, (later, before)]) > 5
    assert entry["outputs"][saved.id]["text"][0].splitlines()[-1] == f"saved-{method}.safetensors for Load LoRA"
    curves = json.loads((run_folder(name) / "curves.json").read_text())
    assert set(curves) == {"subject", "prior", "contrast_weight", "fixed"} and len(curves["prior"]) == 3
    kept = {path.name for path in run_folder(name).iterdir()}
    assert (f"{name}-step-000002.safetensors" in kept) == (method != "dreambooth"), "of 3.4 GB the last is kept only"
    assert ("diffusers" in kept) == (method == "custom_diffusion")
    assert (run_folder(name) / "samples" / "step-000003.png").exists()
    said = [message["text"] for message in listener.of_type("text")]
    assert any("picture 1 of 2 of the class (a photo of a cat)" in text for text in said)

    again = Graph()
    loader = add_tiny(again)
    lora = again.add(
        "LoraLoader",
        model=loader[0],
        clip=loader[1],
        lora_name=f"saved-{method}.safetensors",
        strength_model=1,
        strength_clip=0,
    )
    node = add_preview(again, loader, lora[0], lora[1], f"a photo of {word} cat at night")
    assert apart(comfy, [ours, (comfy.run(again), node)]) <= 1


def test_pictures_of_the_class_are_made_once_and_ones_own_count(comfy, run_folder):
    folder = run_folder("baseline-class") / "class"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    Image.new("RGB", (200, 100), "red").save(folder / "mine.jpg")
    graph, *_ = train(comfy, "baseline-class", "dreambooth_lora", class_images=3, steps=1)
    comfy.run(graph, timeout=300)
    made = {path: path.stat().st_mtime_ns for path in folder.glob("made-*.png")}
    assert len(made) == 2, "and one is mine"
    graph, *_ = train(comfy, "baseline-class", "dreambooth_lora", class_images=3, steps=2, resume=True)
    comfy.run(graph, timeout=300)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("made-*.png")} == made
    graph, *_ = train(comfy, "baseline-class", "dreambooth_lora", class_images=3, steps=1, class_prompt="a drawing of a {}")
    comfy.run(graph, timeout=300)
    assert len(list(folder.glob("made-*.png"))) == 4, "another prompt makes others"


@pytest.mark.parametrize("prior", ["prediction", "none"])
def test_other_priors_need_no_pictures(comfy, run_folder, prior):
    graph, *_ = train(comfy, f"baseline-{prior}", "custom_diffusion", prior=prior, steps=2)
    comfy.run(graph, timeout=300)
    assert not (run_folder(f"baseline-{prior}") / "class").exists()
    curves = json.loads((run_folder(f"baseline-{prior}") / "curves.json").read_text())
    assert ("prior" in curves) == (prior == "prediction")


def test_what_cannot_be_is_said_before_any_work(comfy, run_folder):
    graph, *_ = train(comfy, "baseline-wrong", "dreambooth", rare_token="", class_prompt="a photo")
    with pytest.raises(ExecutionFailed) as failure:
        comfy.run(graph)
    assert "rare_token is empty" in str(failure.value) and "class_prompt does not mention the class" in str(failure.value)
    assert not run_folder("baseline-wrong").exists()


def test_files_of_diffusers_load_as_a_token_with_weights(comfy, comfy_server, run_folder):
    graph, *_ = train(comfy, "baseline-source", "custom_diffusion", steps=1, prior="none")
    comfy.run(graph, timeout=300)
    again = Graph()
    loader = add_tiny(again)
    file = "baseline-source/diffusers/pytorch_custom_diffusion_weights.safetensors"
    loaded = again.add("AttractorLoadNeTIMapper", file=file)
    applied = again.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=loaded[0])
    theirs = add_preview(again, loader, applied[0], applied[1], "a photo of <my-cat> cat at night")
    own = again.add("AttractorLoadNeTIMapper", file="baseline-source/baseline-source.safetensors")
    applied = again.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=own[0])
    ours = add_preview(again, loader, applied[0], applied[1], "a photo of <my-cat> at night")
    entry = comfy.run(again)
    assert apart(comfy, [(entry, theirs), (entry, ours)]) <= 1, "whole weights against differences"
    assert len(load_file(run_folder("baseline-source") / "baseline-source.safetensors")) == 33
