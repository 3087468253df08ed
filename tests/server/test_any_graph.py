"""PDST for any model and any graph: trigger phrases in PDST Evaluate, and PDST Prompts -> own graph -> PDST Score Images."""

import json
import shutil

import numpy as np
import pytest
from graphs import add_encoders, add_evaluation, add_sampling, add_tiny
from PIL import Image

from comfy_client import ComfyClient, ExecutionFailed, Graph, GraphRejected
from pdst_results import SCORES, results
from pdst_set import write_subject

PHRASE = "sks {super_category}"
PLAN = {"images_per_caption": 2, "seed": 5}


@pytest.fixture(scope="module")
def base(comfy_server, server_encoders):
    """The server's folders, with encoders and two data sets: of one subject, and of two."""
    write_subject(comfy_server.base / "models" / "pdst" / "any-one", "cat", seed=21)
    for seed, name in enumerate(("dog-1", "dog-2"), 22):
        write_subject(comfy_server.base / "models" / "pdst" / "any-two", name, "dog", test=1, captions=1, seed=seed)
    return comfy_server.base


def add_data(graph, folder="any-one", captions=2):
    return graph.add("AttractorLoadPDST", folder=f"pdst/{folder}", subjects="all", captions_per_photo=captions)[0]


def add_model(graph, loader):
    return add_tiny(graph, text_width=768) if loader == "TestTinySD15" else graph.add(loader, seed=0)


def evaluate(comfy, name, loader="TestTinySD15", **changes):
    """PDST Evaluate of a phrase; what its node says."""
    graph = Graph()
    model = add_model(graph, loader)
    inputs = {**PLAN, "include_floor": False, "save_images": True, "trigger": PHRASE}
    sampling = {"steps": 1, "cfg": 3.0, "width": 64, "height": 64, "batch_size": 1}
    data = {"dataset": add_data(graph), "encoders": add_encoders(graph)}
    wired = {"model": model[0], "clip": model[1], "vae": model[2], **data}
    node = add_evaluation(graph, name=name, **wired, **{**inputs, **sampling, **changes})
    return comfy.run(graph, timeout=300)["outputs"][node.id]["text"][0]


def add_prompts(graph, folder="any-one", captions=2, trigger=PHRASE, **changes):
    return graph.add("AttractorPDSTPrompts", dataset=add_data(graph, folder, captions), trigger=trigger, **{**PLAN, **changes})


def add_own_graph(graph, asked, loader="TestTinySD15"):
    """IMAGE list of stock nodes, sampled as `evaluate` samples."""
    model = add_model(graph, loader)
    positive = graph.add("CLIPTextEncode", text=asked[1], clip=model[1])[0]
    negative = graph.add("CLIPTextEncode", text="", clip=model[1])[0]
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
    sampled = add_sampling(graph, model[0], positive, negative, latent, seed=asked[2], steps=1, cfg=3.0)
    return graph.add("VAEDecode", samples=sampled[0], vae=model[2])[0]


def score(comfy, graph, asked, name, label="own", dino="dino-tiny", **inputs):
    """PDST Score Images; what its node says."""
    inputs = {"save_images": True, **inputs}
    node = graph.add(
        "AttractorPDSTScoreImages", plan=asked[0], encoders=add_encoders(graph, dino=dino), name=name, label=label, **inputs
    )
    return comfy.run(graph, timeout=300)["outputs"][node.id]["text"][0]


def score_own_graph(comfy, name, loader="TestTinySD15", label="own", dino="dino-tiny", **changes):
    graph = Graph()
    asked = add_prompts(graph, **changes)
    return score(comfy, graph, asked, name, label, dino, images=add_own_graph(graph, asked, loader), names=asked[3])


def score_folder(comfy, name, folder, label="own", dino="dino-tiny", more=None, **changes):
    graph = Graph()
    return score(comfy, graph, add_prompts(graph, **changes), name, label, dino, folder=folder, **(more or {}))


def refused(make, *arguments, **changes):
    with pytest.raises(ExecutionFailed) as failed:
        make(*arguments, **changes)
    return failed.value.exception_message.strip()


def pixels(base, name, record):
    return np.asarray(Image.open(base / "output" / "pdst" / name / record["image"]))


def alike(record):
    """Everything of an image's record that its file's name, a clock and the door do not say."""
    return {key: value for key, value in record.items() if key not in ("image", "pixels") and not key.startswith("seconds")}


