"""A run's state on disk, on a toy text encoder and a toy U-Net."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_method import ToyText, ToyUNet

from attractor.trainer import checkpoint
from attractor.trainer.build import build_trainer
from attractor.trainer.checkpoint import CannotResume, load_state, save_state
from attractor.trainer.dataset import Photos
from attractor.trainer.methods import METHODS
from attractor.trainer.settings import TrainingSettings
from mutations import damaged, odd_tensor, odd_value, rounds

IDENTITY = {"base_model": "abc", "photos": "def"}


class HalfUNet(ToyUNet):
    """Its gradients overflow where the losses are scaled by more than 16."""

    loss_scale = 4096.0

    def predict_noise(self, noisy, timesteps, context_k, context_v, samples):
        predicted = super().predict_noise(noisy, timesteps, context_k, context_v, samples)
        if predicted.requires_grad and self.loss_scale > 16:
            predicted.register_hook(lambda gradient: gradient * math.inf)
        return predicted


def trainer_of(method="neti+", unet=None, **changes):
    generator = torch.Generator().manual_seed(1)
    photos = Photos.of(torch.randn(2, 3, 4, 4, 4, generator=generator), torch.rand(2, 3, 1, 4, 4, generator=generator))
    settings = TrainingSettings(method=method, steps=7, batch_size=2, text_chunk=100, fixed_loss_every=3)
    chosen = replace(settings, **changes)
    of_class = Photos.of(torch.randn(1, 5, 4, 6, 6, generator=generator), torch.ones(1, 5, 1, 6, 6))
    return build_trainer(chosen, photos, ToyText(), unet or ToyUNet(), class_photos=of_class if chosen.tunes else None)


def train(trainer, steps):
    for _ in range(steps):
        trainer.step()
    return trainer


@pytest.fixture
def saved(tmp_path):
    """A trainer after three steps, and the file of its state."""
    trainer = train(trainer_of(), 3)
    save_state(trainer, tmp_path / "resume.state", IDENTITY)
    return trainer, tmp_path / "resume.state"


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("method", METHODS)
def test_straight_steps_equal_a_kill_and_the_rest_bit_for_bit(tmp_path, method, optimizer):
    path = tmp_path / "resume.state"
    straight = train(trainer_of(method, optimizer=optimizer), 7)
    save_state(train(trainer_of(method, optimizer=optimizer), 3), path, IDENTITY)
    torch.manual_seed(99)  # another process has other random numbers lying about
    resumed = trainer_of(method, optimizer=optimizer)
    load_state(resumed, path, IDENTITY)
    assert resumed.step_count == 3
    train(resumed, 4)
    assert straight.step_count == resumed.step_count
    start, after, again = (trainer.learnables() for trainer in (trainer_of(method), straight, resumed))
    assert after and all(torch.equal(after[key], again[key]) for key in after)
    assert any(not torch.equal(after[key], start[key]) for key in after), "nothing was learnt"
    assert list(straight.curves) == list(resumed.curves), "in one order, or curves.json differs"
    for name, curve in straight.curves.items():
        assert len(curve) == 7 and curve == pytest.approx(resumed.curves[name], abs=0, rel=0, nan_ok=True)


def test_a_loss_that_some_steps_lack_does_not_make_the_state_unreadable(tmp_path):
    """With one prompt a sample a step may have no subject prompt, and no prior loss then."""
    trainer = train(trainer_of(prompts_per_step="one", prior_weight=1.0, batch_size=2, steps=9), 9)
    assert any(math.isnan(value) for value in trainer.curves["prior"]), "every step had one"
    assert not all(math.isnan(value) for value in trainer.curves["prior"])
    save_state(trainer, tmp_path / "s", IDENTITY)
    load_state(trainer_of(prompts_per_step="one", prior_weight=1.0, batch_size=2, steps=9), tmp_path / "s", IDENTITY)


def test_half_precisions_loss_scale_is_resumed_where_losses_are_scaled(saved, tmp_path):
    half = train(trainer_of(unet=HalfUNet()), 1)
    assert half.unet.loss_scale == 16, "4096 and 256 overflow"
    save_state(half, tmp_path / "half.state", IDENTITY)
    resumed = trainer_of(unet=HalfUNet())
    load_state(resumed, tmp_path / "half.state", IDENTITY)
    assert resumed.unet.loss_scale == 16
    single = trainer_of()  # another machine, in single precision
    load_state(single, tmp_path / "half.state", IDENTITY)
    assert single.unet.loss_scale == 1
    back = trainer_of(unet=HalfUNet())
    load_state(back, saved[1], IDENTITY)  # of single precision, and older ones: without a scale
    assert back.unet.loss_scale == 4096


@pytest.mark.parametrize("scale", [0, -1.0, 1e30, math.nan, "16", [16]])
def test_an_impossible_loss_scale_is_refused(saved, scale):
    edit(saved[1], lambda header: header.update(loss_scale=scale))
    with pytest.raises(CannotResume, match="resume.state is damaged"):
        load_state(trainer_of(), saved[1], IDENTITY)


def test_an_attractor_whose_photo_was_not_drawn_yet_needs_no_optimiser_state(tmp_path):
    trainer = train(trainer_of("textual_inversion+"), 1)  # two of three photos
    assert len(trainer.optimizer.state) == 3
    save_state(trainer, tmp_path / "s", IDENTITY)
    fresh = trainer_of("textual_inversion+")
    load_state(fresh, tmp_path / "s", IDENTITY)
    assert len(fresh.optimizer.state) == 3


def test_every_difference_is_listed(saved):
    other = trainer_of(tau=0.5, seed=4, method="textual_inversion+", steps=2)
    with pytest.raises(CannotResume) as error:
        load_state(other, saved[1], {"base_model": "xyz", "photos": "uvw"})
    for words in (
        "base model was abc, is xyz",
        "photos was def, is uvw",
        "tau was 0.07, is 0.5",
        "seed was 0, is 4",
        "method was 'neti+', is 'textual_inversion+'",
        "3 steps are done already, steps is 2",
    ):
        assert words in str(error.value)
    assert other.step_count == 0 and not other.optimizer.state and not other.curves, "a refused state left traces"


A, B, C, D = (letter * 16 for letter in "abcd")


@pytest.mark.parametrize(
    "name, was, now, words",
    [
        ("base_model", A, B, "the base model is another one."),
        ("photos", f"{A} {B}", f"{A} {B} {C}", "there were 2 photos, and are 3."),
        ("masks", "", f"{A} {B}", "there were no masks, and are 2."),
        ("masks", f"{A} {B}", "", "there were 2 masks, and are none."),
        ("photos", f"{A} {B} {C}", f"{C} {B} {A}", "the photos are in another order."),
        ("photos", f"{A} {B} {C}", f"{A} {D} {C}", "other photos than before: 2."),
        ("masks", f"{A} {B} {C}", f"{D} {B} {D}", "other masks than before: 1, 3."),
        ("photos", A, B, "other photos than before: 1."),
        (
            "photos",
            " ".join([A] * 20),
            " ".join([B] * 20),
            "other photos than before: 1, 2, 3, 4, 5, 6, 7, 8 and 12 more.",
        ),
        ("size_in_training", "512 x 512", "448 x 576", "size in training was 512 x 512, is 448 x 576."),
    ],
)
def test_what_differs_is_said_in_words_not_in_hashes(tmp_path, name, was, now, words):
    save_state(train(trainer_of(), 1), tmp_path / "s", {**IDENTITY, name: was})
    with pytest.raises(CannotResume) as error:
        load_state(trainer_of(), tmp_path / "s", {**IDENTITY, name: now})
    assert str(error.value) == words


def test_a_state_from_before_something_was_recorded_is_said_to_be_one(saved):
    with pytest.raises(CannotResume, match="an earlier version of this pack wrote it, and did not record size in training"):
        load_state(trainer_of(), saved[1], {**IDENTITY, "size_in_training": "512 x 512"})


def test_what_changes_no_result_may_differ(saved):
    other = trainer_of(steps=3, text_chunk=5, micro_batch=1)
    load_state(other, saved[1], IDENTITY)
    assert other.step_count == 3


def edit(path, change):
    """Rewrite a state with its header changed by `change(header)`."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["attractor"])
    change(header)
    save_file(load_file(path), path, {"attractor": json.dumps(header)})


