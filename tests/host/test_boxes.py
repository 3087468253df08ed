"""ComfyUI's boxes, older boxes, typed boxes, and choosing between several."""

import math

import numpy as np
import pytest

from attractor.nodes.masking.boxes import Box, Detection, choose, clip, parse_boxes, read_boxes, to_bounding_box

A, B, C = Box(1, 2, 30, 40), Box(5, 6, 7, 8), Box(0, 0, 50, 9)


def host(box):
    return dict(zip(("x", "y", "width", "height"), box, strict=True))


def legacy(box):
    return [box.x, box.y, box.x + box.width, box.y + box.height]


def boxes_of(groups):
    return [[detection.box for detection in group] for group in groups]


@pytest.mark.parametrize("kind", [host, legacy, lambda box: tuple(legacy(box)), lambda box: np.float32(legacy(box))])
def test_a_box_of_any_kind_is_the_same_box(kind):
    assert boxes_of(read_boxes([kind(A)], 1)) == [[A]]


@pytest.mark.parametrize("kind", [host, legacy])
@pytest.mark.parametrize(
    "values, images, expected",
    [
        (lambda a, b, c: [a], 3, [[A], [A], [A]]),  # one box counts for all, as in the host's SAM3 Detect
        (lambda a, b, c: [[a, b]], 2, [[A, B], [A, B]]),  # and so does a flat list
        (lambda a, b, c: [[a, b]], 1, [[A, B]]),
        (lambda a, b, c: [[[a], [b, c]]], 2, [[A], [B, C]]),  # a list for each image of a batch
        (lambda a, b, c: [[[a], []]], 2, [[A], []]),  # nothing in the second image
        (lambda a, b, c: [[a], [b, c]], 2, [[A], [B, C]]),  # the host's lists: one value for each image
        (lambda a, b, c: [a, b], 2, [[A], [B]]),
        (lambda a, b, c: [[[a]], [[b, c]]], 2, [[A], [B, C]]),  # a detector that ran once for each image
        (lambda a, b, c: [[], [b]], 2, [[], [B]]),
        (lambda a, b, c: [None, [b]], 2, [[], [B]]),
    ],
)
def test_every_image_gets_its_own_boxes(kind, values, images, expected):
    assert boxes_of(read_boxes(values(kind(A), kind(B), kind(C)), images)) == expected


def test_four_boxes_are_not_taken_for_one():
    assert boxes_of(read_boxes([[legacy(A), legacy(B), legacy(C), legacy(A)]], 1)) == [[A, B, C, A]]


@pytest.mark.parametrize(
    "value, message",
    [
        ("1, 2, 3, 4", "not a box"),
        ({"x": 1, "y": 2}, "not a box"),
        ([1, 2, 3], "not a box"),
        ([[1, 2, 3, 4], "dog"], "not a box"),
        ([math.nan, 0, 1, 1], "not a box"),
        ({"x": 0, "y": 0, "width": math.inf, "height": 1}, "not a box"),
        ({"x": "0", "y": 0, "width": 1, "height": 1}, "not a box"),
        ([[host(A)], [host(A)]], "3 images and boxes for 2"),
    ],
)
def test_what_is_not_a_box_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_boxes([value], 3)


def test_what_goes_out_comes_in_again():
    found = [Detection(Box(1.4, 2.6, 3.0, 4.0), "dog", 0.5), Detection(B, "cat")]
    out = [to_bounding_box(detection) for detection in found]
    assert out[0] == {"x": 1, "y": 3, "width": 3, "height": 4, "label": "dog", "score": 0.5}
    assert "score" not in out[1], "the host draws scores as numbers"
    (group,) = read_boxes([out], 1)
    assert [(d.box, d.label) for d in group] == [(Box(1, 3, 3, 4), "dog"), (B, "cat")]


@pytest.mark.parametrize(
    "box, expected",
    [
        (Box(-5, -6, 20, 20), Box(0, 0, 15, 14)),
        (Box(90, 40, 30, 30), Box(90, 40, 10, 10)),
        (Box(10, 10, 20, 20), Box(10, 10, 20, 20)),
        (Box(200, 10, 20, 20), Box(100, 10, 0, 20)),
        (Box(-50, 10, 20, 20), Box(0, 10, 0, 20)),
        (Box(50, 10, -20, 20), Box(50, 10, 0, 20)),
    ],
)
def test_boxes_are_cut_at_the_images_border(box, expected):
    assert clip(box, 100, 50) == expected


def test_typed_boxes():
    assert boxes_of(parse_boxes("1, 2, 30, 40", 2)) == [[A], [A]]
    assert boxes_of(parse_boxes("1 2 30 40;\n\n 5,6,7,8 ; 0,0, 50.0 ,9\n", 2)) == [[A], [B, C]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("1, 2, 30", "line 1, '1, 2, 30', is not x, y, width, height"),
        ("1,2,3,4\n\n1,2,3,4;1,2,three,4", "line 3, '1,2,three,4'"),
        ("1,2,0,4", "line 1"),
        ("nan,2,1,4", "line 1"),
        ("1,2,3,4\n5,6,7,8", "3 images and 2 lines"),
    ],
)
def test_mistyped_boxes_name_their_line(text, message):
    with pytest.raises(ValueError, match=message):
        parse_boxes(text, 3)


def test_the_choice_between_several():
    found = [Detection(B, score=0.2), Detection(A, score=0.1), Detection(C, score=0.9), Detection(C, score=0.9)]
    assert choose(found, "largest") == [1]
    assert choose(found, "highest score") == [2]
    assert choose(found, "all") == [0, 1, 2, 3]
    assert choose(found, "index", 0) == [0] and choose(found, "index", -1) == [3]
    for index in (4, -5):
        with pytest.raises(ValueError, match=f"4 boxes and index is {index} "):
            choose(found, "index", index)
