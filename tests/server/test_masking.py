"""Subject Mask and Mask From Boxes through the server, on small models that go through the same code as big ones.

They have random weights: boxes and masks mean nothing, but they differ with the picture and the box, so that a mask in the
wrong place is seen. What is right is known all the same: a photo among others must get what it gets alone.
"""

import json
import re

import numpy as np
import pytest
from graphs import add_batch, add_tiny, add_training
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from comfy_client import ExecutionFailed, Graph, Interrupted
from comfy_server import link

DISCS = {"left": (24, 22, 16), "low": (48, 42, 20), "right": (72, 22, 14)}
TINT, STRENGTH = np.array([255, 40, 90]), 0.45
NOTHING = "nothing like 'the disc' was found"


def scene(name, size=(96, 64)):
    """A picture with a disc."""
    picture = Image.new("RGB", (96, 64), (60, 120, 70))
    x, y, radius = DISCS[name]
    ImageDraw.Draw(picture).ellipse([x - radius, y - radius, x + radius - 1, y + radius - 1], fill=(220, 40, 30))
    return picture if size == picture.size else picture.resize(size)


@pytest.fixture(scope="module", autouse=True)
def models(comfy_server, vision_models):
    """The small models, where the server looks for models."""
    for name in ("florence2/tiny", "florence2/tiny-blind", "sam2/tiny"):
        link(vision_models / name, comfy_server.base / "models" / name)


def load(graph, comfy, names):
    """The pictures as one IMAGE batch."""
    files = [comfy.upload_image(scene(name), f"scene-{name}.png") for name in names]
    return add_batch(graph, [graph.add("LoadImage", image=file)[0] for file in files])


def add_sam2(graph):
    return graph.add("AttractorLoadSAM2", model="sam2/tiny", download_if_missing=False)[0]


def add_subject_mask(graph, images, **inputs):
    model, dtype = inputs.pop("model", "florence2/tiny"), inputs.pop("dtype", "auto")
    florence2 = graph.add("AttractorLoadFlorence2", model=model, download_if_missing=False, dtype=dtype)
    settings = {"phrase": "the disc", "choose": "largest", "index": 0, "if_nothing_found": "error", **inputs}
    return graph.add("AttractorSubjectMask", images=images, florence2=florence2[0], sam2=add_sam2(graph), **settings)


def add_mask_from_boxes(graph, images, typed_boxes="", **inputs):
    settings = {"choose": "largest", "index": 0, "if_nothing_found": "error", **inputs}
    return graph.add("AttractorMaskFromBoxes", images=images, sam2=add_sam2(graph), typed_boxes=typed_boxes, **settings)


class Outputs:
    """What a masking node gave: masks, overlays and background masks as 8-bit arrays, and the text on the node."""

    def __init__(self, comfy, graph, node):
        shown = [graph.add("PreviewImage", images=graph.add("MaskToImage", mask=node[slot])[0]) for slot in (0, 3)]
        shown.insert(1, graph.add("PreviewImage", images=node[1]))
        entry = comfy.run(graph)
        self.masks, self.overlays, self.backgrounds = ([np.asarray(p) for p in comfy.images(entry, s)] for s in shown)
        self.masks, self.backgrounds = ([m[..., 0] for m in masks] for masks in (self.masks, self.backgrounds))
        (self.text,) = entry["outputs"][node.id]["text"]
        self.lines = self.text.splitlines()
        self.on_node = comfy.images(entry, node)

    def boxes(self):
        """For each image the boxes that its line of text names."""
        return [[tuple(map(int, box.split(", "))) for box in re.findall(r"\[([\d, ]+)\]", line)] for line in self.lines]


def from_boxes(comfy, names, typed_boxes="", **inputs):
    graph = Graph()
    return Outputs(comfy, graph, add_mask_from_boxes(graph, load(graph, comfy, names), typed_boxes, **inputs))


