"""DreamBooth and Custom Diffusion on the host's own U-Net (small, random): gradients, and what their files do to a model."""

from dataclasses import replace

import comfy.model_management as mm
import comfy.sd
import comfy.utils
import pytest
import torch
from in_process import narrow_models
from torch import nn

from attractor.nodes.errors import UserError
from attractor.nodes.host.identity import token_identity
from attractor.nodes.host.sampling import ImageMaker, Sampling, evaluation_maker
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet
from attractor.nodes.host.weights import with_weights
from attractor.nodes.nodes_tokens import ApplyPersonalizedToken
from attractor.trainer.build import build_trainer
from attractor.trainer.custom_diffusion import WEIGHTS_FILE, save_for_diffusers
from attractor.trainer.dataset import Photos, draw_batch, step_generator
from attractor.trainer.loop import GradientOverflow, NonFiniteLoss
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.token_file import load_token, save_lora, save_token
from test_nodes.tiny_sd15 import NARROW, tiny_vae

pytestmark = pytest.mark.one_host
METHODS = ("dreambooth", "dreambooth_lora", "custom_diffusion")


@pytest.fixture(scope="module")
def loaded():
    """A MODEL and CLIP, loaded."""
    return narrow_models()


@pytest.fixture(scope="module")
def models(loaded):
    return HostUNet(loaded[0]), HostTextEncoder(loaded[1])


def photos_of(seed, count=2, size=8):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, count, 4, size, size, generator=generator)
    masks = (torch.rand(1, count, 1, size, size, generator=generator) > 0.3).float()
    return Photos.of(latents, masks)


def trainer_of(models, method, **changes):
    settings = {"batch_size": 2, "steps": 9, "seed": 3, "placeholder": "<x>", "super_category": "cat", "rank": 2, **changes}
    chosen = TrainingSettings(method=method, **settings)
    of_class = photos_of(2, size=16) if chosen.class_prior == "generated" else None
    return build_trainer(chosen, photos_of(1), models[1], models[0], class_photos=of_class)


def weighted_loss(trainer):
    """The total of a step's losses, with gradients as a side effect."""
    generator = step_generator(3, 0)
    batch = draw_batch(trainer.photos, trainer.settings.batch_size, generator)
    trainer.optimizer.zero_grad()
    losses, _ = trainer.backward(batch, generator)
    assert ("prior" in losses) == (trainer.settings.class_prior != "none")
    return losses["subject"] + trainer.settings.class_weight * losses.get("prior", 0.0)


@pytest.mark.parametrize("prior", ["generated", "prediction", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_central_differences(models, method, prior, monkeypatch):
    monkeypatch.setattr("attractor.trainer.tuning.CLIPPED_TO", 1e9)
    # With Custom Diffusion's start token detached it is not the loss's gradient; a test of its own is below.
    monkeypatch.setattr("attractor.trainer.tuning.KEYS_VALUES", "not detached")
    trainer = trainer_of(models, method, prior=prior, class_weight=0.5)
    moved = torch.Generator().manual_seed(5)
    with torch.no_grad():  # away from the start, where LoRA's upper half is zero and the prediction is its own target
        for parameter in trainer.learnables().values():
            parameter += torch.randn(parameter.shape, generator=moved) * 0.02
    weighted_loss(trainer)
    for parameter in trainer.learnables().values():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    gradients = {name: parameter.grad.clone() for name, parameter in trainer.learnables().items()}
    names = list(gradients)  # along a direction that moves everything
    direction = {name: torch.randn(gradients[name].shape, generator=moved) for name in names}
    expected = sum((gradients[name] * direction[name]).sum().item() for name in names)
    step, found = 2e-4, []
    for sign in (1, -2):
        with torch.no_grad():
            for name in names:
                trainer.learnables()[name].add_(direction[name], alpha=sign * step)
        found.append(weighted_loss(trainer))
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(expected, rel=0.03, abs=1e-4)


def gradient_of(trainer):
    weighted_loss(trainer)
    return torch.cat([parameter.grad.flatten() for parameter in trainer.learnables().values()])


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_and_recomputing_change_nothing(models, method):
    def gradient(micro_batch, checkpointing):
        trainer = trainer_of(models, method)
        trainer.micro_batch, models[0].checkpointing = micro_batch, checkpointing
        return gradient_of(trainer)

    whole = gradient(2, 0)
    try:
        for other in (gradient(1, 0), gradient(2, 2)):
            assert ((other - whole).norm() / whole.norm()).item() < 1e-4
    finally:
        models[0].checkpointing = 0


@pytest.mark.parametrize("method", METHODS)
def test_a_scaled_loss_gives_the_same_gradient(models, method):
    """As half precision needs it."""
    plain = gradient_of(trainer_of(models, method))
    models[0].loss_scale = 64.0
    try:
        torch.testing.assert_close(gradient_of(trainer_of(models, method)), plain, rtol=1e-3, atol=1e-6)
    finally:
        models[0].loss_scale = 1.0


def test_what_was_predicted_before_is_what_the_prior_keeps(models):
    """At the start there is nothing to mend; away from it there is."""
    trainer = trainer_of(models, "dreambooth", prior="prediction")
    generator = step_generator(3, 0)
    batch = draw_batch(trainer.photos, 2, generator)
    start, _ = trainer.backward(batch, generator)
    assert start["prior"] == pytest.approx(0, abs=1e-10) and start["subject"] > 0.1
    with torch.no_grad():
        for parameter in trainer.learnables().values():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)) * 0.02
    assert trainer.backward(batch, generator)[0]["prior"] > 1e-6


