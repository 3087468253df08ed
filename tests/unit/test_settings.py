"""The settings of a run: what is refused, what a resume may change, and what the presets stand for."""

from dataclasses import replace

import pytest
import torch

from attractor.trainer.settings import (
    CHOICES,
    LEARNING_RATE_PRESETS,
    TrainingSettings,
    fingerprint,
    resolve_learning_rate,
)

NOT_NEGATIVE = (
    "subject_weight",
    "background_weight",
    "joint_weight",
    "contrast_weight",
    "prior_weight",
    "weight_decay",
    "attractor_noise",
    "mask_dilation",
    "micro_batch",
)


def test_the_defaults_are_fine():
    assert TrainingSettings().problems() == []


@pytest.mark.parametrize(
    "changes, word",
    [
        *[({name: "nonsense"}, name) for name in CHOICES],
        *[({name: 0}, name) for name in ("steps", "batch_size", "text_chunk", "fixed_loss_every", "learning_rate", "tau")],
        *[({name: value}, name) for name in NOT_NEGATIVE for value in (-1.0, float("nan"), float("inf"))],
        *[({name: value}, name) for name in ("learning_rate", "tau") for value in (-1.0, float("nan"), float("inf"))],
        *[({"nested_dropout": value}, "nested_dropout") for value in (-0.1, 1.1, float("nan"))],
        ({"batch_size": 1}, "batch_size is 1"),
        ({"subject_weight": 0.0, "background_weight": 0.0, "joint_weight": 0.0}, "all 0"),
        ({"subject_weight": 0.0, "prior_weight": 1.0}, "prior_weight is for subject prompts"),
    ],
)
def test_each_bad_setting_is_named(changes, word):
    problems = replace(TrainingSettings(), **changes).problems()
    assert any(word in problem for problem in problems), problems


def test_all_bad_settings_are_named_at_once():
    problems = TrainingSettings(method="x", steps=0, tau=-1.0, joint_weight=-1.0).problems()
    assert [problem.split()[0] for problem in problems] == ["method", "steps", "tau", "joint_weight"]


def test_a_batch_of_one_is_fine_without_contrast():
    for changes in ({"contrast_weight": 0.0}, {"contrast_schedule": "zero"}, {"method": "neti"}):
        assert replace(TrainingSettings(), batch_size=1, **changes).problems() == []


def test_methods_without_attractor_have_the_plain_loss_alone():
    for method in ("neti", "textual_inversion"):
        settings = TrainingSettings(method=method, subject_weight=7.0, prior_weight=1.0)
        assert settings.loss_weights == {"subject": 1.0} and not settings.uses_contrast and not settings.uses_prior
    assert set(TrainingSettings().loss_weights) == {"subject", "background", "joint"}


def test_a_resume_may_change_only_what_changes_no_result():
    saved = TrainingSettings().to_dict()
    free = TrainingSettings(steps=900, micro_batch=2, gradient_checkpointing=True, text_chunk=4, fixed_loss_every=3)
    assert free.differences(saved) == []
    assert TrainingSettings(tau=0.1, seed=4).differences(saved) == ["seed was 0, is 4", "tau was 0.07, is 0.1"]
    del saved["tau"]
    assert TrainingSettings().differences(saved) == ["tau was None, is 0.07"]


def test_a_run_saved_before_there_was_a_prior_weight_resumes_without_one():
    saved = TrainingSettings().to_dict()
    del saved["prior_weight"]
    assert TrainingSettings().differences(saved) == []
    assert TrainingSettings(prior_weight=1.0).differences(saved) == ["prior_weight was 0.0, is 1.0"]


def test_presets_are_the_published_learning_rates():
    def rate(preset, method="neti+"):
        return resolve_learning_rate(preset, method, 8, 0.5)

    assert rate("paper") == 1e-5 and rate("neti") == 8e-3 and rate("textual_inversion") == 4e-3 and rate("custom") == 0.5
    assert rate("auto") == rate("neti") and rate("auto", "textual_inversion+") == rate("textual_inversion")
    assert len(LEARNING_RATE_PRESETS) == 5
    with pytest.raises(ValueError, match="learning_rate_preset is 'fast'"):
        rate("fast")


def test_fingerprints_tell_tensors_apart():
    tensor = torch.arange(6.0)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    others = (tensor.reshape(2, 3), tensor.double(), tensor + 1e-6)
    assert len({fingerprint(t) for t in (tensor, *others)}) == 4
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
