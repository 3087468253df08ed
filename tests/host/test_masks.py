"""Masking many photos where some fail, on a small SAM2; and what is kept for the next run."""

import gc

import pytest
import torch

from attractor.nodes.errors import UserError
from attractor.nodes.host.progress import Interrupted
from attractor.nodes.masking.boxes import Box, Detection
from attractor.nodes.masking.masks import Choices, mask_images
from attractor.nodes.masking.recent import Packed, ask, digest
from attractor.nodes.masking.sam import load_sam2

CHOICES = Choices(choose="largest", index=0, if_nothing_found="empty")


@pytest.fixture(scope="module")
def sam2(vision_models):
    return load_sam2(vision_models / "sam2" / "tiny", torch.float32)


@pytest.fixture
def photos():
    return list(torch.rand(5, 40, 60, 3, generator=torch.Generator().manual_seed(0)))


def run(photos, sam2, find, reports=None, choices=CHOICES):
    report = (lambda *told: reports.append(told)) if reports is not None else lambda *told: None
    return mask_images(photos, [f"image {i + 1}" for i in range(len(photos))], find, sam2, choices, "nothing found", report)


def box(i):
    return [Detection(Box(5 + i, 6, 20, 25), "dog")]


def test_an_error_on_one_photo_of_five_names_it_after_all_were_tried(photos, sam2):
    def find(i):
        if i == 2:
            raise KeyError("bboxes")
        return box(i)

    reports = []
    with pytest.raises(UserError) as failed:
        run(photos, sam2, find, reports)
    assert "1 of 5 have no mask:\nimage 3: it could not be masked ('bboxes')\n" in str(failed.value)
    assert isinstance(failed.value.__cause__, KeyError)
    assert [done for done, _, _ in reports] == [1, 2, 3, 4, 5]
    for i in (1, 2, 4, 5):
        assert f"\nimage {i}: box 0 [" in str(failed.value)


def test_what_was_found_is_not_asked_again(photos, sam2, monkeypatch):
    asked, masks = [], sam2.masks
    monkeypatch.setattr(sam2, "masks", lambda image, *rest: asked.append(image) or masks(image, *rest))
    photos = [photo.flip(0) for photo in photos]  # not those of another test
    error = Choices(choose="largest", index=0, if_nothing_found="error")
    with pytest.raises(UserError):
        run(photos, sam2, lambda i: [] if i == 1 else box(i), choices=error)
    assert len(asked) == 4
    first = run(photos, sam2, box)[0]
    assert len(asked) == 5 and asked[-1].equal(photos[1])
    for choices in (CHOICES, Choices(choose="largest", index=0, if_nothing_found="empty", grow=3)):
        again = run(photos, sam2, box, choices=choices)[0]
    assert len(asked) == 5, "another cleaning is no reason to ask SAM2"
    assert all((a.mask >= b.mask).all() for a, b in zip(again, first, strict=True))
    run(photos, sam2, box, choices=Choices(choose="largest", index=0, if_nothing_found="empty", threshold=-0.01))
    assert len(asked) == 10, "another threshold is"


def test_running_out_of_memory_is_left_to_the_host(photos, sam2):
    def find(i):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run(photos, sam2, find)


def test_cancel_is_not_taken_for_a_photos_error(photos, sam2):
    def report(done, picture, text):
        if done == 2:
            raise Interrupted

    tried = []
    with pytest.raises(Interrupted):
        mask_images(photos, list("abcde"), lambda i: tried.append(i) or box(i), sam2, CHOICES, "", report)
    assert tried == [0, 1]


def test_boxes_are_cut_at_the_border_and_handed_out_as_they_were_used(photos, sam2):
    (result, *_), *_ = run(photos[:1], sam2, lambda i: [Detection(Box(-4.3, 10.6, 30.0, 100.0))])
    assert result.boxes() == [
        {"x": 0, "y": 11, "width": 26, "height": 29, "label": "", "score": pytest.approx(result.detections[0].score)}
    ]
    (again, *_), *_ = run(photos[:1], sam2, lambda i: [Detection(Box(0, 11, 26, 29))])
    assert torch.equal(result.mask, again.mask)


def test_answers_are_kept_for_the_model_that_gave_them():
    class Model:
        pass

    model, other, calls = Model(), Model(), []

    def answer():
        calls.append(1)
        return len(calls)

    assert [ask(model, "a", answer), ask(model, "a", answer), ask(model, "b", answer), ask(other, "a", answer)] == [1, 1, 2, 3]
    for i in range(200):
        ask(model, i, answer)
    calls.clear()
    ask(model, 199, answer)
    assert not calls, "the latest are kept"
    ask(model, "a", answer)
    assert calls, "the oldest are not"

    def failing():
        raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            ask(model, "c", failing)
    from attractor.nodes.masking.recent import _FOUND

    before = len(_FOUND)
    del model
    gc.collect()
    assert len(_FOUND) == before - 1, "they go with the model"


def test_packed_masks_come_back_as_they_were():
    masks = (torch.rand(3, 7, 11) > 0.5).float()
    assert torch.equal(Packed(masks).masks(), masks)


def test_images_are_told_apart():
    image = torch.rand(4, 6, 3)
    assert digest(image) == digest(image.clone())
    assert len({digest(image), digest(image.flip(0)), digest(image.flip(1)), digest(image.reshape(6, 4, 3))}) == 4