def test_custom_diffusion_trains_with_the_start_token_detached(models, monkeypatch):
    detached = gradient_of(trainer_of(models, "custom_diffusion"))
    monkeypatch.setattr("attractor.trainer.tuning.KEYS_VALUES", "not detached")
    other = gradient_of(trainer_of(models, "custom_diffusion"))
    assert ((detached - other).norm() / other.norm()).item() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_are_not_finite_stop_a_step(models, method, monkeypatch):
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(GradientOverflow, match="step 1"):
        weighted_loss(trainer_of(models, method))
    broken = trainer_of(models, method)
    with torch.no_grad():
        next(iter(broken.tuned.parameters.values())).fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="step 1"):
        weighted_loss(broken)


def test_keys_and_values_of_the_start_token_get_no_gradient(models):
    """Custom Diffusion: with a context whose other tokens are zero, nothing but the start token could move them."""
    unet, _ = models
    context = torch.zeros(1, 1, 5, NARROW)
    context[:, :, 0] = torch.randn(NARROW, generator=torch.Generator().manual_seed(1))
    tensors = {name: torch.nn.Parameter(value.clone()) for name, value in unet.tunable("keys_values").items()}
    for detach, moves in ((True, False), (False, True)):
        for tensor in tensors.values():
            tensor.grad = None
        with unet.tuned(tensors, detach_start=detach):
            noise = unet.predict_noise(torch.ones(1, 4, 8, 8), torch.tensor([500]), context, context)
            noise.square().sum().backward()
        assert any(bool(tensor.grad.any()) for tensor in tensors.values()) == moves


def trained(models, method, steps=3, **changes):
    trainer = trainer_of(models, method, learning_rate=1e-2, **changes)
    for _ in range(steps):
        trainer.step()
    return trainer


