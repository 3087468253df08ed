"""PDST Evaluate through the server: the protocol, shards, kills, and what may not be mixed."""

import io
import json

import numpy as np
import pytest
import torch
from graphs import add_sampling, add_tiny, encode
from PIL import Image

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import save_token
from comfy_client import ComfyClient, ExecutionFailed, Graph
from comfy_server import link
from pdst_set import write_subject

SCORES = {"clip_t", "clip_i", "dino", "clip_i_train", "dino_train"}


def token(kind="textual_inversion", seed=0, placeholder="<my-cat>", super_category="cat", **record):
    generator = torch.Generator().manual_seed(seed)
    if kind == "neti":
        subject = NeTIMapper(768, norm_scale=0.4, seed=seed)
    else:
        subject = Embedding(torch.randn(1, 768, generator=generator) * 0.02)
    return PersonalizedToken(placeholder, super_category, kind, 768, subject, record=record)


@pytest.fixture(scope="module")
def base(comfy_server, small_encoders):
    """The server's folders with encoders, tokens and a data set of one subject: 2 test photos, 2 captions each."""
    for name in ("clip-tiny", "dino-tiny"):
        link(small_encoders / "evaluation" / name, comfy_server.base / "models" / "evaluation" / name)
    neti = comfy_server.output / "neti"
    save_token(token(), neti / "pdst-plain.safetensors")
    save_token(token("neti", settings={"method": "neti+"}, step=7), neti / "pdst-neti.safetensors")
    for step in (20, 100):
        save_token(token(seed=step, step=step), neti / "pdst-run" / f"pdst-run-step-{step:06d}.safetensors")
    write_subject(comfy_server.base / "models" / "pdst" / "pets", "cat")
    return comfy_server.base


def add_dataset(graph, folder="pets", captions=2):
    return graph.add("AttractorLoadPDST", folder=f"pdst/{folder}", subjects="all", captions_per_photo=captions)


def evaluation(name, *tokens, folder="pets", clip="clip-tiny", dino="dino-tiny", captions=2, **changes):
    """A graph that evaluates a token; its node."""
    graph = Graph()
    loader = add_tiny(graph)
    inputs = {
        "images_per_caption": 3, "sampler": "euler", "scheduler": "normal", "steps": 1, "cfg": 3.0, "width": 64, "height": 64,
        "batch_size": 2, "seed": 5, "save_images": True, "include_floor": False, **changes,
    }  # fmt: skip
    if tokens:
        inputs["tokens"] = graph.add("AttractorLoadNeTIMapper", file=tokens[0])[0]
    if inputs.get("metrics", True):
        encoders = graph.add("AttractorLoadEvaluationEncoders", clip=f"evaluation/{clip}", dino=f"evaluation/{dino}",
                             download_if_missing=False)
        inputs["encoders"] = encoders[0]
    node = graph.add("AttractorPDSTEvaluate", model=loader[0], clip=loader[1], vae=loader[2],
                     dataset=add_dataset(graph, folder, captions)[0], name=name, **inputs)
    return graph, node


def evaluate(comfy, name, *tokens, **changes):
    graph, node = evaluation(name, *tokens, **changes)
    return comfy.run(graph, timeout=300)["outputs"][node.id]


def refused(comfy, name, *tokens, **changes):
    """The message with which an evaluation is refused."""
    with pytest.raises(ExecutionFailed) as failed:
        evaluate(comfy, name, *tokens, **changes)
    return failed.value.exception_message


class Results:
    """An entry's header and its records, of all shards."""

    def __init__(self):
        self.records = []

    def timeless(self):
        """The records without what a clock says."""
        return [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in self.records]


def results(base, name):
    """By entry, read here anew: `read_results` and its strictness are tested in tests/host."""
    found = {}
    for path in sorted((base / "output" / "pdst" / name).glob("*.jsonl")):
        header, *records = map(json.loads, path.read_text().splitlines())
        entry = found.setdefault(header["entry"], Results())
        entry.header = header
        entry.records = sorted([*entry.records, *records], key=lambda record: record["number"])
    return found


def same_images(base, one, other, entry):
    def read(name):
        root = base / "output" / "pdst" / name / "images" / entry
        return {str(path.relative_to(root)): np.asarray(Image.open(path)) for path in sorted(root.rglob("*.png"))}
    first, second = read(one), read(other)
    assert first.keys() == second.keys() and first
    return all(np.array_equal(first[key], second[key]) for key in first)


NETI = "my-cat-neti+-step-7"


@pytest.fixture(scope="module")
def single(comfy_server, base):
    """One evaluation of a NeTI token and the floor in one run; what the node showed."""
    shown = evaluate(ComfyClient(comfy_server.url), "single", "pdst-neti.safetensors", include_floor=True)
    return shown, results(base, "single")


