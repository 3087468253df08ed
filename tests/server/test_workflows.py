"""The example workflows: what is committed is what the script writes, every graph runs, and nothing overlaps."""

import json
from itertools import combinations

import pytest
from PIL import Image

from comfy_client import ExecutionFailed, GraphRejected
from comfy_server import link
from example_workflows import API, NAMES, ROOT, UI, on_toy_world
from toy_world import judges

SIZE = 64  # pixels, as small as a training goes
QUICK = {"steps": 2, "batch_size": 2, "sample_every": 0, "quality": "balanced"}
CHEAP = {"prompts_per_step": "one", "attractor_kind": "embedding", "score_every": 2, "score_images": 1, "fixed_loss_every": 2}
CHEAP |= {"class_images": 1}
ONE_IMAGE = {"images_per_caption": 1, "max_captions": 1, "max_photos": 1}


def read(name):
    return json.loads((UI / f"{name}.json").read_text(encoding="utf-8"))


def box(node):
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y if node["flags"].get("collapsed") else y + height


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_every_workflow_has_both_formats_and_a_thumbnail():
    assert [int(name.split("_")[0]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    assert {path.stem for path in API.glob("*.json")} == set(NAMES)
    assert {path.stem for path in UI.glob("*.jpg")} == set(NAMES)
    for path in UI.glob("*.jpg"):
        assert path.stat().st_size < 40_000
        with Image.open(path) as picture:
            assert 512 <= picture.width <= 768


@pytest.mark.one_host
def test_what_is_committed_is_what_the_script_writes(comfy):
    """So the format for the page and the one for the API are the same graph: both come from one description."""
    import write_workflows

    written = write_workflows.files(comfy.object_info())
    assert {path.stem for path in map(ROOT.joinpath, written) if path.parent == UI} == set(NAMES)
    stale = [name for name, text in written.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert not stale, "run scripts/write_workflows.py"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_a_note_says_what_to_do(name):
    nodes, groups = read(name)["nodes"], read(name)["groups"]
    assert not [(a["title"], b["title"]) for a, b in combinations(nodes, 2) if overlap(box(a), box(b))]
    boxes = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in groups)]
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    (note,) = [node for node in nodes if node["type"] == "MarkdownNote"]
    for node in nodes:
        around = [group for group in boxes if overlap(box(node), group)]
        assert len(around) == (0 if node is note else 1), node["title"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_offered(name):
    """The frontend offers a model whose address it finds, and the pack to whom a node is missing."""
    for node in read(name)["nodes"]:
        if node["type"] != "MarkdownNote":
            ours = node["type"].startswith("Attractor")
            assert node["properties"]["cnr_id"] == ("attractor" if ours else "comfy-core") and node["properties"]["ver"]
        if node["type"] in ("CheckpointLoaderSimple", "ControlNetLoader"):
            (model,) = node["properties"]["models"]
            assert model["name"] in node["widgets_values"] and model["url"].endswith(model["name"])
            assert model["url"].startswith("https://huggingface.co/") and model["directory"] in ("checkpoints", "controlnet")


def test_the_host_lists_workflows_as_templates_and_blueprints(comfy):
    assert set(comfy.get("/workflow_templates")["attractor"]) == set(NAMES)
    blueprints = comfy.get("/global_subgraphs").values()
    ours = {entry["name"] for entry in blueprints if entry["info"]["node_pack"] == "custom_nodes.attractor"}
    assert ours == {"Mask a subject", "Train a subject"}


@pytest.fixture(scope="module")
def models_at_hand(comfy_server, vision_models):
    """The toy world's encoders and the small models for masking, where the session's server looks for them."""
    models = comfy_server.base / "models"
    for name in ("florence2/tiny", "sam2/tiny"):
        link(vision_models / name, models / name)
    if not (models / "evaluation" / "toy-clip").exists():
        judges.write_encoders(models / "evaluation", comfy_server.host_root)


def test_the_workflows_run_one_after_another(comfy, comfy_server, models_at_hand):
    """In their order, so that later ones find what the first have trained."""
    for name in NAMES:
        options = {**CHEAP, "checkpoint_every": 1 if name == NAMES[0] else 0}
        prompt = on_toy_world(name, SIZE, sampling_steps=1, evaluate=ONE_IMAGE, options=options, **QUICK)
        entry = comfy.run(prompt, timeout=300)
        kinds = {node_id: node["class_type"] for node_id, node in prompt.items()}
        for node_id in (node_id for node_id, kind in kinds.items() if kind == "SaveImage"):
            (file,) = entry["outputs"][node_id]["images"]
            with Image.open(comfy_server.output / file["subfolder"] / file["filename"]) as picture:
                assert picture.size == (SIZE, SIZE) and picture.getextrema() != ((0, 0),) * 3
        for node_id in (node_id for node_id, kind in kinds.items() if kind == "AttractorPDSTReport"):
            assert len(entry["outputs"][node_id]["images"]) == 4
        for node_id in (node_id for node_id, kind in kinds.items() if kind == "AttractorSubjectMask"):
            lines = entry["outputs"][node_id]["text"][0].splitlines()
            assert [line.split(":")[0] for line in lines] == [f"image {i} ({i}.webp)" for i in range(1, 6)]
        assert {"SaveImage", "AttractorPDSTReport", "PreviewImage"} & set(kinds.values())
    scored = comfy_server.output / "neti" / "my-monster-scored"
    assert (scored / "my-monster-scored-best.safetensors").exists()


def test_the_packs_photos_are_for_reading_only(comfy):
    info = comfy.object_info("AttractorLoadSubjectImages")["input"]["required"]["folder"]
    choices = info[0] if isinstance(info[0], list) else info[1]["options"]
    assert info[1]["default"] == "attractor example" and "attractor example" in choices and "3d" not in choices
    graph = {
        "1": {
            "class_type": "AttractorMakePDSTCaptions",
            "inputs": {
                "folder": "attractor example",
                "subject": "my-monster",
                "subject_words": "monster",
                "captions_per_photo": 10,
                "replace_edited": True,
            },
        }
    }
    with pytest.raises((GraphRejected, ExecutionFailed), match="stays as it is"):
        comfy.run(graph)


@pytest.mark.parametrize(
    "kind, inputs, told",
    [
        (
            "AttractorLoadSubjectImages",
            {"folder": "absent", "alpha": "ignored", "unreadable_files": "stop"},
            "there is no folder 'absent' under ComfyUI's input folder",
        ),
        ("AttractorLoadNeTIMapper", {"file": "absent.safetensors"}, "'absent.safetensors' is not in models/neti"),
    ],
)
def test_a_missing_folder_or_token_is_said_in_a_sentence(comfy, kind, inputs, told):
    outputs = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    if kind == "AttractorLoadNeTIMapper":
        outputs = {"class_type": "AttractorSaveToken", "inputs": {"token": ["1", 0], "name": "x"}}
    with pytest.raises(GraphRejected) as refused:
        comfy.run({"1": {"class_type": kind, "inputs": inputs}, "2": outputs})
    assert any(told in message for message in refused.value.messages), refused.value.messages
