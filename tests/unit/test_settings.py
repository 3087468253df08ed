"""The settings of a run: what is refused, what a resume may change, and what the presets stand for."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attractor.trainer.methods import LEARNING_RATE_PRESETS, resolve_learning_rate
from attractor.trainer.qualities import QUALITIES, quality_note
from attractor.trainer.rows import GROUPS
from attractor.trainer.settings import ROWS, TrainingSettings
from attractor.trainer.storage import fingerprint

PAGES = Path(__file__).resolve().parents[2] / "scripts" / "settings_pages.py"
NAN, INF = float("nan"), float("inf")
CHOSEN = [name for name, row in ROWS.items() if row.choices]
NUMBERS = [name for name in ROWS if type(getattr(TrainingSettings(), name)) in (int, float)]


def test_the_defaults_are_fine():
    assert TrainingSettings().problems() == []


@pytest.mark.parametrize(
    "changes, word",
    [
        *[({name: "nonsense"}, f"{name} is 'nonsense': choose one of") for name in CHOSEN],
        *[({name: value}, f"{name} is {value}: use") for name in NUMBERS for value in (NAN, INF, -INF, -1)],
        *[({name: 0}, f"{name} is 0: use 1 ") for name in ("steps", "batch_size", "fixed_loss_every")],
        *[({name: 0}, f"{name} is 0: use a number above 0") for name in ("learning_rate", "tau")],
        ({"nested_dropout": 1.1}, "nested_dropout is 1.1: use 0 to 1."),
        ({"mask_dilation": 65}, "mask_dilation is 65: use 0 to 64."),
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
    assert [problem.split()[0] for problem in problems] == ["method", "steps", "joint_weight", "tau"]


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
    free = TrainingSettings(steps=900, micro_batch=2, gradient_checkpointing="on", text_chunk=4, fixed_loss_every=3)
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
    assert [rate("auto", name) for name in ("custom_diffusion", "dreambooth", "dreambooth_lora")] == [1.6e-4, 5e-6, 1e-4]
    assert len(LEARNING_RATE_PRESETS) == 8
    with pytest.raises(ValueError, match="learning_rate_preset is 'fast'"):
        rate("fast")


def test_a_preset_decides_the_rate_and_custom_leaves_it_to_the_number():
    assert TrainingSettings.of(learning_rate=0.5).learning_rate == 8e-3
    assert TrainingSettings.of(learning_rate=0.5, learning_rate_preset="custom").learning_rate == 0.5
    assert TrainingSettings.of(learning_rate=0.0, learning_rate_preset="paper").problems() == []


def test_every_setting_says_what_it_is():
    assert all(len(row.doc) > 5 and row.group in GROUPS for row in ROWS.values())
    bare = [name for name in NUMBERS if not ROWS[name].limits()]
    assert not bare, "a number without limits"


def test_the_help_pages_have_the_present_settings():
    done = subprocess.run([sys.executable, str(PAGES), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_fingerprints_tell_tensors_apart():
    tensor = torch.arange(6.0)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    others = (tensor.reshape(2, 3), tensor.double(), tensor + 1e-6)
    assert len({fingerprint(t) for t in (tensor, *others)}) == 4
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_an_optimiser_that_this_torch_lacks_is_named(monkeypatch):
    settings = TrainingSettings(optimizer="adafactor")
    assert not settings.problems()
    monkeypatch.delattr(torch.optim, "Adafactor")
    assert settings.problems() == [f"optimizer adafactor needs torch 2.5, and this is {torch.__version__}: choose adamw."]


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_preset_sets_what_stands_at_its_default_and_nothing_else(quality):
    chosen, default = TrainingSettings.of(quality=quality), TrainingSettings.of()
    assert not chosen.problems()
    changed = {name for name in ROWS if getattr(chosen, name) != getattr(default, name)} - {"quality", "learning_rate"}
    assert changed <= set(QUALITIES[quality]), "another setting changed"
    assert all(getattr(chosen, name) == value for name, value in QUALITIES[quality].items())
    assert all(f"{name} {value}" in quality_note(chosen) for name, value in QUALITIES[quality].items())
    mine = TrainingSettings.of(quality=quality, steps=7)
    assert mine.steps == 7 and "steps" not in quality_note(mine)


def test_the_rate_follows_the_batch_of_a_preset():
    assert TrainingSettings.of(quality="quick").learning_rate == pytest.approx(1e-3 * QUALITIES["quick"]["batch_size"])
