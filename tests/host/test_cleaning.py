"""Masks cleaned, and drawn on their photos, to the pixel."""

import pytest
import torch

from attractor.nodes.masking.boxes import Box, Detection
from attractor.nodes.masking.cleaning import clean
from attractor.nodes.masking.overlay import STRENGTH, TINT, draw_overlay


def disc(radius, side=61, x=30, y=30):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).float()


def rectangle(left, top, right, bottom, height=40, width=60):
    mask = torch.zeros(height, width)
    mask[top:bottom, left:right] = 1
    return mask


def test_without_settings_a_mask_stays_as_it_is():
    mask = disc(11)
    assert torch.equal(clean(mask), mask) and clean(mask).dtype == torch.float32
    assert clean(mask > 0.5).dtype == torch.float32


def test_holes_are_filled_and_bays_are_not():
    ring = disc(20) - disc(8)
    assert torch.equal(clean(ring, fill_holes=True), disc(20))
    bay = rectangle(10, 10, 40, 30) - rectangle(20, 10, 25, 20)
    assert torch.equal(clean(bay, fill_holes=True), bay)
    at_border = rectangle(0, 0, 20, 20) - rectangle(0, 5, 10, 10)
    assert torch.equal(clean(at_border, fill_holes=True), at_border), "the image's border closes no hole"


def test_only_the_largest_piece_is_kept():
    large, small = rectangle(5, 5, 20, 20), rectangle(30, 5, 40, 15)
    assert torch.equal(clean(large + small, keep_largest=True), large)
    corner = rectangle(20, 20, 25, 25)  # touches the large one by a corner
    assert torch.equal(clean(large + small + corner, keep_largest=True), large + corner)
    assert not clean(torch.zeros(9, 9), keep_largest=True).any()


def test_a_hole_is_filled_before_the_largest_piece_is_chosen():
    ring = disc(20) - disc(17)
    blob = disc(6, x=55, y=55)
    assert torch.equal(clean(ring + blob, fill_holes=True, keep_largest=True), disc(20))


def test_growing_by_a_pixel_count_makes_a_disc_and_shrinking_undoes_it():
    point = torch.zeros(61, 61)
    point[30, 30] = 1
    assert torch.equal(clean(point, grow=7), disc(7))
    box = rectangle(20, 10, 40, 30)
    assert torch.equal(clean(box, grow=-3), rectangle(23, 13, 37, 27))
    assert torch.equal(clean(clean(disc(12), grow=5), grow=-5), disc(12))


def test_the_images_border_is_no_edge():
    left = rectangle(0, 0, 20, 40)
    assert torch.equal(clean(left, grow=-3), rectangle(0, 0, 17, 40))
    whole, none = torch.ones(10, 10), torch.zeros(10, 10)
    for settings in ({"grow": 4}, {"grow": -4}, {"feather": 6}):
        assert torch.equal(clean(whole, **settings), whole)
        assert torch.equal(clean(none, **settings), none)


@pytest.mark.parametrize("width", [2, 5, 8, 31])
def test_the_soft_edge_is_as_wide_as_asked(width):
    soft = clean(rectangle(40, 0, 80, 3, height=3, width=80), feather=width)[1]
    assert (soft.diff() >= 0).all()
    assert abs(((soft > 0) & (soft < 1)).sum().item() - width) <= 1
    assert soft[39] + soft[40] == 1, "0.5 is where the hard edge was"
    assert soft[40 - width // 2 - 1] == 0 and soft[40 + width // 2] == 1


def test_a_mask_is_inverted_last():
    box = rectangle(20, 10, 40, 30)
    assert torch.equal(clean(box, invert=True), 1 - box)
    assert torch.equal(clean(box, grow=-3, feather=4, invert=True), 1 - clean(box, grow=-3, feather=4))


def test_a_large_mask_is_cleaned_in_seconds():
    """A box blur of 200 pixels on a photo of 24 megapixels would take minutes."""
    import time

    mask = torch.zeros(2000, 3000)
    mask[500:1500, 1000:2000] = 1
    begin = time.perf_counter()
    clean(mask, fill_holes=True, keep_largest=True, grow=20, feather=200)
    assert time.perf_counter() - begin < 20


def test_the_overlay_tints_the_mask_and_nothing_else():
    image = torch.rand(40, 60, 3)
    mask = rectangle(20, 10, 40, 30)
    overlay = draw_overlay(image, mask, [], [])
    tinted = image * (1 - STRENGTH) + torch.tensor(TINT) / 255 * STRENGTH
    assert overlay.shape == image.shape
    assert torch.allclose(overlay, torch.where(mask[..., None] > 0, tinted, image), atol=0.5 / 255 + 1e-6)


def test_boxes_are_drawn_on_the_very_pixels_of_their_edge():
    image, box = torch.zeros(80, 120, 3), Box(30, 20, 50, 40)
    overlay = draw_overlay(image, torch.zeros(80, 120), [Detection(box)], [0])
    assert not overlay[:20].any() and not overlay[60:].any() and not overlay[:, :30].any() and not overlay[:, 80:].any()
    edge = torch.tensor(TINT) / 255
    for line in (overlay[20, 30:80], overlay[59, 30:80], overlay[20:60, 30], overlay[20:60, 79]):
        assert torch.allclose(line, edge.expand_as(line))