def both_ways(comfy_server, base, loader):
    """The name of an evaluation of a model's phrase, by PDST Evaluate and by an own graph of stock nodes; its entries."""
    comfy, name = ComfyClient(comfy_server.url), f"any-{loader.lower()}"
    evaluate(comfy, name, loader, include_floor=True)
    score_own_graph(comfy, name, loader)
    return name, results(base, name)


@pytest.fixture(scope="module")
def sd15(comfy_server, base):
    return both_ways(comfy_server, base, "TestTinySD15")


@pytest.fixture(scope="module")
def sdxl(comfy_server, base):
    return both_ways(comfy_server, base, "TestTinySDXL")


@pytest.fixture(scope="module")
def flux(comfy_server, base):
    return both_ways(comfy_server, base, "TestTinyFlux")


def test_a_trigger_phrase_stands_where_a_token_would(sd15):
    found = sd15[1]
    header, records = found["sks-cat-trigger"].header, found["sks-cat-trigger"].records
    assert header["trigger"] == "sks cat" and "trigger" not in found["floor-cat"].header
    assert (header["token"]["kind"], header["token"]["method"]) == ("trigger", "trigger")
    assert records[0]["prompt"] == "a photo of a sks cat on the beach, 1" and len(records) == 8
    assert set(records[0]["scores"]) == SCORES and records[0]["scores"] != found["floor-cat"].records[0]["scores"]
    assert [record["seed"] for record in records] == [record["seed"] for record in found["floor-cat"].records]


@pytest.mark.parametrize("model", ["sd15", "sdxl", "flux"])
def test_an_own_graph_gets_the_numbers_and_images_that_evaluate_makes(request, base, model):
    """A small SDXL is scored end to end, with its two text encoders and sizes, and a small Flux with its 16 channels and T5."""
    name, found = request.getfixturevalue(model)
    made, own = found["sks-cat-trigger"], found["own-cat"]
    assert len(own.records) == 8 and [alike(record) for record in own.records] == [alike(record) for record in made.records]
    for one, other in zip(own.records, made.records, strict=True):
        assert np.array_equal(pixels(base, name, one), pixels(base, name, other))
    assert made.records[0]["scores"] != found["floor-cat"].records[0]["scores"], "the phrase reaches the images"
    assert own.header["ceiling"] == made.header["ceiling"] and own.header["encoders"] == made.header["encoders"]
    assert own.header["own_graph"] == "" and own.header["token"]["kind"] == "own graph"
    assert {"model", "text encoder", "vae"} & set(own.header["identity"]) == set()
    assert set(own.header["settings"]) == {"images_per_caption", "seed", "metrics", "max_photos", "max_captions"}


def test_all_doors_stand_in_one_report_without_a_warning(comfy, sd15, base):
    graph = Graph()
    graph.add("AttractorPDSTReport", evaluations=sd15[0], name="any-report", y_axis="dino", contact_sheet="best, median, worst")
    comfy.run(graph, timeout=300)
    page = (base / "output" / "pdst" / "any-report" / "report" / "report.html").read_text()
    for row in ("sks-cat-trigger", "own-cat", "floor"):
        assert row in page
    assert f"against {sd15[0]}:" not in page and "sampler" in page and "an own graph" in page


def test_pictures_made_elsewhere_score_as_the_same_images_and_only_new_ones_are_scored(comfy, base, sd15):
    """By the names of PDST Prompts, with the number of Save Image at their ends or not."""
    name, found = sd15
    folder = base / "input" / f"{name}-pictures"
    folder.mkdir()
    for record in found["sks-cat-trigger"].records:
        stem = f"cat--{record['photo'][:-4]}--{record['caption'] + 1:02d}-{record['index'] + 1}"
        end = "_00001_" if record["number"] % 2 else ""
        shutil.copy(base / "output" / "pdst" / name / record["image"], folder / f"{stem}{end}.png")
    again = f"{name}-folder"
    score_folder(comfy, again, f"input/{name}-pictures", label="elsewhere", more={"made_with": "a camera"})
    entry = results(base, again)["elsewhere-cat"]
    assert [alike(record) for record in entry.records] == [alike(r) for r in found["sks-cat-trigger"].records]
    assert entry.header["own_graph"] == "a camera" and entry.header["token"]["method"] == "elsewhere"
    path = base / "output" / "pdst" / again / "elsewhere-cat.jsonl"
    before = path.read_text().splitlines()
    Image.fromarray(255 - pixels(base, again, entry.records[3])).save(folder / "cat--test-1--02-2_00001_.png")
    score_folder(comfy, again, f"input/{name}-pictures", label="elsewhere", more={"made_with": "a camera"})
    after = path.read_text().splitlines()
    assert after[:-1] == before[:4] + before[5:], "the others are as they were"
    changed, old = json.loads(after[-1]), json.loads(before[4])
    assert changed["number"] == old["number"] == 3 and changed["scores"] != old["scores"]