def without_header(path):
    save_file(load_file(path), path)


def without_tensors(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"concept/subject.input_layer.bias": torch.zeros(160)}, path, metadata)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no safetensors at all"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.unlink(),
        without_header,
        without_tensors,
        lambda path: edit(path, lambda header: header.pop("identity")),
        lambda path: edit(path, lambda header: header.pop("step")),
        lambda path: edit(path, lambda header: header.pop("settings")),
    ],
    ids=["empty", "garbage", "cut short", "gone", "no header", "no tensors", "no identity", "no step", "no settings"],
)
def test_a_damaged_state_is_said_to_be(saved, damage):
    damage(saved[1])
    with pytest.raises(CannotResume, match="resume.state is damaged"):
        load_state(trainer_of(), saved[1], IDENTITY)


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "attractor-token"}])
def test_another_format_is_refused_by_name(saved, change):
    edit(saved[1], lambda header: header.update(change))
    with pytest.raises(CannotResume, match="this pack reads attractor-training-state up to 1"):
        load_state(trainer_of(), saved[1], IDENTITY)


def test_a_failed_write_leaves_the_old_state(saved, monkeypatch):
    trainer, path = saved
    before = path.read_bytes()

    def fail_half_way(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail_half_way)
    with pytest.raises(OSError, match="No space"):
        save_state(train(trainer, 1), path, IDENTITY)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("way", ["bytes", "values"])
def test_a_state_damaged_at_random_works_or_is_refused(tmp_path, way):
    path = tmp_path / "resume.state"
    save_state(train(trainer_of(), 1), path, IDENTITY)
    content, tensors = path.read_bytes(), load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["attractor"])
    refused = 0
    for number in rounds(60):
        draw = random.Random(f"{way} {number}")
        if way == "bytes":
            path.write_bytes(damaged(content, draw))
        else:
            found, own = dict(tensors), header
            if draw.random() < 0.5:
                own = odd_value(header, draw)
            else:
                key = draw.choice(list(found))
                found[key] = odd_tensor(found[key], draw).contiguous()
            save_file(found, path, {"attractor": json.dumps(own)})
        trainer = trainer_of()
        try:
            load_state(trainer, path, IDENTITY)
            assert torch.isfinite(torch.cat([value.flatten() for value in trainer.concepts.parameters()])).all()
        except CannotResume:
            refused += 1
            assert trainer.step_count == 0 and not trainer.curves, "a refused state left traces"
    assert refused
