"""Squares around a subject, to the pixel."""

import pytest
import torch

from attractor.nodes.masking.cropping import crop, square_around, subject_box
from attractor.nodes.pictures import natural_order


def filled(height, width, left, top, right, bottom):
    mask = torch.zeros(height, width)
    mask[top:bottom, left:right] = 1
    return mask


def test_the_subjects_box_is_exact():
    assert subject_box(filled(20, 30, 4, 5, 9, 17)) == (4, 5, 9, 17)
    assert subject_box(filled(20, 30, 29, 19, 30, 20)) == (29, 19, 30, 20)
    assert subject_box(torch.full((4, 4), 0.3)) is None


@pytest.mark.parametrize(
    "box, margin, expected",
    [
        ((40, 30, 60, 50), 0.0, (40, 30, 20)),  # just the subject
        ((40, 30, 60, 50), 0.5, (30, 20, 40)),  # half its side on each side
        ((40, 20, 50, 50), 0.0, (30, 20, 30)),  # a tall subject, in the middle
        ((0, 0, 20, 20), 0.5, (0, 0, 40)),  # moved into the picture
        ((180, 80, 200, 100), 0.5, (160, 60, 40)),
        ((10, 10, 190, 90), 0.25, (50, 0, 100)),  # wider than a square can be: the largest there is
        (None, 0.5, (50, 0, 100)),  # the centre
    ],
)
def test_squares_hold_the_subject_and_stay_inside(box, margin, expected):
    assert square_around(100, 200, box, margin) == expected


def test_a_cut_that_needs_no_scaling_is_exact():
    image = torch.rand(50, 80, 3)
    mask = filled(50, 80, 20, 10, 40, 30)
    square = square_around(50, 80, subject_box(mask), 0.3)
    cut, small = crop(image, mask, square, square[2])
    left, top, side = square
    assert torch.equal(cut, image[top : top + side, left : left + side])
    assert torch.equal(small, mask[top : top + side, left : left + side])


def test_photos_are_counted_as_people_do():
    names = ["photo-10.png", "Photo-2.png", "photo-1.png", "a.png"]
    assert sorted(names, key=natural_order) == ["a.png", "photo-1.png", "Photo-2.png", "photo-10.png"]