def from_phrase(comfy, names, **inputs):
    graph = Graph()
    return Outputs(comfy, graph, add_subject_mask(graph, load(graph, comfy, names), **inputs))


def typed(*boxes):
    return "\n".join(", ".join(map(str, box)) for box in boxes)


def same(masks, others):
    return len(masks) == len(others) and all(np.array_equal(a, b) for a, b in zip(masks, others, strict=True))


def tinted(name, mask):
    """What the overlay must be, boxes aside."""
    photo = np.asarray(scene(name)).astype(float)
    return np.where(mask[..., None] > 0, photo * (1 - STRENGTH) + TINT * STRENGTH, photo)


def wired(graph, boxes):
    """Boxes of another pack: for each photo a list of (left, top, right, bottom)."""
    return graph.add("TestOldBoxes", boxes=json.dumps(boxes))[0]


def test_a_phrase_finds_and_masks_something_in_each_photo_in_order(comfy):
    names = ["left", "low", "right"]
    found = from_phrase(comfy, names)
    boxes = [boxes[0] for boxes in found.boxes()]
    assert len(set(boxes)) > 1, "the small Florence-2 must tell pictures apart for this test to mean anything"
    # Each mask is that of its own photo and box, as if it were masked alone.
    alone = [from_boxes(comfy, [name], typed(box)) for name, box in zip(names, boxes, strict=True)]
    assert same(found.masks, [one.masks[0] for one in alone])
    assert [one.lines[0].split("score")[1] for one in alone] == [line.split("score")[1] for line in found.lines]
    for number, line in enumerate(found.lines, 1):
        assert re.fullmatch(rf"image {number}: box \d \[\d+, \d+, \d+, \d+\] \w+, score \d\.\d\d; mask \d+\.\d%", line)
    assert [picture.size for picture in found.on_node] == [(96, 64)] * 3, "the overlays are shown on the node"


def test_photos_of_differing_sizes_keep_their_sizes_and_names(comfy, comfy_server):
    folder = comfy_server.input / "differing scenes"
    folder.mkdir(exist_ok=True)
    sizes = {"a-1.png": (96, 64), "a-2.png": (192, 128), "a-10.png": (75, 50)}
    for file, size in sizes.items():
        scene("left", size).save(folder / file)
    graph = Graph()
    loaded = graph.add("AttractorLoadSubjectImages", folder=folder.name, alpha="ignored", unreadable_files="stop")
    found = Outputs(comfy, graph, add_subject_mask(graph, loaded[0], names=loaded[2]))
    for pictures in (found.masks, found.overlays, found.backgrounds):
        assert [picture.shape[1::-1] for picture in pictures] == list(sizes.values())
    for i, (file, size) in enumerate(sizes.items()):
        assert found.lines[i].startswith(f"image {i + 1} ({file}): box ")
        x, y, width, height = found.boxes()[i][0]
        assert 0 <= x < x + width <= size[0] and 0 <= y < y + height <= size[1]


def test_a_batch_uses_each_photos_own_box(comfy):
    """kijai-SAM2 overwrites the photo's box by the whole list: every photo gets the same boxes."""
    boxes = [(8, 6, 32, 32), (60, 20, 30, 40), (30, 10, 50, 20)]
    together = from_boxes(comfy, ["left"] * 3, typed(*boxes))
    alone = [from_boxes(comfy, ["left"], typed(box)).masks[0] for box in boxes]
    assert same(together.masks, alone)
    assert not np.array_equal(alone[0], alone[1]) and not np.array_equal(alone[1], alone[2])
    assert together.boxes() == [[box] for box in boxes]


def half_blind(comfy, names, boxes, **inputs):
    """A Florence-2 that finds nothing, and boxes for some of the photos."""
    graph = Graph()
    images = load(graph, comfy, names)
    found = add_subject_mask(graph, images, model="florence2/tiny-blind", boxes=wired(graph, boxes), **inputs)
    return Outputs(comfy, graph, found)