def test_every_caption_gets_its_images_and_scores(single, base):
    shown, found = single
    assert set(found) == {NETI, "floor"}
    for entry, name in ((found[NETI], "<my-cat>"), (found["floor"], "cat")):
        assert len(entry.records) == entry.header["expected"] == 2 * 2 * 3
        assert [(r["photo"], r["caption"], r["index"]) for r in entry.records] == [
            (f"test-{photo}.png", caption, index) for photo in (1, 2) for caption in (0, 1) for index in range(3)]
        assert entry.records[0]["prompt"] == f"a photo of a {name} on the beach, 1"
        assert len({record["seed"] for record in entry.records}) == 12
        assert all(set(record["scores"]) == SCORES for record in entry.records)
        assert set(entry.header["ceiling"]["cat"]) == SCORES
    assert [r["seed"] for r in found[NETI].records] == [r["seed"] for r in found["floor"].records], "pairs share their noise"
    assert found[NETI].header["step"] == 7 and found[NETI].header["token"]["method"] == "neti+"
    folder = base / "output" / "pdst" / "single"
    for record in found["floor"].records:
        assert Image.open(folder / record["image"]).size == (64, 64)
    assert all((folder / path).is_file() for path in found["floor"].header["subjects"]["cat"]["references"])
    assert "12 images; clip_t " in shown["text"][0] and len(shown["images"]) == 2


def test_the_scores_are_those_of_the_saved_images(single, base, small_encoders):
    """By transformers itself, from the PNG files."""
    from transformers import CLIPImageProcessor, CLIPModel

    folder = small_encoders / "evaluation"
    clip = CLIPModel.from_pretrained(folder / "clip-tiny").eval()
    side = clip.config.vision_config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    record = single[1][NETI].records[-1]

    def features(path):
        pixels = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        found = clip.get_image_features(pixel_values=pixels)
        found = getattr(found, "pooler_output", found)
        return torch.nn.functional.normalize(found, dim=-1)

    with torch.no_grad():
        made = features(base / "output" / "pdst" / "single" / record["image"])
        other, real = (features(base / "models" / "pdst" / "pets" / "cat" / "test" / f"test-{i}.png") for i in (1, 2))
        train = torch.cat([features(p) for p in sorted((base / "models" / "pdst" / "pets" / "cat" / "train").iterdir())])
    # transformers resizes a little differently here; exactly the same is tested with the metrics themselves
    assert record["photo"] == "test-2.png" and abs(made @ real.T - made @ other.T).item() > 1e-3
    assert record["scores"]["clip_i"] == pytest.approx((made @ real.T).item(), abs=1e-4)
    assert record["scores"]["clip_i_train"] == pytest.approx((made @ train.T).mean().item(), abs=1e-4)


def test_an_image_can_be_made_again_by_hand(comfy, single):
    """KSampler with the record's prompt and seed, through stock nodes."""
    record = single[1][NETI].records[5]
    graph = Graph()
    loader = add_tiny(graph)
    loaded = graph.add("AttractorLoadNeTIMapper", file="pdst-neti.safetensors")
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=loaded[0])
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
    sampled = add_sampling(graph, applied[0], encode(graph, applied[1], record["prompt"]), encode(graph, applied[1], ""),
                           latent, seed=record["seed"], steps=1, cfg=3.0)
    shown = graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[2])[0])
    (again,) = comfy.images(comfy.run(graph), shown)
    original = Image.open(comfy_image(comfy, record))
    assert np.abs(np.asarray(again, dtype=int)[..., :3] - np.asarray(original, dtype=int)).max() <= 1


def comfy_image(comfy, record):
    folder, _, name = record["image"].rpartition("/")
    return io.BytesIO(comfy.view({"filename": name, "subfolder": f"pdst/single/{folder}", "type": "output"}))


def test_three_shards_in_any_order_equal_the_single_run(comfy, base, single):
    for shard in (3, 1, 2):
        evaluate(comfy, "sharded", "pdst-neti.safetensors", include_floor=True, shard=shard, shards=3)
    merged, whole = results(base, "sharded"), single[1]
    for name in (NETI, "floor"):
        assert merged[name].timeless() == whole[name].timeless()
        assert merged[name].header["ceiling"] == whole[name].header["ceiling"]
        assert same_images(base, "sharded", "single", name)


def test_killed_in_the_middle_and_resumed_equals_the_uninterrupted_run(comfy_server, base, single):
    comfy = ComfyClient(comfy_server.url)
    graph, _ = evaluation("killed", "pdst-neti.safetensors", include_floor=True)
    with comfy.listen() as listener:
        comfy.queue(graph)
        listener.wait_for("progress", lambda event: event["max"] == 24 and event["value"] >= 3, timeout=300)
        comfy_server.kill()
    path = base / "output" / "pdst" / "killed" / f"{NETI}.jsonl"
    done = len(path.read_text().splitlines()) - 1
    assert 3 <= done < 12, "the kill came too late to show anything"
    with open(path, "ab") as file:  # a kill may also leave this
        file.write(b'{"number": 99, "subj')
    comfy_server.start()
    evaluate(ComfyClient(comfy_server.url), "killed", "pdst-neti.safetensors", include_floor=True)
    resumed = results(base, "killed")
    for name in (NETI, "floor"):
        assert resumed[name].timeless() == single[1][name].timeless()
        assert same_images(base, "killed", "single", name)
