"""Held-out scores while training, through the server: curve, best step, resume, and what may not be wired."""

import json

import numpy as np
import pytest
from graphs import add_encoders, add_photos, add_pictures, add_tiny, add_training
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from comfy_client import ComfyClient, ExecutionFailed, Graph
from pdst_set import write_subject

pytestmark = pytest.mark.one_host
SCORES = {"clip_t", "clip_i", "dino", "clip_i_train", "dino_train"}


@pytest.fixture(scope="module")
def base(comfy_server, server_encoders):
    """The server's folders with encoders, and data sets of one subject and of two."""
    root = comfy_server.base / "models" / "pdst"
    write_subject(root / "watched", "cat", seed=40)
    for i, name in enumerate(("cat", "dog")):
        write_subject(root / "two-watched", name, seed=50 + i)
    return comfy_server.base


def watched(comfy, name, folder="watched", encoders=True, dataset=True, images=None, **changes):
    """A graph that trains with held-out scores."""
    graph = Graph()
    photos, masks = add_photos(graph, comfy, count=2)
    inputs = {
        "steps": 4,
        "method": "textual_inversion+",
        "score_every": 2,
        "score_images": 2,
        "sample_steps": 1,
        "resume": True,
        **changes,
    }
    if dataset:
        inputs["dataset"] = graph.add("AttractorLoadPDST", folder=f"pdst/{folder}", subjects="all", captions_per_photo=2)[0]
    if encoders:
        inputs["encoders"] = add_encoders(graph)
    if images:
        photos = add_pictures(graph, comfy, images, "watched-test")
        masks, inputs["method"] = None, "textual_inversion"
    node = add_training(graph, add_tiny(graph), photos, masks, name=name, **inputs)
    return graph, node


def scores_of(base, name):
    return json.loads((base / "output" / "neti" / name / "scores.json").read_text())["scores"]


@pytest.fixture(scope="module")
def straight(comfy_server, base):
    """A run without a break; what the node and its outputs showed."""
    comfy = ComfyClient(comfy_server.url)
    graph, node = watched(comfy, "watched-straight")
    curve = graph.add("PreviewImage", images=node[5])
    graph.add("AttractorSaveToken", token=node[4], name="watched-best-output")
    entry = comfy.run(graph, timeout=300)
    return comfy.images(entry, node), comfy.images(entry, curve)


def test_steps_are_scored_and_the_best_is_kept(base, straight):
    scores = scores_of(base, "watched-straight")
    assert [entry["step"] for entry in scores] == [2, 4]
    assert all(set(entry) == SCORES | {"step"} for entry in scores)
    assert scores[0]["clip_t"] != scores[1]["clip_t"], "the token of step 2 was scored twice"

    def overall(entry):
        return np.prod([max(entry[name], 0) for name in ("clip_t", "clip_i", "dino")])

    best = max(scores, key=overall)
    with safe_open(base / "output" / "neti" / "watched-straight" / "watched-straight-best.safetensors", "pt") as file:
        record = json.loads(file.metadata()["attractor"])["record"]
    assert (record["step"], record["scores"]) == (best["step"], best)
    output = load_file(next((base / "output" / "neti").rglob("watched-best-output.safetensors")))
    kept = load_file(base / "output" / "neti" / "watched-straight" / "watched-straight-best.safetensors")
    assert all(output[key].equal(kept[key]) for key in kept), "best_token is another than the file"


def test_a_run_stops_when_its_scores_no_longer_rise(comfy, base):
    """At the first score that is no better than the best before it; queued again nothing is done, without patience the rest."""
    name, options = "watched-patient", {"steps": 12, "score_every": 1, "score_images": 1}
    graph, node = watched(comfy, name, patience=1, **options)
    (text,) = comfy.run(graph, timeout=300)["outputs"][node.id]["text"]
    values = [np.prod([max(entry[part], 0) for part in ("clip_t", "clip_i", "dino")]) for entry in scores_of(base, name)]
    assert len(values) < 12, "of twelve scores each was better than all before: take another seed"
    assert values[:-1] == sorted(set(values[:-1])) and values[-1] <= values[-2]
    assert f"Done: {len(values)} steps. It stopped early" in text and f"The best is step {len(values) - 1} " in text
    for patience, steps in ((1, len(values)), (0, 12)):
        comfy.run(watched(comfy, name, patience=patience, **options)[0], timeout=300)
        assert len(scores_of(base, name)) == steps