BOXES = {"left": (8, 6, 32, 32), "low": (28, 22, 40, 40), "right": (58, 8, 28, 28)}
CORNERS = {name: [x, y, x + width, y + height] for name, (x, y, width, height) in BOXES.items()}


@pytest.mark.parametrize("policy, fill", [("whole image", 255), ("empty", 0)])
def test_a_photo_without_the_subject_leaves_the_others_in_their_places(comfy, policy, fill):
    """neverbiasu stops at the first photo without a box, so that later masks move up by one; kijai-SAM2 returns a single
    output where two are declared."""
    found = half_blind(comfy, ["left", "low", "right"], [[CORNERS["left"]], [], [CORNERS["right"]]], if_nothing_found=policy)
    assert (found.masks[1] == fill).all() and (found.backgrounds[1] == 255 - fill).all()
    alone = [from_boxes(comfy, [name], typed(BOXES[name])).masks[0] for name in ("left", "right")]
    assert same([found.masks[0], found.masks[2]], alone)
    assert found.lines[1] == f"image 2: {NOTHING}; mask {fill / 255:.1%}" and found.boxes()[1] == []
    assert np.abs(found.overlays[1] - tinted("low", found.masks[1])).max() <= 1


def test_every_photo_that_failed_is_named_after_all_were_tried(comfy):
    names, boxes = ["left", "low", "right", "low", "left"], [[CORNERS["left"]], [], [CORNERS["right"]], [], [CORNERS["left"]]]
    with pytest.raises(ExecutionFailed) as failed:
        half_blind(comfy, names, boxes)
    message = failed.value.exception_message
    assert "2 of 5" in message and "if_nothing_found" in message
    for number in (2, 4):
        assert f"image {number}: {NOTHING}" in message
    for number in (1, 3, 5):
        assert f"image {number}: box 0" in message, "the others were tried"
    # With what the message advises, the rest is as it would have been.
    found = half_blind(comfy, names, boxes, if_nothing_found="empty")
    alone = [from_boxes(comfy, [name], typed(BOXES[name])).masks[0] for name in ("left", "right", "left")]
    assert same([found.masks[i] for i in (0, 2, 4)], alone)


def test_one_unfit_box_of_five_names_its_photo(comfy):
    boxes = [(8, 6, 32, 32)] * 3 + [(500, 500, 10, 10)] + [(8, 6, 32, 32)]
    with pytest.raises(ExecutionFailed) as failed:
        from_boxes(comfy, ["left"] * 5, typed(*boxes))
    assert "1 of 5" in failed.value.exception_message and "image 4: it has no box" in failed.value.exception_message


def test_the_choice_between_two_boxes(comfy):
    small, large = (10, 10, 20, 16), (40, 8, 40, 50)
    of_each = [from_boxes(comfy, ["low"], typed(box)) for box in (small, large)]

    def chosen(**inputs):
        return from_boxes(comfy, ["low"], f"{typed(small)}; {typed(large)}", **inputs)

    assert same(chosen(choose="largest").masks, of_each[1].masks)
    assert same(chosen(choose="index", index=0).masks, of_each[0].masks)
    assert same(chosen(choose="index", index=-1).masks, of_each[1].masks)
    assert same(chosen(choose="all").masks, [np.maximum(of_each[0].masks[0], of_each[1].masks[0])])
    best = chosen(choose="highest score")
    assert any(same(best.masks, one.masks) and best.boxes() == one.boxes() for one in of_each)
    with pytest.raises(ExecutionFailed, match="image 1: there are 2 boxes and index is 2"):
        chosen(choose="index", index=2)


def test_the_same_photo_gives_the_same_box_from_a_model_loaded_anew(comfy):
    """kijai-Florence2 samples by default: another box at each run."""
    runs = [from_phrase(comfy, ["left", "low"], choose="all", dtype=dtype) for dtype in ("auto", "float32")]
    assert runs[0].text == runs[1].text and same(runs[0].masks, runs[1].masks)


