"""Every setting of a training is a widget that does something, and widgets keep their places."""

import json

import pytest
from graphs import add_photos, add_tiny, add_training
from safetensors import safe_open

from attractor.trainer.settings import ROWS, TrainingSettings
from comfy_client import Graph

pytestmark = pytest.mark.one_host
# Workflows save widget values by position: add new names at the end, and never move or remove one.
WIDGETS = {
    "AttractorTrain": (
        "name resume super_category placeholder method steps batch_size learning_rate_preset seed sample_prompt sample_every "
        "quality"
    ),
    "AttractorTrainingOptions": (
        "learning_rate resolution subject_weight background_weight joint_weight contrast_weight contrast_schedule "
        "tau normalize_contrast prompts_per_step loss_mean mask_resize mask_dilation flip prior_weight "
        "weight_decay attractor_kind subject_init attractor_init attractor_noise nested_dropout micro_batch "
        "gradient_checkpointing text_chunk score_every score_images checkpoint_every fixed_loss_every sample_steps "
        "sample_cfg aspect rare_token prior class_weight class_images class_prompt rank optimizer vectors templates captions "
        "more_sample_prompts compile patience"
    ),
}
LINKS = {
    *("MODEL", "CLIP", "VAE", "IMAGE", "MASK", "PDST_DATASET", "EVALUATION_ENCODERS", "ATTRACTOR_TRAINING_OPTIONS"),
    "PERSONALIZED_TOKEN",
}
# Where the next valid value would be slow or would need other inputs.
OTHER = {
    "super_category": "cat",
    "placeholder": "<other>",
    "method": "textual_inversion+",
    "steps": 2,
    "batch_size": 3,
    "learning_rate_preset": "custom",
    "learning_rate": 0.25,
    "resolution": 128,
    "sample_prompt": "a drawing of a {}",
    "subject_init": "dog",
    "attractor_init": "beach",
    "rare_token": "zwx",
    "class_prompt": "a drawing of a {}",
    "sample_steps": 1,
    "sample_every": 1,
    "checkpoint_every": 1,
    "templates": "an image of a {}",
    "captions": "a {} here\na {} there\n",
    "more_sample_prompts": "a {} in the snow",
}


def widgets(comfy, node):
    info = comfy.object_info()[node]
    inputs = [name for kind in ("required", "optional") for name in info["input_order"].get(kind, [])]
    kinds = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return [name for name in inputs if kinds[name][0] not in LINKS]


@pytest.mark.parametrize("node", WIDGETS)
def test_widgets_keep_their_places(comfy, node):
    known = WIDGETS[node].split()
    assert widgets(comfy, node)[: len(known)] == known


def test_every_setting_is_a_widget_of_one_node(comfy):
    found = [name for node in WIDGETS for name in widgets(comfy, node)]
    assert sorted(found) == sorted([*ROWS, "name", "resume"])


def another(name):
    """A valid value that is not the default."""
    default, row = getattr(TrainingSettings(), name), ROWS[name]
    if name in OTHER:
        return OTHER[name]
    if row.choices:
        return row.choices[-1] if row.choices[-1] != default else row.choices[0]
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int) else default / 2 + 0.125


def recorded(comfy_server, name):
    with safe_open(comfy_server.output / "neti" / name / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["attractor"])["record"]["settings"]


def test_every_setting_reaches_the_run(comfy, comfy_server):
    """All set through the nodes to something else than their defaults; the token's record has them."""
    wanted = {name: another(name) for name in ROWS}
    assert not [name for name, value in wanted.items() if value == getattr(TrainingSettings(), name)]
    graph = Graph()
    images, masks = add_photos(graph, comfy, count=2)
    add_training(graph, add_tiny(graph), images, masks, name="every-setting", **wanted)
    comfy.run(graph, timeout=300)
    assert recorded(comfy_server, "every-setting") == wanted


def test_quality_decides_what_was_left_alone_and_says_so(comfy, comfy_server):
    """Of quick's settings one was changed by hand, and counts."""
    graph, default = Graph(), TrainingSettings()
    loader, (images, _) = add_tiny(graph), add_photos(graph, comfy, count=1)
    inputs = {name: getattr(default, name) for name, row in ROWS.items() if row.group == "main"}
    inputs |= {"quality": "quick", "method": "textual_inversion", "steps": 1, "sample_every": 0, "super_category": "cat"}
    options = graph.add("AttractorTrainingOptions", resolution=128)[0]
    wired = {"model": loader[0], "clip": loader[1], "vae": loader[2], "images": images, "options": options}
    graph.add("AttractorTrain", name="quick", resume=False, **wired, **inputs)
    comfy.run(graph)
    settings = recorded(comfy_server, "quick")
    assert (settings["steps"], settings["batch_size"]) == (1, 4)
    notes = json.loads((comfy_server.output / "neti" / "quick" / "run.json").read_text())["notes"]
    assert "quality quick: batch_size 4" in notes


def test_options_left_out_are_the_defaults(comfy, comfy_server):
    graph, default = Graph(), TrainingSettings()
    loader, (images, _) = add_tiny(graph), add_photos(graph, comfy, count=1)
    inputs = {name: getattr(default, name) for name, row in ROWS.items() if row.group == "main"}
    inputs |= {"method": "textual_inversion", "steps": 1, "sample_every": 0, "batch_size": 1}
    wired = {"model": loader[0], "clip": loader[1], "vae": loader[2], "images": images}
    graph.add("AttractorTrain", name="no-options", resume=False, **wired, **inputs)
    comfy.run(graph)
    assert recorded(comfy_server, "no-options") == {**default.to_dict(), **inputs, "learning_rate": 5e-4}
