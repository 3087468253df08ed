"""Several vectors, a token to start from, captions and templates of one's own, several sample prompts: through the API."""

import pytest
import torch
from graphs import add_photos, add_sampling, add_tiny, add_training, encode
from PIL import Image

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import load_token, save_token
from comfy_client import ExecutionFailed, Graph

WIDTH = 128  # of the test model's text encoder
QUICK = {"method": "textual_inversion", "steps": 1, "batch_size": 1, "resolution": 64, "super_category": "cat"}


def trained(comfy, name, folder=None, **changes):
    """Train for a step, on two photos or on those of an input folder, whose captions are used; the history entry."""
    graph = Graph()
    if folder:
        photos = graph.add(
            "AttractorLoadSubjectImages", folder=folder, alpha="ignored", unreadable_files="stop", longest_side=64
        )
        images, changes = photos[0], {"captions": photos[3], **changes}
    else:
        images, _ = add_photos(graph, comfy, count=2, size=64)
    if "start_from" in changes:
        loaded = graph.add("AttractorLoadNeTIMapper", file=changes["start_from"])
        changes = {**changes, "start_from": loaded[0]}
    add_training(graph, add_tiny(graph), images, name=name, **{**QUICK, **changes})
    return comfy.run(graph)


def token_of(comfy_server, name):
    return load_token(comfy_server.output / "neti" / name / f"{name}.safetensors")


def picture(graph, comfy, model, clip, vae, prompt):
    sampled = add_sampling(graph, model, encode(graph, clip, prompt), encode(graph, clip, ""))
    shown = graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=vae)[0])
    return comfy.images(comfy.run(graph), shown)[0].tobytes()


def test_three_vectors_are_learnt_and_are_a_stock_embedding(comfy, comfy_server):
    trained(comfy, "own-vectors", vectors=3)
    vectors = token_of(comfy_server, "own-vectors").subject.vectors
    assert vectors.shape == (3, WIDTH)
    assert len({tuple(row.tolist()) for row in vectors}) == 3, "one word at the start, told apart by their places"
    trained(comfy, "own-vectors", vectors=3, steps=2, resume=True)
    assert token_of(comfy_server, "own-vectors").record["step"] == 2

    ours, stock = Graph(), Graph()
    token = ours.add("AttractorLoadNeTIMapper", file="own-vectors/own-vectors.safetensors")[0]
    ours.add("AttractorSaveToken", token=token, name="own-vectors-stock", export_embedding=True)
    tiny = add_tiny(ours)
    applied = ours.add("AttractorApplyToken", model=tiny[0], clip=tiny[1], token=token, placeholder="<x>")
    pixels = picture(ours, comfy, applied[0], applied[1], tiny[2], "a photo of a <x> here")
    tiny = add_tiny(stock)
    assert picture(stock, comfy, tiny[0], tiny[1], tiny[2], "a photo of a embedding:own-vectors-stock here") == pixels


@pytest.fixture(scope="module")
def starts(comfy_server):
    """Tokens that a training may start from, or may not."""
    folder = comfy_server.output / "neti"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(4)) * 0.05
    for name, kind, subject in (
        ("plain", "textual_inversion", Embedding(numbers[:1])),
        ("other", "textual_inversion", Embedding(numbers[1:])),
        ("two", "textual_inversion", Embedding(numbers)),
        ("neti", "neti", NeTIMapper(WIDTH, norm_scale=0.4, seed=3)),
    ):
        save_token(PersonalizedToken(f"<{name}>", "cat", kind, WIDTH, subject), folder / f"own-start-{name}.safetensors")


@pytest.mark.parametrize("kind", ["plain", "neti"])
def test_training_goes_on_from_a_token(comfy, comfy_server, starts, kind):
    still = {
        "learning_rate_preset": "custom",
        "learning_rate": 1e-12,
        "method": "neti" if kind == "neti" else "textual_inversion",
    }
    trained(comfy, f"own-from-{kind}", start_from=f"own-start-{kind}.safetensors", **still)
    found = token_of(comfy_server, f"own-from-{kind}").subject.state_dict()
    start = load_token(comfy_server.output / "neti" / f"own-start-{kind}.safetensors").subject.state_dict()
    assert found.keys() == start.keys()
    for name in start:
        torch.testing.assert_close(found[name], start[name], rtol=0, atol=1e-9)


def test_a_run_that_started_elsewhere_is_not_resumed(comfy, starts):
    trained(comfy, "own-resumed", start_from="own-start-plain.safetensors")
    trained(comfy, "own-resumed", start_from="own-start-plain.safetensors", resume=True, steps=2)
    for other in ({"start_from": "own-start-other.safetensors"}, {}):
        with pytest.raises(ExecutionFailed, match="cannot be resumed: start from was <plain>"):
            trained(comfy, "own-resumed", resume=True, steps=3, **other)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"start_from": "own-start-neti.safetensors"}, "start_from: <neti> is of the kind neti, and textual_inversion learns"),
        ({"start_from": "own-start-two.safetensors"}, "start_from: <two> has 2 vectors, and vectors is 1. Set vectors to 2"),
        ({"method": "neti", "vectors": 2}, "vectors is 2, and only textual_inversion has several"),
        ({"method": "dreambooth_lora", "captions": "a {}\nthe {}"}, "templates and captions are not for dreambooth_lora"),
        ({"templates": "a photo"}, "templates: line 1 .* must hold {} once"),
        ({"captions": "a {}"}, "captions: there are 1 lines and 2 photos"),
        ({"sample_every": 1, "more_sample_prompts": "a {} there\na dog"}, "does not mention the subject in 'a dog'"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(comfy, comfy_server, starts, changes, words):
    with pytest.raises(ExecutionFailed, match=words):
        trained(comfy, "own-refused", **changes)
    assert not (comfy_server.output / "neti" / "own-refused").exists()


def test_captions_beside_the_photos_reach_the_training(comfy, comfy_server):
    folder = comfy_server.base / "input" / "own-captions"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.effect_mandelbrot((64, 64), (-2, -1.5 + number / 9, 1, 1.5), 20).convert("RGB").save(folder / f"{number}.png")
    (folder / "0.txt").write_text("\n  a {}   on a sofa\nnot this line\n", encoding="utf-8")
    (folder / "2.txt").write_bytes("\ufeffein {} im Gr\u00fcnen".encode())
    trained(comfy, "own-captions", folder="own-captions")
    settings = token_of(comfy_server, "own-captions").record["settings"]
    assert settings["captions"] == "a {} on a sofa\n\nein {} im Gr\u00fcnen\n"
    (folder / "1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExecutionFailed, match="1.png: the caption of this photo"):
        trained(comfy, "own-captions-2", folder="own-captions")


def test_every_sample_prompt_gives_a_picture(comfy, comfy_server):
    trained(comfy, "own-samples", sample_every=1, sample_steps=1, more_sample_prompts="a {} in the snow\n\na drawing of a {}\n")
    samples = comfy_server.output / "neti" / "own-samples" / "samples"
    names = ["step-000001.png", "step-000001-2.png", "step-000001-3.png"]
    assert sorted(path.name for path in samples.iterdir()) == sorted(names)
    assert len({(samples / name).read_bytes() for name in names}) == 3
    told = comfy.get("/attractor/run?name=own-samples")["samples"]
    assert [(sample["step"], sample["prompt"], sample["file"]) for sample in told] == [(1, n + 1, names[n]) for n in range(3)]
