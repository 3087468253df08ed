"""The method's formulas: losses, schedules, templates, and the draws of a step."""

import math

import pytest
import torch

from attractor.trainer.dataset import (
    Photos,
    draw_batch,
    fixed_batch,
    latent_masks,
    mask_problems,
    step_generator,
)
from attractor.trainer.losses import info_nce, masked_loss
from attractor.trainer.pools import ONE_SLOT, TWO_SLOTS
from attractor.trainer.schedules import SCHEDULES, contrast_weight
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.views import cache_photos


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- losses -----------------------------------------------------------------------------------------


def test_masked_loss_is_eq_4():
    prediction, target, mask = randn(3, 4, 5, 6), randn(3, 4, 5, 6, seed=1), torch.rand(3, 1, 5, 6)
    squares = [
        sum(
            (mask[n, 0, y, x] * (target[n, c, y, x] - prediction[n, c, y, x])) ** 2
            for c in range(4)
            for y in range(5)
            for x in range(6)
        )
        for n in range(3)
    ]
    to_the_letter = torch.stack([s / (4 * 5 * 6) for s in squares])
    torch.testing.assert_close(masked_loss(prediction, target, mask, "all"), to_the_letter)
    by_mask = torch.stack([s / (4 * mask[n].square().sum()) for n, s in enumerate(squares)])
    torch.testing.assert_close(masked_loss(prediction, target, mask, "mask"), by_mask)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_subjects_size_does_not_matter_to_the_mean_over_the_mask(share):
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., : int(10 * share)] = 1
    error = torch.full((1, 4, 10, 10), 0.5)
    assert masked_loss(error, torch.zeros_like(error), mask).item() == pytest.approx(0.25)


def test_what_is_masked_out_has_no_gradient():
    prediction = randn(1, 4, 4, 4).requires_grad_()
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    masked_loss(prediction, randn(1, 4, 4, 4, seed=1), mask).sum().backward()
    assert prediction.grad[..., :2].abs().max() == 0
    assert prediction.grad[..., 2:].abs().min() > 0


def test_an_empty_mask_is_no_nan():
    assert masked_loss(randn(1, 4, 4, 4), randn(1, 4, 4, 4, seed=1), torch.zeros(1, 1, 4, 4)).item() == 0


@pytest.mark.parametrize("normalize", [True, False])
def test_info_nce_is_eq_5(normalize):
    """Pair by pair: positives are the subject in two samples, negatives the subject and any sample's attractor."""
    subject, attractor, tau = randn(2, 3, 5), randn(2, 3, 5, seed=1), 0.7
    total = 0.0
    for v, a in zip(subject, attractor, strict=True):
        if normalize:
            v, a = v / v.norm(dim=1, keepdim=True), a / a.norm(dim=1, keepdim=True)
        positive = sum(math.exp(v[i] @ v[j] / tau) for i in range(3) for j in range(3) if i != j)
        negative = sum(math.exp(v[i] @ a[k] / tau) for i in range(3) for k in range(3))
        total -= math.log(positive / (positive + negative)) / 2
    assert info_nce(subject, attractor, tau, normalize).item() == pytest.approx(total, rel=1e-5)


def test_info_nce_pulls_subjects_together_and_pushes_attractors_away():
    same, other = randn(1, 1, 8).expand(1, 4, 8), randn(1, 4, 8, seed=2)
    assert info_nce(same, -same, 0.07) < 1e-6
    assert info_nce(same, same, 0.07).item() == pytest.approx(math.log((12 + 16) / 12), rel=1e-5)
    assert info_nce(same, other, 0.07) < info_nce(other, same, 0.07)


def test_info_nce_survives_a_small_temperature_in_half_precision():
    subject, attractor = randn(16, 4, 768).half() * 30, randn(16, 4, 768, seed=1).half() * 30
    assert torch.isfinite(info_nce(subject, attractor, 0.001))


def test_info_nce_needs_two_samples():
    with pytest.raises(ValueError, match="batch_size must be 2"):
        info_nce(randn(1, 1, 8), randn(1, 1, 8), 0.07)


# --- schedules --------------------------------------------------------------------------------------

RISING = ("cosine", "sigmoid", "linear", "exponential", "exponential_late")


@pytest.mark.parametrize("name", RISING)
def test_schedules_rise_from_zero_to_one(name):
    values = [contrast_weight(name, step, 101) for step in range(101)]
    assert values[0] == pytest.approx(0, abs=1e-12) and values[-1] == pytest.approx(1)
    assert all(later > earlier for earlier, later in zip(values, values[1:], strict=False))


def test_schedules_have_the_papers_shapes():
    def at(name, percent):
        return contrast_weight(name, percent, 101)

    assert at("linear", 30) == pytest.approx(0.3)
    for name in ("cosine", "sigmoid"):
        assert at(name, 50) == pytest.approx(0.5)
        assert at(name, 20) < at("linear", 20) and at(name, 80) > at("linear", 80), "late start, early finish"
        assert at(name, 20) == pytest.approx(1 - at(name, 80))
    assert at("cosine", 25) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert at("exponential", 20) > 0.6, "heavy too early, as the paper explains its failure"
    assert at("exponential_late", 80) < 0.4
    assert {at("zero", p) for p in range(101)} == {0.0} and {at("one", p) for p in range(101)} == {1.0}
    assert set(SCHEDULES) == {*RISING, "zero", "one"}


