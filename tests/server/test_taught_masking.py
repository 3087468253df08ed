"""Mask From Boxes and Crop To Subject through the server, on rendered pictures whose subjects are known to the pixel.

ATTRACTOR_PICTURES=<folder> saves what the nodes gave, for a person to look at.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfy_client import Graph
from comfy_server import link
from rendered_scenes import render

SHORTER = 192  # side of the squares that are cut without scaling
SHAPES = {"1 wide.png": (192, 288, 1, 2), "2 tall.png": (340, 192, 2, 1), "3 wider.png": (192, 400, 1, 2)}
SUBJECT = {"1 wide.png": 0, "2 tall.png": 1, "3 wider.png": 1}  # which of its equals is meant
TINT, STRENGTH = np.array([255, 40, 90]), 0.45
FORMATS = ["taught.pt", "taught.safetensors", "taught"]


@pytest.fixture(scope="module", autouse=True)
def models(comfy_server, taught_models):
    """The taught models, where the server looks for models; taken away again, since other tests list that folder."""
    placed = [comfy_server.base / "models" / "sam2" / name for name in (*FORMATS, "taught.yaml")]
    for path in placed:
        link(taught_models / "sam2" / path.name, path)
    yield
    for path in placed:
        path.unlink()


@pytest.fixture(scope="module")
def scenes(comfy_server):
    """By file name, in the input folder `rendered`."""
    scenes = {name: render(height, width, 10**6 + 1, *grid) for name, (height, width, *grid) in SHAPES.items()}
    folder = comfy_server.input / "rendered"
    folder.mkdir(exist_ok=True)
    for name, scene in scenes.items():
        Image.fromarray(scene.pixels()).save(folder / name)
    return scenes


def truth(scenes, name):
    return scenes[name].masks[SUBJECT[name]].numpy()


def corners(scenes, name):
    return scenes[name].corners(SUBJECT[name])


def add_masking(graph, scenes, model):
    photos = graph.add("AttractorLoadSubjectImages", folder="rendered", alpha="ignored", unreadable_files="stop")
    sam2 = graph.add("AttractorLoadSAM2", model=f"sam2/{model}", download_if_missing=False, dtype="float32")
    boxes = [(left, top, right - left, bottom - top) for left, top, right, bottom in (corners(scenes, name) for name in scenes)]
    lines = "\n".join(", ".join(map(str, box)) for box in boxes)
    return photos, graph.add(
        "AttractorMaskFromBoxes",
        images=photos[0],
        sam2=sam2[0],
        names=photos[2],
        typed_boxes=lines,
        choose="largest",
        index=0,
        if_nothing_found="error",
    )


def preview(graph, link, is_mask=False):
    return graph.add("PreviewImage", images=graph.add("MaskToImage", mask=link)[0] if is_mask else link)


def arrays(comfy, entry, node, is_mask=False):
    """What a PreviewImage shows: (H, W, 3) in 8 bits, or (H, W) bool, which the masks must be in whole."""
    pixels = [np.asarray(picture.convert("RGB")) for picture in comfy.images(entry, node)]
    if not is_mask:
        return pixels
    assert all(set(np.unique(mask)) <= {0, 255} for mask in pixels)
    return [mask[..., 0] > 127 for mask in pixels]


def save(name, pixels):
    if os.environ.get("ATTRACTOR_PICTURES"):
        folder = Path(os.environ["ATTRACTOR_PICTURES"])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


@pytest.mark.parametrize("model", FORMATS)
def test_a_perfect_box_gives_the_subject_its_background_and_an_overlay_to_the_pixel(comfy, scenes, model):
    graph = Graph()
    _, node = add_masking(graph, scenes, model)
    shown = [preview(graph, node[0], True), preview(graph, node[1]), preview(graph, node[3], True)]
    entry = comfy.run(graph)
    masks, backgrounds = (arrays(comfy, entry, shown[i], True) for i in (0, 2))
    overlays = arrays(comfy, entry, shown[1])
    (text,) = entry["outputs"][node.id]["text"]
    for i, (name, scene) in enumerate(scenes.items()):
        save(f"server {model} {name}", overlays[i])
        subject, mask = truth(scenes, name), masks[i]
        assert mask.shape == subject.shape
        assert (mask & subject).sum() / (mask | subject).sum() > 0.93
        equals = scene.masks.any(0).numpy() & ~subject
        assert (mask & equals).sum() < 0.01 * equals.sum(), "an equal subject is in the mask"
        assert (backgrounds[i] == ~mask).all()
        assert f"({name})" in text.splitlines()[i] and f"mask {mask.mean():.1%}" in text.splitlines()[i]
        photo = scene.pixels().astype(float)
        expected = np.where(mask[..., None], photo * (1 - STRENGTH) + TINT * STRENGTH, photo)
        left, top, right, bottom = corners(scenes, name)
        drawn, line = np.zeros(mask.shape, bool), 2 * max(1, round(max(mask.shape) / 250))  # the box's line, and its number
        drawn[top:bottom, left:right] = True
        drawn[top + line : bottom - line, left + line : right - line] = False
        drawn[top : top + 24, left : left + 24] = True
        assert np.abs(overlays[i] - expected).max(-1)[~drawn].max() <= 1
        frame = np.concatenate(
            [
                overlays[i][[top, bottom - 1], left:right].reshape(-1, 3),
                overlays[i][top + 24 : bottom, [left, right - 1]].reshape(-1, 3),
            ]
        )
        assert (frame == TINT).all(-1).mean() > 0.8, "the box is not drawn where it is"


def span(mask):
    """Left, top, right and bottom of what is in a mask; right and bottom exclusive."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_crop_to_subject_is_right_to_the_pixel(comfy, scenes):
    """Where nothing has to be scaled, a square is a piece of its photo, the subject in its middle."""
    graph = Graph()
    photos, node = add_masking(graph, scenes, "taught")
    inputs = {"images": photos[0], "masks": node[0], "where": "around the subject"}
    largest = graph.add("AttractorCropToSubject", **inputs, margin=3.0, resolution=SHORTER)
    tight = graph.add("AttractorCropToSubject", **inputs, margin=0.0, resolution=128)
    shown = [
        preview(graph, node[0], True),
        preview(graph, largest[0]),
        preview(graph, largest[1], True),
        preview(graph, tight[0]),
        preview(graph, tight[1], True),
    ]
    entry = comfy.run(graph)
    masks, cut_masks = (arrays(comfy, entry, shown[i], True) for i in (0, 2))
    cuts, tight_cuts, tight_masks = (arrays(comfy, entry, shown[i]) for i in (1, 3, 4))
    for i, (name, scene) in enumerate(scenes.items()):
        save(f"cut {name}", np.concatenate([cuts[i], cut_masks[i][..., None] * cuts[i]], 1))
        save(f"tight {name}", np.concatenate([tight_cuts[i], tight_masks[i]], 1))
        origins = []
        for left, top, right, bottom in (span(masks[i]), corners(scenes, name)):
            centre = np.array([left + right, top + bottom]) / 2
            origins.append(np.clip(centre - SHORTER / 2, 0, np.array(masks[i].shape[::-1]) - SHORTER))
        assert np.abs(origins[0] - origins[1]).max() <= 4, "the mask's middle is not the subject's"
        left, top = origins[0].round().astype(int)
        piece = np.s_[top : top + SHORTER, left : left + SHORTER]
        assert (cuts[i] == scene.pixels()[piece]).all() and (cut_masks[i] == masks[i][piece]).all()
        left, top, right, bottom = span(tight_masks[i][..., 0] > 127)
        assert max(right - left, bottom - top) >= 127, "there is room beside the subject where none was asked for"
