"""Views of photos: mirrored, plain, or scaled and placed as Custom Diffusion does it."""

from itertools import pairwise

import pytest
import torch

from attractor.trainer.settings import TrainingSettings
from attractor.trainer.views import PLACED_VIEWS, cache_photos, photo_views

SIDE = 96
RAMP = torch.linspace(0, 1, SIDE)
# Red rises to the right and green downwards, so that a view tells what part of the photo it shows, how large, and mirrored.
PHOTO = torch.stack([RAMP.expand(SIDE, SIDE), RAMP[:, None].expand(SIDE, SIDE), torch.zeros(SIDE, SIDE)], -1)[None]
FAR, CLOSE = {"a far away {}", "very small {}"}, {"zoomed in {}", "close up {}"}


def placed(seed):
    return list(photo_views(PHOTO, None, TrainingSettings(method="custom_diffusion", seed=seed)))[1:]


def counted(view):
    """Rows and columns of what counts."""
    return (torch.nonzero(view.masks[0].amax(side)).flatten() for side in (1, 0))


def scale_of(view):
    """Of the photo in a view, by how quickly red changes where it counts, and whether it is mirrored."""
    rows, columns = counted(view)
    red = view.images[0, rows[len(rows) // 2], columns[2:-2], 0]
    slope = (red[-1] - red[0]) / (len(red) - 1) * (SIDE - 1)
    return 1 / abs(slope).item(), slope.item() < 0


@pytest.mark.parametrize(
    "method, flip, count", [("neti", True, 2), ("neti", False, 1), ("dreambooth", True, 1), ("custom_diffusion", True, 20)]
)
def test_how_many_views_a_method_has_and_the_plain_one_first(method, flip, count):
    views = list(photo_views(PHOTO, None, TrainingSettings(method=method, flip=flip)))
    assert len(views) == count and torch.equal(views[0].images, PHOTO) and views[0].masks.min() == 1
    assert views[0].wording == "{}"
    if count == 2:
        assert torch.equal(views[1].images, PHOTO.flip(2))


def test_photo_and_mask_are_mirrored_together():
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :, :10] = 1
    _, mirrored = photo_views(PHOTO, mask, TrainingSettings(method="neti"))
    assert torch.equal(mirrored.masks, mask.flip(2)) and mirrored.masks[0, 0, -1] == 1


def test_placed_views_are_those_of_custom_diffusion():
    """Two of three at a third to the whole, one at 1.2 to 1.4; the prompt says what is far or close; half are mirrored."""
    views = [view for seed in range(20) for view in placed(seed)]
    assert len(views) == 20 * (PLACED_VIEWS - 1)
    small, large, mirrored, corners = [], [], [], set()
    for view in views:
        rows, columns = counted(view)
        scale, flipped = scale_of(view)
        mirrored.append(flipped)
        if len(rows) == SIDE:
            large.append(scale)
            assert 1.17 < scale < 1.43 and view.wording in CLOSE and view.masks.min() == 1
            continue
        small.append(scale)
        assert 0.31 < scale < 1.03
        # What counts is the photo without an edge of 8 pixels on each side, and the rest of the canvas is grey.
        assert abs(len(rows) - (scale * SIDE - 16)) < 3 and len(columns) == len(rows)
        assert view.masks.sum() == len(rows) * len(columns)
        assert view.wording in FAR if scale < 0.58 else view.wording == "{}" if scale > 0.62 else True
        outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
        outside[max(rows[0] - 8, 0) : rows[-1] + 9, max(columns[0] - 8, 0) : columns[-1] + 9] = False
        assert (view.images[0][outside] == 0.5).all()
        corners.add((rows[0].item(), columns[0].item()))
    assert 0.6 < len(small) / len(views) < 0.72 and 0.4 < sum(mirrored) / len(views) < 0.6
    assert min(small) < 0.37 and max(small) > 0.95 and min(large) < 1.22 and max(large) > 1.38
    assert {view.wording for view in views} == FAR | CLOSE | {"{}"} and len(corners) > 100


def test_large_views_are_cut_out_anywhere():
    starts = [view.images[0, 0, 0, :2].tolist() for seed in range(20) for view in placed(seed) if view.wording in CLOSE]
    red, green = zip(*starts, strict=True)
    for values in (green, [min(r, 1 - r) for r in red]):
        assert min(values) < 0.03 and max(values) > 0.12


def test_views_follow_the_seed():
    one, same, other = placed(3), placed(3), placed(4)
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(a.images, b.images) for a, b in pairwise(one))


def test_every_view_is_cached_with_its_mask_and_wording():
    settings = TrainingSettings(method="custom_diffusion", seed=3)

    def encode(pixels):
        return pixels.movedim(-1, 1)[:, [0, 1, 2, 2], ::8, ::8]

    photos = cache_photos([PHOTO[0], PHOTO[0]], None, encode, settings)
    (bucket,) = photos.buckets
    views = list(photo_views(PHOTO, None, settings))
    assert bucket.wordings == tuple(view.wording for view in views)
    assert bucket.latents.shape == (20, 2, 4, 12, 12) and bucket.masks.shape == (20, 2, 1, 12, 12)
    for number, view in enumerate(views):
        assert torch.equal(bucket.latents[number, :1], encode(view.images))
        assert bucket.masks[number, 0].mean() == pytest.approx(view.masks.mean().item(), abs=1e-5)
