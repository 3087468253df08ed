"""A training run's settings in one frozen record: what the rows of `setting_rows.py` say, what follows from it, and checks."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from .methods import BACKGROUND, JOINT, METHODS, PRIOR, SUBJECT, TOKEN, Method, resolve_learning_rate
from .qualities import with_quality
from .rows import Row
from .setting_rows import SettingRows


@dataclass(frozen=True)
class TrainingSettings(SettingRows):
    """A run's settings, validated once, before any work starts."""

    @classmethod
    def of(cls, **values: Any) -> "TrainingSettings":
        """Settings from what a person chose, where `quality` decides what was left at its default, and `learning_rate` counts
        with the preset `custom` only.

        Raises:
            ValueError: unknown preset.
        """
        values = with_quality(values, {part.name: part.default for part in fields(cls)})
        chosen = cls(**values)
        rate = resolve_learning_rate(chosen.learning_rate_preset, chosen.method, chosen.batch_size, chosen.learning_rate)
        return cls(**{**values, "learning_rate": rate})

    @property
    def _method(self) -> Method:
        return METHODS[self.method]

    @property
    def uses_attractor(self) -> bool:
        return self._method.attractor

    @property
    def kind(self) -> str:
        """`neti` or `textual_inversion`: what represents the subject."""
        return self._method.kind

    @property
    def learns(self) -> str:
        """What is learnt: a row of `methods.METHODS` says what there is."""
        return self._method.learns

    @property
    def tunes(self) -> bool:
        """Whether weights of the U-Net are learnt."""
        return self._method.tunes

    @property
    def learns_token(self) -> bool:
        """Whether the placeholder's own vectors are learnt."""
        return self._method.learns_token

    @property
    def views(self) -> str:
        """How photos are varied: mirrored (`flipped`), not at all (`plain`), or scaled and placed (`placed`)."""
        return "plain" if self._method.views == "flipped" and not self.flip else self._method.views

    @property
    def prompt(self) -> str:
        """The one prompt that is trained on, with slots for token and class; empty: the paper's templates."""
        return self._method.prompt

    @property
    def phrase(self) -> str:
        """What the placeholder becomes in a prompt."""
        return f"{{}} {self.super_category}" if self.tunes else "{}"

    @property
    def class_words(self) -> str:
        """The prompt of the class."""
        return self.class_prompt.replace("{}", self.super_category)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each denoising loss, by prompt pool. Without attractor: the plain subject loss alone."""
        if not self.uses_attractor:
            return {SUBJECT: 1.0}
        pools = {SUBJECT: self.subject_weight, BACKGROUND: self.background_weight, JOINT: self.joint_weight}
        return {pool: weight for pool, weight in pools.items() if weight > 0}

    @property
    def uses_contrast(self) -> bool:
        return self.uses_attractor and self.contrast_weight > 0 and self.contrast_schedule != "zero"

    @property
    def most_prompts(self) -> tuple[int, int]:
        """How many prompts of one sample a step has at most, through the U-Net and through the text encoder. The latter reads a
        joint prompt for the InfoNCE loss besides."""
        through_unet = 1 if self.prompts_per_step == "one" else len(self.loss_weights)
        return through_unet, min(3, through_unet + self.uses_contrast)

    @property
    def uses_prior(self) -> bool:
        return self.uses_attractor and self.prior_weight > 0

    @property
    def class_prior(self) -> str:
        """What keeps the class as it was: `generated`, `prediction` or `none`."""
        return self.prior if PRIOR in self._method.pools and self.class_weight > 0 else "none"

    def problems(self) -> list[str]:
        """Every setting that cannot work, each named with its remedy; empty if all is well."""
        found = [text for name, row in ROWS.items() if (text := row.problem(name, getattr(self, name)))]
        if self.method not in METHODS:
            return found
        if self.vectors > 1 and self.learns != TOKEN:
            found.append(f"vectors is {self.vectors}, and only textual_inversion has several: use 1, or another method.")
        if self.tunes and (self.templates.strip() or self.captions.strip()):
            found.append(f"templates and captions are not for {self.method}, which has a prompt of its own: leave them empty.")
        if self.uses_attractor and not self.loss_weights:
            found.append("subject_weight, background_weight and joint_weight are all 0: raise at least one.")
        if self.uses_prior and self.subject_weight == 0:
            found.append("prior_weight is for subject prompts, and subject_weight is 0: raise it, or set prior_weight to 0.")
        if self.uses_contrast and self.batch_size < 2:
            found.append(
                "batch_size is 1, and the InfoNCE loss compares the samples of a batch: use 2 or more "
                "(micro_batch, not batch_size, saves memory), or set contrast_weight to 0."
            )
        if self.optimizer == "adafactor" and not hasattr(torch.optim, "Adafactor"):
            found.append(f"optimizer adafactor needs torch 2.5, and this is {torch.__version__}: choose adamw.")
        if self.class_prior != "none" and "{}" not in self.class_prompt:
            found.append("class_prompt does not mention the class: write {} where it goes, or set prior to none.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        return asdict(self)

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What of `other` (a saved `to_dict`) would make a resumed run compute something else, in words."""
        mine = self.to_dict()
        saved = {name: other.get(name, row.before) for name, row in ROWS.items() if not row.free}
        return [f"{name} was {value!r}, is {mine[name]!r}" for name, value in saved.items() if value != mine[name]]


ROWS: dict[str, Row] = {part.name: part.metadata["row"] for part in fields(TrainingSettings)}