def test_the_node_shows_the_curve_beside_the_losses(straight):
    shown, curve = straight
    assert len(shown) == 2 and len(curve) == 1
    colours = {colour for _, colour in curve[0].getcolors(1 << 20)}
    assert len(colours) > 20, "the curve is empty"


def test_scores_do_not_change_what_is_learnt(comfy, base, straight):
    """Sampling in between leaves training as it was; the curve without a data set says what to wire."""
    graph, node = watched(comfy, "watched-not", dataset=False, encoders=False)
    curve = graph.add("PreviewImage", images=node[5])
    entry = comfy.run(graph, timeout=300)
    trained, alone = (
        load_file(base / "output" / "neti" / name / f"{name}.safetensors") for name in ("watched-straight", "watched-not")
    )
    assert all(trained[key].equal(alone[key]) for key in trained)
    assert comfy.images(entry, curve) and not (base / "output" / "neti" / "watched-not" / "scores.json").exists()
    fixed = [
        json.loads((base / "output" / "neti" / name / "curves.json").read_text())["fixed"][0]
        for name in ("watched-straight", "watched-not")
    ]
    assert fixed[0] != fixed[1], "the fixed batch is not of the held-out photos"


def test_a_finished_run_can_be_given_a_data_set_and_other_encoders(comfy, base):
    name = "watched-later"
    comfy.run(watched(comfy, name, dataset=False, encoders=False, checkpoint_every=2)[0], timeout=300)
    comfy.run(watched(comfy, name)[0], timeout=300)
    assert [entry["step"] for entry in scores_of(base, name)] == [4]
    with comfy.listen() as listener:
        comfy.run(watched(comfy, name, steps=6, score_images=1)[0], timeout=300)
    assert [entry["step"] for entry in scores_of(base, name)] == [4, 6], "of one image and of two, mixed"
    assert any("start again from nothing, as images changed" in message["text"] for message in listener.of_type("text"))


def test_starting_over_leaves_nothing_of_the_earlier_run(comfy, base):
    name = "watched-over"
    comfy.run(watched(comfy, name, checkpoint_every=2, sample_every=2)[0], timeout=300)
    folder = base / "output" / "neti" / name
    assert (folder / f"{name}-step-000004.safetensors").exists() and (folder / f"{name}-best.safetensors").exists()
    comfy.run(watched(comfy, name, steps=2, resume=False, dataset=False, encoders=False, checkpoint_every=2)[0], timeout=300)
    assert {path.name for path in folder.glob("*.safetensors")} == {f"{name}.safetensors", f"{name}-step-000002.safetensors"}
    assert not (folder / "scores.json").exists() and not list(folder.glob("samples/*"))


def refused(comfy, **changes):
    with pytest.raises(ExecutionFailed) as failed:
        comfy.run(watched(comfy, "watched-refused", **changes)[0], timeout=100)
    return failed.value.exception_message


def test_what_cannot_be_scored_is_refused_before_training(comfy, base):
    assert "dataset: it has 2 subjects" in refused(comfy, folder="two-watched")
    assert "Wire dataset as well" in refused(comfy, dataset=False)
    test_photo = Image.open(next((base / "models" / "pdst" / "watched" / "cat" / "test").glob("*.png")))
    message = refused(comfy, images=[test_photo, test_photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert f"the test photo {test_photo.filename.rsplit('/', 1)[-1]} is image 1 and 2" in message
    assert not (base / "output" / "neti" / "watched-refused").exists()