def test_boxes_out_are_boxes_in(comfy):
    for choose in ("largest", "all"):
        graph = Graph()
        images = load(graph, comfy, ["left", "low", "right"])
        found = add_subject_mask(graph, images, choose=choose)
        again = add_mask_from_boxes(graph, images, boxes=found[2], choose=choose)
        first = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=found[0])[0])
        outputs = Outputs(comfy, graph, again)
        entry = comfy.run(graph)
        assert same(outputs.masks, [np.asarray(p)[..., 0] for p in comfy.images(entry, first)])
        assert all(len(boxes) == 1 if choose == "largest" else len(boxes) > 1 for boxes in outputs.boxes())


def test_boxes_of_the_host_of_older_packs_and_typed_ones_are_the_same(comfy):
    box = (8, 6, 32, 30)
    typed_ones = from_boxes(comfy, ["left", "low"], typed(box))
    for name, inputs in (
        ("PrimitiveBoundingBox", dict(zip(("x", "y", "width", "height"), box, strict=True))),
        ("TestOldBoxes", {"boxes": json.dumps([8, 6, 40, 36])}),
        ("TestOldBoxes", {"boxes": json.dumps([[[8, 6, 40, 36]], [[8, 6, 40, 36]]])}),
    ):
        graph = Graph()
        images = load(graph, comfy, ["left", "low"])
        found = Outputs(comfy, graph, add_mask_from_boxes(graph, images, boxes=graph.add(name, **inputs)[0]))
        assert same(found.masks, typed_ones.masks), name


def test_the_hosts_own_node_draws_our_boxes(comfy):
    if "DrawBBoxes" not in comfy.object_info():
        pytest.skip("this host has no Draw BBoxes")
    graph = Graph()
    images = load(graph, comfy, ["left", "right"])
    found = add_subject_mask(graph, images)
    shown = graph.add("PreviewImage", images=graph.add("DrawBBoxes", image=found[1], bboxes=found[2])[0])
    assert len(comfy.images(comfy.run(graph), shown)) == 2


def test_a_wired_box_takes_the_place_of_the_phrase(comfy):
    graph = Graph()
    images = load(graph, comfy, ["left", "low"])
    found = Outputs(comfy, graph, add_subject_mask(graph, images, boxes=wired(graph, [[], [CORNERS["low"]]])))
    searched = from_phrase(comfy, ["left", "low"])
    assert found.boxes() == [searched.boxes()[0], [BOXES["low"]]] != searched.boxes()


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([[[1, 2, 3, 4]]] * 3, "boxes: there are 2 images and boxes for 3"),
        ({"left": 1}, "boxes: .* is not a box"),
        (None, "boxes: none are wired"),
    ],
)
def test_unfit_boxes_are_said(comfy, boxes, message):
    graph = Graph()
    images = load(graph, comfy, ["left", "right"])
    given = {} if boxes is None else {"boxes": wired(graph, boxes)}
    with pytest.raises(ExecutionFailed, match=message):
        Outputs(comfy, graph, add_mask_from_boxes(graph, images, **given))


def test_mistyped_boxes_and_an_empty_phrase_are_said(comfy):
    with pytest.raises(ExecutionFailed, match="typed_boxes: line 2, '1, 2', is not x, y, width, height"):
        from_boxes(comfy, ["left", "right"], "1, 2, 3, 4\n1, 2")
    with pytest.raises(ExecutionFailed, match="phrase is empty"):
        from_phrase(comfy, ["left"], phrase=" ")


