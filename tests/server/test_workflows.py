"""The example workflows: both formats are the same graph, and the graph runs."""

import json
from pathlib import Path

import pytest
from graphs import wire_options
from photographs import cat_photos
from PIL import Image, ImageOps

from pdst_set import write_subject

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# Widgets that the frontend adds behind a node's own, with no input in the API format.
_FRONTEND_ONLY = object()


def widget_names(info):
    """A node's widgets in the order in which the UI format lists their values."""
    names = []
    for inputs in (info["input"].get("required", {}), info["input"].get("optional", {})):
        for name, (kind, *options) in inputs.items():
            options = options[0] if options else {}
            is_widget = isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            if is_widget and not options.get("forceInput"):
                names.append(name)
                if options.get("control_after_generate") or options.get("image_upload"):
                    names.append(_FRONTEND_ONLY)
    return names


def api_of(workflow, object_info):
    """The API format of a workflow in UI format."""
    source = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        names, values = widget_names(object_info[node["type"]]), node.get("widgets_values", [])
        # A workflow that was saved before a setting was added at the end has fewer: the frontend takes its default.
        assert len(names) >= len(values), f"{node['type']}: {len(values)} values for {len(names)} widgets"
        inputs = {name: value for name, value in zip(names, values, strict=False) if name is not _FRONTEND_ONLY}
        inputs |= {slot["name"]: source[slot["link"]] for slot in node.get("inputs", []) if slot.get("link") is not None}
        prompt[str(node["id"])] = {"inputs": inputs, "class_type": node["type"]}
    return prompt


def read_api(name):
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())


def made_small(prompt):
    """The same graph on the test loader's model, with few steps and pixels."""
    small = {
        "steps": 2,
        "sample_every": 2,
        "batch_size": 2,
        "resolution": 128,
        "captions_per_photo": 2,
        "images_per_caption": 1,
        "clip": "evaluation/clip-tiny",
        "dino": "evaluation/dino-tiny",
    }
    sampling = {"steps": 2, "width": 128, "height": 128, "batch_size": 2}
    options = {"class_type": "AttractorPDSTEvaluateOptions", "inputs": sampling}
    for node in list(prompt.values()):
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="TestTinySD15", inputs={"seed": 0, "width": 64, "text_layers": 1})
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=128, height=128)
        if node["class_type"] == "AttractorPDSTEvaluate":
            prompt["options"] = options
            node["inputs"]["options"] = ["options", 0]
        if node["class_type"] != "EmptyLatentImage":  # whose batch_size is of images
            # what is wired stays wired: CLIP is an input's name too
            node["inputs"].update(
                {
                    key: value
                    for key, value in small.items()
                    if key in node["inputs"] and not isinstance(node["inputs"][key], list)
                }
            )
    wire_options(prompt, checkpoint_every=1, sample_steps=1)
    return prompt


def test_every_workflow_has_both_formats_and_a_thumbnail():
    assert NAMES
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_are_the_same_graph(comfy, name):
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    api = read_api(name)
    for node in workflow["nodes"]:
        title = api[str(node["id"])]["_meta"]["title"]
        assert node.get("title", title) == title, "a title was changed in one of the formats only"
    assert api_of(workflow, comfy.object_info()) == {
        node_id: {"inputs": node["inputs"], "class_type": node["class_type"]} for node_id, node in api.items()
    }


def test_the_host_lists_the_workflows_as_templates(comfy):
    assert sorted(comfy.get("/workflow_templates")["attractor"]) == NAMES


def test_the_workflows_run_one_after_another(comfy, comfy_server, server_encoders):
    """Train first: the others load what it saved."""
    write_subject(comfy_server.base / "models" / "pdst" / "my-pets", "my-dog", "dog")
    for i, (photo, mask) in enumerate(cat_photos(5)):
        painted = photo.convert("RGBA")
        painted.putalpha(ImageOps.invert(mask))  # as the mask editor leaves a painted subject
        comfy.upload_image(painted, f"photo-{i + 1}.png")
    with_small_models = set(NAMES) - {"mask_and_train", "train_on_pdst"}  # test_masking.py runs these
    for name in sorted(with_small_models, key=lambda name: name != "train_subject"):
        prompt = made_small(read_api(name))
        entry = comfy.run(prompt, timeout=600)
        savers = [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage"]
        for node_id in savers:
            (file,) = entry["outputs"][node_id]["images"]
            with Image.open(comfy_server.output / file["subfolder"] / file["filename"]) as picture:
                assert picture.size == (128, 128)
                assert picture.getextrema() != ((0, 0),) * 3
        reports = [node_id for node_id, node in prompt.items() if node["class_type"] == "AttractorPDSTReport"]
        for node_id in reports:
            assert len(entry["outputs"][node_id]["images"]) == 4
            assert (comfy_server.output / "pdst" / "my-evaluation" / "report" / "report.html").exists()
        assert savers or reports
