"""How large a run's files are said to be, beside how large they are."""

import pytest
import torch
from toy_method import ToyText, ToyUNet

from attractor.trainer.build import build_trainer
from attractor.trainer.checkpoint import save_state
from attractor.trainer.dataset import Photos
from attractor.trainer.disk import MANY_PHOTOS, megabytes, run_files, smaller_offer
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.token_file import save_token

METHODS = ["neti+", "textual_inversion+", "neti", "textual_inversion"]
WEIGHTS = 859_520_964  # of the U-Net of Stable Diffusion 1.5


@pytest.mark.parametrize("changes", [*({"method": method} for method in METHODS), {"attractor_kind": "embedding"}])
def test_files_are_as_large_as_is_said(tmp_path, changes):
    settings = TrainingSettings(steps=3, batch_size=6, text_chunk=200, **changes)
    photos = Photos.of(torch.randn(1, 6, 4, 4, 4), torch.rand(1, 6, 1, 4, 4))
    trainer = build_trainer(settings, photos, ToyText(), ToyUNet())
    trainer.step()  # sees every photo, so that all have an optimiser's state
    save_token(trainer.token({"identity": {"base_model": "0" * 16, "photos": "0" * 16}}), tmp_path / "token")
    save_state(trainer, tmp_path / "state", {"base_model": "0" * 16, "photos": "0" * 16})
    said = run_files(settings, 6, ToyText.width)
    for name, size in (("token", said.token), ("state", said.state)):
        real = (tmp_path / name).stat().st_size
        assert real <= size <= 1.05 * real + 60_000, name
    assert said.total > said.token + said.state


def test_the_number_of_step_files_and_photos_counts():
    few, many = (run_files(TrainingSettings(checkpoint_every=100), photos, 768) for photos in (MANY_PHOTOS, MANY_PHOTOS + 1))
    assert few.step_files == 5 and few.step_file == few.token and few.total > 5 * few.token + few.state
    assert many.step_file < 4 * 1024**2 < few.step_file, "without attractors"
    assert many.token > few.token and many.state > few.state
    none = run_files(TrainingSettings(checkpoint_every=0, sample_every=0), 5, 768)
    assert none.step_files == none.samples == 0 and "step file" not in str(none)


def test_the_cost_is_said_in_words():
    files = run_files(TrainingSettings(), 5, 768)
    assert str(files) == "5 step files of 13 MB, a state of 39 MB, a token of 13 MB: 172 MB in all"
    one = run_files(TrainingSettings(method="textual_inversion", steps=100), 5, 768)
    assert str(one).startswith("a step file of under 1 MB, a state of under 1 MB")
    assert megabytes(3 * 1024**3) == "3,072 MB"


def test_an_embedding_is_offered_for_each_of_many_photos():
    settings = TrainingSettings()
    assert smaller_offer(settings, MANY_PHOTOS, 768) == ""
    offer = smaller_offer(settings, 200, 768)
    assert offer.startswith("200 photos with a mapper each make a token of 4") and "attractor_kind 'embedding'" in offer
    for without in ({"attractor_kind": "embedding"}, {"method": "neti"}, {"method": "textual_inversion+"}):
        assert smaller_offer(TrainingSettings(**without), 200, 768) == ""


def test_what_writes_gigabytes_says_so_and_keeps_the_last_and_the_best_only():
    files = run_files(TrainingSettings(method="dreambooth", class_images=10), 5, 768, WEIGHTS)
    assert str(files) == "a state of 9,837 MB, a token of 3,279 MB: 26,239 MB in all"
    small = run_files(TrainingSettings(method="dreambooth", optimizer="adafactor", class_images=10), 5, 768, WEIGHTS)
    assert small.state < files.state / 2
    assert run_files(TrainingSettings(method="custom_diffusion"), 5, 768, 19_169_280).step_files == 5