def test_cleaning_and_inverting_reach_the_mask(comfy):
    box = typed((8, 6, 32, 32))
    plain = from_boxes(comfy, ["left"], box)
    mask = plain.masks[0] > 127
    assert mask.any() and not mask.all()
    assert same(from_boxes(comfy, ["left"], box, invert=True).masks, plain.backgrounds)
    assert (from_boxes(comfy, ["left"], box, grow=2).masks[0] > 127)[mask].all()
    more, less = (from_boxes(comfy, ["left"], box, threshold=t).masks[0] for t in (-2e-5, 2e-5))
    assert (less <= plain.masks[0]).all() and (plain.masks[0] <= more).all() and less.sum() < more.sum()
    soft = from_boxes(comfy, ["left"], box, feather=8).masks[0]
    assert ((soft > 0) & (soft < 255)).any()
    with pytest.raises(ExecutionFailed, match="image 1: its mask is empty"):
        from_boxes(comfy, ["left"], box, threshold=20.0)


def test_overlay_and_background_mask_agree_with_the_mask_to_the_pixel(comfy):
    found = from_boxes(comfy, ["left", "low"], typed((80, 54, 14, 8)))
    for i, name in enumerate(("left", "low")):
        mask = found.masks[i]
        assert set(np.unique(mask)) == {0, 255} and (found.backgrounds[i] == 255 - mask).all()
        difference = np.abs(found.overlays[i] - tinted(name, mask)).max(-1)
        difference[52:, 78:] = 0  # the box and its number
        assert difference.max() <= 1


def test_masks_go_straight_into_training(comfy, comfy_server):
    for i, many in enumerate((True, False)):
        graph = Graph()
        if many:  # a list of differing sizes
            folder = comfy_server.input / "training scenes"
            folder.mkdir(exist_ok=True)
            for file, size in (("1.png", (96, 64)), ("2.png", (192, 128))):
                scene("left", size).save(folder / file)
            images = graph.add("AttractorLoadSubjectImages", folder=folder.name, alpha="ignored", unreadable_files="stop")[0]
        else:
            images = load(graph, comfy, ["left", "low"])
        found = add_subject_mask(graph, images)
        name = f"masked-{i}"
        add_training(graph, add_tiny(graph), images, found[0], name=name, method="textual_inversion+", steps=1)
        comfy.run(graph)
        tensors = load_file(comfy_server.output / "neti" / name / f"{name}.safetensors")
        assert len(tensors) == 3, "a subject and one attractor for each photo"


def test_cancel_between_photos(comfy):
    graph = Graph()
    image = graph.add("LoadImage", image=comfy.upload_image(scene("left"), "scene-left.png"))
    images = graph.add("RepeatImageBatch", image=image[0], amount=200)
    node = add_mask_from_boxes(graph, images[0], typed(*((i % 50, i // 50, 30, 30) for i in range(200))))
    graph.add("PreviewImage", images=node[1])
    with comfy.listen() as listener:
        prompt_id = comfy.queue(graph)
        listener.wait_for("progress", lambda event: event["max"] == 200 and event["value"] >= 2)
        comfy.interrupt(prompt_id)
        with pytest.raises(Interrupted):
            comfy.wait(prompt_id)
        assert max(event["value"] for event in listener.of_type("progress") if event["max"] == 200) < 200
    assert len(from_boxes(comfy, ["left"], "8, 6, 32, 32").masks) == 1


def test_a_large_photo(comfy):
    graph = Graph()
    image = graph.add("EmptyImage", width=6000, height=4000, batch_size=1, color=0x3C7846)
    node = add_mask_from_boxes(graph, image[0], "500, 375, 2000, 2000")
    cut = graph.add("AttractorCropToSubject", images=image[0], masks=node[0], where="centre", margin=0.0, resolution=64)
    shown = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=cut[1])[0])
    entry = comfy.run(graph)
    (mask,) = comfy.images(entry, shown)  # Crop To Subject refuses masks of another size than the image's
    assert np.ptp(np.asarray(mask)) > 0
    assert max(comfy.images(entry, node)[0].size) <= 640, "what is shown on the node is small"
