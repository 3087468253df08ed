"""What a step does to the tokens, on a toy text encoder and U-Net: the settings of optimiser and mapper have their effect."""

import pytest
import torch
from toy_method import ToyText, ToyUNet

from attractor.trainer.build import build_trainer
from attractor.trainer.dataset import Photos
from attractor.trainer.denoising import pool_mask
from attractor.trainer.initial import word_embedding
from attractor.trainer.methods import METHODS
from attractor.trainer.settings import TrainingSettings


def trainer_of(method, masks=None, **changes):
    generator = torch.Generator().manual_seed(1)
    latents, drawn = torch.randn(2, 3, 4, 4, 4, generator=generator), torch.rand(2, 3, 1, 4, 4, generator=generator)
    photos = Photos.of(latents, drawn if masks is None else torch.full_like(drawn, masks))
    settings = TrainingSettings.of(**{"method": method, "steps": 3, "batch_size": 2, "text_chunk": 100, **changes})
    return build_trainer(settings, photos, ToyText(), ToyUNet())


def moved(trainer):
    """What the first step has changed of the subject's parameters, and what they were."""
    before = torch.cat([p.detach().flatten().clone() for p in trainer.concepts["subject"].parameters()])
    trainer.step()
    return torch.cat([p.detach().flatten() for p in trainer.concepts["subject"].parameters()]) - before, before


@pytest.mark.parametrize(
    "preset, method, rate",
    [
        ("auto", "neti+", 2e-3),
        ("auto", "textual_inversion+", 1e-3),
        ("paper", "textual_inversion+", 1e-5),
        ("neti", "textual_inversion+", 2e-3),
        ("textual_inversion", "neti", 1e-3),
        ("custom", "textual_inversion", 0.03),
        ("custom", "neti+", 0.03),
    ],
)
def test_the_first_step_is_as_long_as_the_presets_learning_rate_says(preset, method, rate):
    """AdamW's first step moves every parameter that has a gradient by the rate, either way."""
    change, _ = moved(trainer_of(method, learning_rate_preset=preset, learning_rate=0.03, weight_decay=0))
    assert change.abs().max().item() == pytest.approx(rate, rel=0.02)


def test_weight_decay_shrinks_by_rate_times_decay():
    common = {"learning_rate_preset": "custom", "learning_rate": 0.1}
    plain, before = moved(trainer_of("textual_inversion+", **common, weight_decay=0))
    decayed, _ = moved(trainer_of("textual_inversion+", **common, weight_decay=0.5))
    torch.testing.assert_close(decayed - plain, -0.05 * before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["subject", "attractor_0"])
def test_nested_dropout_truncates_the_mappers_in_training(name):
    """At 1 every row is cut somewhere, so the last hidden unit never learns; in between it does in some steps' rows."""

    def last_unit(probability):
        trainer = trainer_of("neti+", nested_dropout=probability, batch_size=3)
        trainer.step()
        return trainer.concepts[name].output_layer.weight.grad[:, -1].abs().sum()

    whole, half, none = last_unit(0.0), last_unit(0.5), last_unit(1.0)
    assert whole > 0 and half > 0 and none == 0
    assert half != whole, "some rows are cut at 0.5"


def test_the_fixed_loss_is_of_the_whole_mapper():
    """With nested dropout it would be another number each time."""
    trainer = trainer_of("neti+", nested_dropout=1.0)
    before = trainer.fixed_loss()
    assert trainer.fixed_loss() == before
    with torch.no_grad():
        trainer.concepts["subject"].output_layer.weight[:, -1] += 1
    assert trainer.fixed_loss() != before


@pytest.mark.parametrize("method", METHODS)
def test_each_pool_has_its_mask(method):
    """Eq. 4: M_s, 1 - M_s, none; and none at all without attractor, but for photos that are placed on grey."""
    mask, settings = torch.rand(1, 4, 4), TrainingSettings(method=method)
    expected = {"subject": mask, "background": 1 - mask, "joint": torch.ones_like(mask)}
    for pool, own in expected.items():
        masked = settings.uses_attractor or (settings.views == "placed" and pool == "subject")
        assert torch.equal(pool_mask(settings, pool, mask), own if masked else torch.ones_like(mask))


def test_the_prior_holds_outside_the_mask_only():
    def prior(masks):
        trainer = trainer_of("textual_inversion+", masks=masks, prior_weight=1.0)
        with torch.no_grad():
            trainer.concepts["subject"].vectors += 1  # no longer the plain word, which would lose nothing anywhere
        return trainer.step().losses["prior"]

    assert prior(1.0) == 0 and prior(0.0) > 0


def test_the_contrast_weight_is_zero_where_there_is_no_contrast():
    for method, changes in (("neti", {}), ("textual_inversion+", {"contrast_weight": 0.0})):
        trainer = trainer_of(method, **changes)
        trainer.step()
        assert trainer.curves["contrast_weight"] == [0.0] and "contrast" not in trainer.curves


@pytest.mark.parametrize("changes", [{}, {"attractor_kind": "embedding"}, {"method": "textual_inversion+"}])
def test_no_two_tokens_start_alike_and_another_seed_starts_elsewhere(changes):
    def start(seed):
        trainer = trainer_of(**{"method": "neti+", "seed": seed, **changes})
        return [torch.cat([p.flatten() for p in concept.parameters()]) for concept in trainer.concepts.values()]

    first, other = start(0), start(1)
    assert len(first) == 4, "the subject and an attractor for each of three photos"
    for n, one in enumerate(first):
        assert not any(one.shape == two.shape and torch.equal(one, two) for two in first[n + 1 :])
    assert not any(torch.equal(one, two) for one, two in zip(first[1:], other[1:], strict=True))


def test_a_phrase_starts_from_the_mean_of_its_words_at_a_words_length():
    one, other = ToyText.table[ToyText().tokenize("teddy alarms")]
    assert torch.equal(word_embedding(ToyText(), "teddy", "super_category"), one)
    found = word_embedding(ToyText(), "teddy alarms", "super_category")
    assert torch.cosine_similarity(found, one + other, dim=0).item() == pytest.approx(1, abs=1e-6)
    assert found.norm().item() == pytest.approx((one.norm() + other.norm()).item() / 2, rel=1e-5)


@pytest.mark.parametrize("kind", ["textual_inversion+", "neti+"])
def test_attractors_start_at_their_word_with_noise_of_the_words_own_size(kind):
    word = ToyText.table[ToyText().tokenize("background")[0]]
    found = [trainer_of(kind, attractor_kind="embedding", attractor_noise=noise, seed=2) for noise in (0.1, 0.2)]
    away, further = (torch.stack([t.concepts[f"attractor_{i}"].vectors[0] - word for i in range(3)]) for t in found)
    torch.testing.assert_close(further, 2 * away)
    assert away.std().item() == pytest.approx(0.1 * word.std().item(), rel=0.5)


def test_nested_dropout_is_the_mappers_chance():
    trainer = trainer_of("neti+", nested_dropout=0.3)
    assert {concept.nested_dropout for concept in trainer.concepts.values()} == {0.3}
