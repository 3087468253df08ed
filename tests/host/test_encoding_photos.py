"""The training node's use of the VAE: memory that runs out, numbers that are not finite, what is cut off the photos."""

from dataclasses import replace

import comfy.model_management as mm
import pytest
import torch
from PIL import Image

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.pdst import read_dataset
from attractor.nodes.host.private_models import private_models
from attractor.nodes.host.sampling import Sampling, training_maker
from attractor.nodes.training.input_checks import Wired
from attractor.nodes.training.photos import cut_note, photo_sizes
from attractor.nodes.training.session import _encode_photos, _photos_identity
from attractor.trainer.build import build_trainer
from attractor.trainer.dataset import draw_batch, step_generator
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.storage import fingerprint
from pdst_set import write_subject
from test_nodes import tiny_sd15

SETTINGS = TrainingSettings(
    method="textual_inversion", super_category="cat", placeholder="<x>", steps=2, batch_size=1, resolution=128, flip=False
)


class RunsOutOnce:
    """Wraps a method: the first call finds no memory left."""

    def __init__(self, method):
        self._method, self.calls = method, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 1:
            raise mm.OOM_EXCEPTION("out of memory (test)")
        return self._method(*args, **kwargs)


@pytest.fixture
def vae():
    """Of one test, with inference tensors, as a loader node leaves it."""
    with torch.inference_mode():
        return tiny_sd15.tiny_vae()


def wired(tiny_model, tiny_clip, vae):
    images = [torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    return Wired(tiny_model, tiny_clip, vae, images, None, None, None)


def outside(function):
    """Run as the training node runs: outside inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        return function()


def test_photos_are_encoded_in_tiles_and_can_be_trained_on(tiny_model, tiny_clip, vae):
    plain, _ = outside(lambda: _encode_photos(wired(tiny_model, tiny_clip, vae), SETTINGS))
    vae.first_stage_model.encode = RunsOutOnce(vae.first_stage_model.encode)
    tiled, _ = outside(lambda: _encode_photos(wired(tiny_model, tiny_clip, vae), SETTINGS))
    assert vae.first_stage_model.encode.calls > 1, "the host did not fall back"
    tiled, plain = tiled.buckets[0].latents, plain.buckets[0].latents
    assert torch.allclose(tiled, plain, atol=0.1) and not tiled.is_inference()


def test_a_sample_is_decoded_in_tiles_and_training_goes_on(tiny_model, tiny_clip, vae):
    vae.first_stage_model.decode = RunsOutOnce(vae.first_stage_model.decode)

    def train():
        photos, _ = _encode_photos(wired(tiny_model, tiny_clip, vae), SETTINGS)
        with private_models(tiny_model, tiny_clip) as (unet, text):
            trainer = build_trainer(SETTINGS, photos, text, unet)
            sampling = Sampling(steps=1, width=128, height=128)
            image = training_maker(unet, text.patcher, tiny_clip, vae, trainer.token(), sampling)(["a <x>"], [1])
            generator = step_generator(0, 0)
            trainer.backward(draw_batch(photos, 1, generator), generator)
            return image, trainer.step().losses["subject"]

    image, loss = outside(train)
    assert vae.first_stage_model.decode.calls > 1, "the host did not fall back"
    assert image.shape == (1, 128, 128, 3) and torch.isfinite(image).all() and not image.is_inference()
    assert loss == loss


def test_a_photo_that_the_vae_cannot_encode_is_named(tiny_model, tiny_clip, vae):
    inputs = wired(tiny_model, tiny_clip, vae)
    inputs.images[1][0, 0] = float("nan")
    with pytest.raises(UserError, match="vae: it turns image 2 into numbers that are not finite"):
        outside(lambda: _encode_photos(inputs, SETTINGS))


def test_masks_are_judged_as_they_are_trained_on(tiny_model, tiny_clip, vae):
    """Three sideways photos and three upright ones, the subject at one end: the square that is trained on does not show it."""
    images = [torch.rand(90, 160, 3) for _ in range(3)] + [torch.rand(160, 90, 3) for _ in range(3)]
    masks = [torch.zeros(image.shape[:2]) for image in images]
    for mask in masks:
        mask[:20, :20] = 1
    inputs = Wired(tiny_model, tiny_clip, vae, images, masks, None, None)
    with pytest.raises(UserError, match=r"the mask of image 6 is empty.*As cut to 128 x 128"):
        outside(lambda: _encode_photos(inputs, replace(SETTINGS, method="textual_inversion+", aspect="crop")))


def test_photos_that_lose_much_are_named():
    images = [torch.rand(90, 160, 3), torch.rand(160, 90, 3), torch.rand(128, 128, 3)]
    note = cut_note(images, photo_sizes(images, 128, "crop"))
    assert "(image 1 loses 44% as 128 x 128, image 2 loses 44% as 128 x 128;" in note
    assert cut_note(images, photo_sizes(images, 512, "buckets")) == ""
    panorama = torch.rand(100, 400, 3)
    note = cut_note([*images, panorama], photo_sizes([*images, panorama], 512, "buckets"))
    assert "(image 4 loses 54% as 704 x 384;" in note


def test_what_was_trained_on_is_known_photo_by_photo_and_with_its_shapes(tiny_model, tiny_clip, vae):
    inputs = wired(tiny_model, tiny_clip, vae)
    one_shape = [_photos_identity(inputs, replace(SETTINGS, aspect=aspect)) for aspect in ("buckets", "crop")]
    assert one_shape[0] == one_shape[1]
    assert one_shape[0]["photos"].split() == [fingerprint((image * 255).round().byte()) for image in inputs.images]
    inputs.images.append(torch.rand(160, 96, 3))
    assert _photos_identity(inputs, SETTINGS)["size_in_training"].startswith("128 x 128 and 128 x 192 ")
    assert " and 128" not in _photos_identity(inputs, replace(SETTINGS, aspect="crop"))["size_in_training"]


def test_held_out_photos_are_cut_to_the_nearest_shape_of_training(tmp_path, tiny_model, tiny_clip, vae):
    write_subject(tmp_path / "set", "cat", seed=40)
    dataset = read_dataset(tmp_path / "set", captions=2)
    for number, photo in enumerate(dataset.subjects[0].test):
        Image.new("RGB", (200, 100) if number else (100, 200)).save(photo.path)
    images = [torch.rand(160, 96, 3), torch.rand(96, 160, 3)]
    photos, held_out = outside(lambda: _encode_photos(Wired(tiny_model, tiny_clip, vae, images, None, dataset, None), SETTINGS))
    assert [bucket.size for bucket in photos.buckets] == [(24, 16), (16, 24)]
    first, *rest = held_out.photos.buckets
    assert (first.numbers, first.size) == ((0,), (24, 16)) and [bucket.size for bucket in rest] == [(16, 24)]
    assert held_out.photos.count == len(dataset.subjects[0].test)