def prediction(unet):
    context = torch.randn(1, 1, 77, NARROW, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return unet.predict_noise(torch.ones(1, 4, 8, 8), torch.tensor([500]), context, context)


@pytest.mark.parametrize("method", METHODS)
def test_the_stock_loader_makes_of_the_file_what_was_trained_and_the_model_stays(loaded, models, method, tmp_path):
    before = {name: value.clone() for name, value in loaded[0].model_state_dict().items()}
    trainer = trained(models, method)
    with torch.no_grad(), trainer._as_learnt():
        expected = prediction(models[0])
    assert not torch.allclose(expected, prediction(models[0]), atol=1e-3), "it learnt something"
    save_lora(trainer.token().weights, tmp_path / "lora.safetensors")
    save_token(trainer.token(), tmp_path / "token.safetensors")
    for file in ("lora", "token"):  # a token's file is a LoRA file too
        content = comfy.utils.load_torch_file(str(tmp_path / f"{file}.safetensors"), safe_load=True)
        with torch.inference_mode():
            patched, _ = comfy.sd.load_lora_for_models(loaded[0], None, content, 1.0, 0.0)
        mm.load_models_gpu([patched], force_full_load=True)
        assert torch.allclose(prediction(HostUNet(patched)), expected, atol=1e-5)
        mm.load_models_gpu([loaded[0]], force_full_load=True)
    token = load_token(tmp_path / "token.safetensors")
    assert token.phrase == "{} cat" and token.weights.keys() == trainer.token().weights.keys()
    after = loaded[0].model_state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_a_step_the_difference_is_none(models):
    for method in ("dreambooth", "custom_diffusion"):
        assert not any(value.any() for value in trainer_of(models, method).token().weights.values())
    assert not any(v.any() for k, v in trainer_of(models, "dreambooth_lora").token().weights.items() if "lora_up" in k)


def test_weights_of_another_model_are_refused(loaded, models):
    weights = trained(models, "custom_diffusion", steps=1).token().weights
    with pytest.raises(UserError, match="do not fit this model"):
        with_weights(loaded[0], {name: value[:, :5] for name, value in weights.items()})
    with pytest.raises(UserError, match="1 of its 1 weights do not fit"):
        with_weights(loaded[0], {"diffusion_model.nowhere.diff": torch.zeros(2)})


@pytest.mark.parametrize("method", METHODS)
def test_applied_it_means_the_word_and_its_class_and_the_model_has_the_weights(loaded, models, method):
    model, clip = loaded
    token = trained(models, method).token({})
    with torch.inference_mode():
        applied, personal = ApplyPersonalizedToken.execute(model, clip, token).result
        half, _ = ApplyPersonalizedToken.execute(model, clip, token, strength=0.5).result
        shown = personal.encode_from_tokens(personal.tokenize("a photo of <x> on the beach"))
        if method.startswith("dreambooth"):
            plain = clip.encode_from_tokens(clip.tokenize("a photo of sks cat on the beach"))
            assert torch.allclose(shown, plain, atol=1e-5)
    assert {strength for _, patches in applied.patches.items() for strength, *_ in patches} == {1.0}
    assert {strength for _, patches in half.patches.items() for strength, *_ in patches} == {0.5}
    assert not model.patches


def test_evaluation_makes_the_image_that_applying_makes(loaded, models):
    model, clip = loaded
    vae = tiny_vae()
    token, sampling = trained(models, "dreambooth").token({}), Sampling(steps=2, width=64, height=64)
    with torch.inference_mode():
        applied, personal = ApplyPersonalizedToken.execute(model, clip, token).result
    by_hand = ImageMaker(applied, personal, vae, sampling)(["a photo of <x>"], [1])
    evaluated = evaluation_maker(model, clip, vae, token, sampling)(["a photo of <x>"], [1])
    plain = evaluation_maker(model, clip, vae, None, sampling)(["a photo of sks cat"], [1])
    assert torch.equal(evaluated, by_hand) and not torch.allclose(evaluated, plain, atol=1e-2)


def test_tokens_that_differ_in_weights_or_phrase_are_told_apart(models):
    """Or results of one would be taken for the other's."""
    token = trained(models, "custom_diffusion", steps=1).token({})
    doubled = {name: 2 * value for name, value in token.weights.items()}
    others = [replace(token, phrase="{}"), replace(token, weights={}), replace(token, weights=doubled)]
    assert len({token_identity(own) for own in (token, *others)}) == 4
    assert token_identity(replace(token, placeholder="<y>", record={"step": 3})) == token_identity(token)


def test_files_for_diffusers_are_read_back_as_the_same_weights(loaded, models, tmp_path):
    trainer = trained(models, "custom_diffusion")
    save_for_diffusers(trainer.tuned.parameters, trainer.token(), tmp_path)
    with torch.no_grad(), trainer._as_learnt():
        expected = prediction(models[0])
    found = load_token(tmp_path / WEIGHTS_FILE)
    assert found.placeholder == "<x>" and torch.equal(found.subject.vectors, trainer.concepts["subject"].vectors)
    patched = with_weights(loaded[0], found.weights)
    mm.load_models_gpu([patched], force_full_load=True)
    assert torch.allclose(prediction(HostUNet(patched)), expected, atol=1e-6)
    mm.load_models_gpu([loaded[0]], force_full_load=True)
    # The original's delta.bin holds the same under other names.
    content = comfy.utils.load_torch_file(str(tmp_path / WEIGHTS_FILE))
    names = {name: name.replace("processor.", "").replace("_custom_diffusion", "") for name in content}
    delta = {"unet": {names[k]: v for k, v in content.items()}, "modifier_token": {"<new1>": found.subject.vectors[0].detach()}}
    torch.save(delta, tmp_path / "delta.bin")
    original = load_token(tmp_path / "delta.bin")
    assert original.placeholder == "<new1>" and original.weights.keys() == found.weights.keys()
    assert all(torch.equal(original.weights[name], found.weights[name]) for name in found.weights)
