"""Photos of several shapes: a step is on one of them, and no photo is favoured for its shape."""

import math

import pytest
import torch
from toy_method import ToyText, ToyUNet

from attractor.trainer.build import build_trainer
from attractor.trainer.checkpoint import load_state, save_state
from attractor.trainer.dataset import Bucket, Photos, draw_batch, fixed_batch, step_generator
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.views import cache_photos

NUMBERS = ((0, 3, 4), (1,), (2, 5))
SIZES = ((4, 4), (3, 5), (6, 3))
DRAWS = 4000


@pytest.fixture
def photos():
    """Six photos in buckets of three, one and two; a latent's first number is its photo's."""
    buckets = []
    for numbers, size in zip(NUMBERS, SIZES, strict=True):
        generator = torch.Generator().manual_seed(len(numbers))
        latents = torch.randn(2, len(numbers), 4, *size, generator=generator)
        latents[:, :, 0, 0, 0] = torch.tensor(numbers).float()
        buckets.append(Bucket(numbers, latents, torch.rand(2, len(numbers), 1, *size, generator=generator)))
    return Photos(tuple(buckets))


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_photo_is_as_likely_as_any_other_whatever_its_shape(photos, batch_size):
    counts = torch.zeros(DRAWS, 6)
    for step in range(DRAWS):
        batch = draw_batch(photos, batch_size, step_generator(1, step))
        counts[step] = torch.bincount(torch.tensor(batch.photos), minlength=6)
    error = counts.std(0) / DRAWS**0.5
    assert ((counts.mean(0) - batch_size / 6).abs() < 4 * error).all(), counts.mean(0) * 6 / batch_size


def test_a_batch_is_of_one_shape_and_sees_each_of_its_photos_before_any_twice(photos):
    seen = set()
    for step in range(60):
        batch = draw_batch(photos, 5, step_generator(0, step))
        (bucket,) = [bucket for bucket in photos.buckets if set(batch.photos) <= set(bucket.numbers)]
        assert sorted(batch.photos[: len(bucket.numbers)]) == list(bucket.numbers)
        assert batch.latents.shape == batch.noise.shape == (5, 4, *bucket.size)
        assert batch.latents[:, 0, 0, 0].tolist() == batch.photos
        seen.add((bucket.numbers, tuple(batch.photos)))
    assert {numbers for numbers, _ in seen} == set(NUMBERS)
    assert len({order for numbers, order in seen if len(numbers) == 3}) > 4, "the order is drawn"


def test_with_one_shape_the_draws_are_those_of_before_there_were_buckets():
    photos = Photos.of(torch.randn(2, 3, 4, 4, 4), torch.rand(2, 3, 1, 4, 4))
    generator = step_generator(0, 0)
    order = torch.cat([torch.randperm(3, generator=generator) for _ in range(3)])[:7]
    views, timesteps = torch.randint(2, (7,), generator=generator), torch.randint(1000, (7,), generator=generator)
    noise = torch.randn(7, 4, 4, 4, generator=generator)
    batch = draw_batch(photos, 7, step_generator(0, 0))
    assert batch.photos == order.tolist() and torch.equal(batch.timesteps, timesteps) and torch.equal(batch.noise, noise)
    assert torch.equal(batch.latents, photos.buckets[0].latents[views, order])


def test_the_fixed_batch_takes_photos_in_turn_over_all_shapes(photos):
    batches = fixed_batch(photos, 8, seed=5)
    assert [batch.photos for batch in batches] == [[0, 3, 4, 0], [1, 1], [2, 5]]
    assert [batch.timesteps.tolist() for batch in batches] == [[62, 437, 562, 812], [187, 937], [312, 687]]
    assert [batch.photos for batch in fixed_batch(photos, 2, seed=5)] == [[0], [1]], "a shape without a photo in it"


def trainer_of(photos, **changes):
    settings = {"method": "neti+", "steps": 6, "batch_size": 3, "text_chunk": 100, "fixed_loss_every": 2, **changes}
    return build_trainer(TrainingSettings(**settings), photos, ToyText(), ToyUNet())


def test_the_fixed_loss_is_the_mean_over_all_its_photos(photos):
    trainer = trainer_of(photos)
    rows = torch.cat([trainer._fixed_losses(batch) for batch in trainer._fixed])
    assert len(rows) == 4 and trainer.fixed_loss() == pytest.approx(rows.mean().item())
    alone = [rows[0], rows[1], rows[2], rows[3]]
    assert len({round(value.item(), 6) for value in alone}) == 4, "the rows would be indistinguishable"


def test_a_run_on_several_shapes_resumes_bit_for_bit(photos, tmp_path):
    straight, killed = trainer_of(photos), trainer_of(photos)
    shapes = set()
    for _ in straight.run():
        shapes.add(draw_batch(photos, 3, step_generator(0, straight.step_count - 1)).latents.shape)
    assert len(shapes) > 1, "all steps were on one shape"
    for _ in range(3):
        killed.step()
    save_state(killed, tmp_path / "resume.state", {})
    resumed = trainer_of(photos)
    load_state(resumed, tmp_path / "resume.state", {})
    for _ in resumed.run():
        pass
    after, again = straight.concepts.state_dict(), resumed.concepts.state_dict()
    assert all(torch.equal(after[key], again[key]) for key in after)
    assert str(straight.curves) == str(resumed.curves)
    assert not all(math.isnan(value) for value in straight.curves["fixed"][3:])


def test_photos_of_one_shape_are_encoded_together_and_keep_their_masks():
    shapes = [(16, 24), (16, 16), (16, 24)]
    images, masks = [torch.rand(*shape, 3) for shape in shapes], [torch.rand(*shape) for shape in shapes]
    seen = []

    def encode(pixels):
        seen.append(tuple(pixels.shape[:3]))
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)[:, [0, 1, 2, 0]]

    photos = cache_photos(images, masks, encode, TrainingSettings(flip=False))
    assert seen == [(2, 16, 24), (1, 16, 16)] and photos.count == 3
    assert [bucket.numbers for bucket in photos.buckets] == [(0, 2), (1,)]
    for bucket in photos.buckets:
        for place, number in enumerate(bucket.numbers):
            torch.testing.assert_close(bucket.latents[0, place], encode(images[number][None])[0])
            torch.testing.assert_close(bucket.masks[0, place].mean(), masks[number].mean())
    assert photos.usual_size == photos.largest_size == (2, 3)


def test_memory_is_planned_for_the_largest_shape_and_samples_have_the_usual_one(photos):
    assert photos.largest_size == (6, 3) and photos.usual_size == (4, 4)