def test_a_run_of_one_step_has_a_weight():
    assert contrast_weight("cosine", 0, 1) == 0.0
    with pytest.raises(ValueError, match="contrast_schedule is 'cubic'"):
        contrast_weight("cubic", 0, 10)


# --- prompts ----------------------------------------------------------------------------------------


def test_there_are_the_papers_30_templates():
    assert len(set(ONE_SLOT)) == len(set(TWO_SLOTS)) == 15
    assert all(template.count("{}") == 1 for template in ONE_SLOT)
    assert all(template.count("{}") == 2 and template.endswith(" in the {}") for template in TWO_SLOTS)


# --- draws and masks --------------------------------------------------------------------------------


def test_a_steps_random_numbers_depend_on_seed_and_step_alone():
    def draw(seed, step):
        return torch.rand(4, generator=step_generator(seed, step))

    expected = draw(3, 7)
    torch.manual_seed(1), torch.rand(9)
    assert torch.equal(draw(3, 7), expected)
    assert not torch.equal(draw(3, 8), expected) and not torch.equal(draw(4, 7), expected)


@pytest.fixture
def photos():
    return Photos.of(randn(2, 3, 4, 8, 8), torch.rand(2, 3, 1, 8, 8))


def test_no_version_of_the_pack_draws_other_numbers():
    """Or a run would not go on as it began, and a seed would mean another token."""
    assert step_generator(7, 12).initial_seed() == 482196398016225468
    assert step_generator(7, "init -1").initial_seed() == 22339574907087170


def test_a_batch_sees_every_photo_before_any_twice(photos):
    batch = draw_batch(photos, 7, step_generator(0, 0))
    assert sorted(batch.photos[:3]) == sorted(batch.photos[3:6]) == [0, 1, 2]
    assert batch.timesteps.dtype == torch.int64
    assert batch.noise.shape == batch.latents.shape == (7, 4, 8, 8) and batch.masks.shape == (7, 1, 8, 8)


def test_timesteps_are_uniform_integers_over_all_thousand(photos):
    drawn = torch.cat([draw_batch(photos, 100, step_generator(0, step)).timesteps for step in range(300)])
    counts = torch.bincount(drawn, minlength=1000)
    assert len(counts) == 1000 and (counts > 0).all()
    assert abs(drawn.float().mean() - 499.5) < 5


def test_latents_and_masks_of_a_sample_are_of_the_same_photo_and_view(photos):
    batch = draw_batch(photos, 50, step_generator(0, 0))
    views, (bucket,) = set(), photos.buckets
    for n, photo in enumerate(batch.photos):
        (view,) = [v for v in range(2) if torch.equal(bucket.latents[v, photo], batch.latents[n])]
        assert torch.equal(bucket.masks[view, photo], batch.masks[n])
        views.add(view)
    assert views == {0, 1}


def test_the_fixed_batch_never_changes(photos):
    (one,), (two,) = fixed_batch(photos, 4, seed=5), fixed_batch(photos, 4, seed=5)
    assert torch.equal(one.noise, two.noise)
    assert one.photos == [0, 1, 2, 0] and one.timesteps.tolist() == [125, 375, 625, 875]


def test_latent_masks_average_or_pick_and_grow():
    mask = torch.zeros(1, 16, 16)
    mask[0, :, :4] = 1
    assert torch.equal(latent_masks(mask, (2, 2))[0, 0], torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
    for dilation in (0, 1, 2):
        assert latent_masks(mask, (2, 2), dilation=dilation)[0, 0, 0, 0] == pytest.approx((4 + dilation) / 8)
    middles = torch.zeros(1, 16, 16)
    middles[:, 4::8, 4::8] = 1
    assert latent_masks(middles, (2, 2), "nearest").min() == 1, "a corner's pixel would shift the subject by half a cell"
    assert latent_masks(1 - middles, (2, 2), "nearest").max() == 0


@pytest.mark.parametrize("flip", [True, False])
def test_photos_are_encoded_once_a_view_with_the_mask_that_belongs_to_it(flip):
    images, masks = torch.rand(3, 16, 24, 3), torch.rand(3, 16, 24)
    seen = []

    def encode(view):
        seen.append(view)
        return torch.nn.functional.interpolate(view.movedim(-1, 1)[:, [0, 1, 2, 0]], (2, 3), mode="area")

    settings = TrainingSettings(flip=flip)
    (bucket,) = cache_photos(images, masks, encode, settings).buckets
    assert len(seen) == 1 + flip and bucket.numbers == (0, 1, 2)
    assert bucket.latents.shape == (1 + flip, 3, 4, 2, 3) and bucket.masks.shape == (1 + flip, 3, 1, 2, 3)
    assert torch.equal(bucket.masks[0], latent_masks(masks, (2, 3)))
    if flip:
        torch.testing.assert_close(bucket.latents[1], bucket.latents[0].flip(-1))
        torch.testing.assert_close(bucket.masks[1], bucket.masks[0].flip(-1))
    assert cache_photos(images, None, encode, settings).buckets[0].masks.min() == 1


def test_mask_problems_name_the_image():
    good, empty, full = torch.full((4, 4), 0.5), torch.zeros(4, 4), torch.ones(6, 4)
    assert mask_problems([good]) == []
    first, second = mask_problems([good, empty, full])
    assert "image 2 is empty" in first and "image 3 covers" in second
