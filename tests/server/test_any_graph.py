"""PDST for any model and any graph: trigger phrases in PDST Evaluate, and PDST Prompts -> own graph -> PDST Score Images."""

import pytest
from graphs import add_evaluation, add_tiny

from comfy_client import Graph
from pdst_results import SCORES, results
from pdst_set import write_subject

PHRASE = "sks {super_category}"


@pytest.fixture(scope="module")
def base(comfy_server, server_encoders):
    """The server's folders, with encoders and two data sets: of one subject, and of two."""
    write_subject(comfy_server.base / "models" / "pdst" / "any-one", "cat", seed=21)
    for seed, name in enumerate(("dog-1", "dog-2"), 22):
        write_subject(comfy_server.base / "models" / "pdst" / "any-two", name, "dog", test=1, captions=1, seed=seed)
    return comfy_server.base


def add_data(graph, folder="any-one", captions=2):
    return graph.add("AttractorLoadPDST", folder=f"pdst/{folder}", subjects="all", captions_per_photo=captions)[0]


def add_encoders(graph):
    names = {"clip": "evaluation/clip-tiny", "dino": "evaluation/dino-tiny"}
    return graph.add("AttractorLoadEvaluationEncoders", download_if_missing=False, **names)[0]


def evaluate(comfy, name, loader="TestTinySD15", folder="any-one", captions=2, **changes):
    graph = Graph()
    model = add_tiny(graph, text_width=768) if loader == "TestTinySD15" else graph.add(loader, seed=0)
    inputs = {"images_per_caption": 2, "seed": 5, "include_floor": False, "save_images": True, "trigger": PHRASE}
    sampling = {"steps": 1, "cfg": 3.0, "width": 64, "height": 64, "batch_size": 1}
    data = {"dataset": add_data(graph, folder, captions), "encoders": add_encoders(graph)}
    wired = {"model": model[0], "clip": model[1], "vae": model[2], **data}
    node = add_evaluation(graph, name=name, **wired, **{**inputs, **sampling, **changes})
    return comfy.run(graph, timeout=300)["outputs"][node.id]


def test_a_trigger_phrase_stands_where_a_token_would(comfy, base):
    shown = evaluate(comfy, "any-trigger", include_floor=True)
    found = results(base, "any-trigger")
    assert set(found) == {"sks-cat-trigger", "floor-cat"} and "sks-cat-trigger: 8 images" in shown["text"][0]
    header, records = found["sks-cat-trigger"].header, found["sks-cat-trigger"].records
    assert header["trigger"] == "sks cat" and "trigger" not in found["floor-cat"].header
    assert (header["token"]["kind"], header["token"]["method"]) == ("trigger", "trigger")
    assert records[0]["prompt"] == "a photo of a sks cat on the beach, 1" and set(records[0]["scores"]) == SCORES
    assert [record["seed"] for record in records] == [record["seed"] for record in found["floor-cat"].records]


def test_a_small_sdxl_is_scored_end_to_end(comfy, base):
    shown = evaluate(comfy, "any-sdxl", loader="TestTinySDXL", include_floor=True, labels="SDXL LoRA")
    found = results(base, "any-sdxl")
    assert set(found) == {"SDXL LoRA", "floor-cat"} and found["SDXL LoRA"].header["token"]["method"] == "SDXL LoRA"
    assert all(len(entry.records) == 8 for entry in found.values()) and "clip_t" in shown["text"][0]
    assert found["SDXL LoRA"].records[0]["scores"] != found["floor-cat"].records[0]["scores"], "the phrase reaches the prompt"