def test_shards_of_an_own_graph_are_one_result(comfy, base, sd15):
    for shard in (2, 1):
        score_own_graph(comfy, "any-shards", shard=shard, shards=2)
    found = results(base, "any-shards")["own-cat"]
    assert [alike(record) for record in found.records] == [alike(record) for record in sd15[1]["own-cat"].records]


def test_several_subjects_have_a_phrase_and_a_result_each(comfy, base):
    two = {"folder": "any-two", "captions": 1, "images_per_caption": 1}
    score_own_graph(comfy, "any-two", trigger="dog-2: ohwx dog\ndog-1: {super_category}", **two)
    found = results(base, "any-two")
    assert {name: entry.records[0]["prompt"] for name, entry in found.items()} == {
        "own-dog-1": "a photo of a dog on the beach, 1",
        "own-dog-2": "a photo of a ohwx dog on the beach, 1",
    }
    said = refused(score_own_graph, comfy, "any-two-more", trigger="dog-2: ohwx dog", **two)
    assert said == "trigger: dog-1 has no line. Write what stands for it, such as dog-1: sks dog."


def test_names_that_do_not_fit_are_said_before_anything_is_scored(comfy, base, sd15):
    folder = base / "input" / f"{sd15[0]}-odd"
    folder.mkdir()
    for stem in ("cat--test-1--01-1", "cat--test-1--01-1_00002_", "holiday"):
        Image.new("RGB", (64, 64), "red").save(folder / f"{stem}.png")
    said = refused(score_folder, comfy, "any-odd", f"input/{sd15[0]}-odd")
    assert "the plan knows no 'holiday'" in said and "several images of 'cat--test-1--01-1'" in said
    assert "no image of 'cat--test-1--01-2', 'cat--test-1--02-1', 'cat--test-1--02-2' and 4 more" in said
    for outside in ("../secrets", "input/../..", "/etc", "output/../user", "temp/x", "input/none-such"):
        assert "there is no folder" in refused(score_folder, comfy, "any-odd", outside), outside
    assert "neither is given" in refused(score_folder, comfy, "any-odd", "")
    assert "label: '../x'" in refused(score_folder, comfy, "any-odd", "", label="../x")
    graph = Graph()
    asked = add_prompts(graph)
    few = graph.add("RepeatImageBatch", image=graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)[0], amount=3)[
        0
    ]
    said = refused(score, comfy, graph, asked, "any-odd", images=few, names=asked[3])
    assert said.startswith("images: there are 3 of them, and 8 names")
    with pytest.raises(GraphRejected, match="trigger is empty"):
        score_own_graph(comfy, "any-odd", trigger=" ")
    assert "shard is 3 of 2" in refused(score_own_graph, comfy, "any-odd", shard=3, shards=2)
    assert not (base / "output" / "pdst" / "any-odd").exists()


def test_what_was_scored_or_asked_for_otherwise_is_not_put_beside_the_rest(comfy, sd15):
    assert "encoder dino was" in refused(score_own_graph, comfy, sd15[0], label="other", dino="dinov2-tiny")
    said = refused(score_own_graph, comfy, sd15[0], label="other", seed=6)
    assert "setting seed was 5, is 6" in said and "sampler" not in said, "of an own graph nobody knows the sampler"
    assert "token has changed" in refused(score_own_graph, comfy, sd15[0], trigger="ohwx cat")


def test_a_model_that_cannot_make_images_with_these_is_refused(comfy, base):
    graph = Graph()
    sdxl = graph.add("TestTinySDXL", seed=0)
    flux_vae = add_tiny(graph, vae_channels=16)[2]
    wired = {"model": sdxl[0], "clip": sdxl[1], "vae": flux_vae, "dataset": add_data(graph)}
    add_evaluation(
        graph, name="any-vae", metrics=False, trigger="sks <cat>", include_floor=False, save_images=False, **PLAN, **wired
    )
    said = refused(comfy.run, graph)
    assert "vae: it has 16 latent channels, and this model (SDXL) has 4" in said
    assert "trigger: 'sks <cat>' has < or >" in said
