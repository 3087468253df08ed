"""Every choice of a training run in one frozen record, validated once, before any work starts."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from .schedules import SCHEDULES

METHODS = ("neti+", "textual_inversion+", "neti", "textual_inversion")
LEARNING_RATE_PRESETS = ("auto", "paper", "neti", "textual_inversion", "custom")

CHOICES = {
    "method": METHODS,
    "contrast_schedule": SCHEDULES,
    "prompts_per_step": ("all", "one"),
    "loss_mean": ("mask", "all"),
    "mask_resize": ("area", "nearest"),
    "attractor_kind": ("mapper", "embedding"),
}

# A resumed run may differ in these: they do not change what a step computes. But for `steps`: a run may be lengthened
# at the price that the rest of w_c's schedule is stretched.
_FREE_ON_RESUME = frozenset({"steps", "micro_batch", "gradient_checkpointing", "text_chunk", "fixed_loss_every"})
_ADDED_LATER = {"prior_weight": 0.0}  # what runs had that were saved before there was such a setting


def resolve_learning_rate(preset: str, method: str, batch_size: int, custom: float) -> float:
    """The learning rate a preset stands for.

    `paper`: 1e-5 (paper, experiments). `neti`: 1e-3 scaled by the batch, 8e-3 at the official effective
    batch of 8 (NeTI coach.py, scale_lr). `textual_inversion`: 5e-4 scaled by the batch (Textual Inversion's
    scale_lr). `auto`: `neti` or `textual_inversion`, by the method. `custom`: the number given.
    """
    if preset == "auto":
        preset = "neti" if method.startswith("neti") else "textual_inversion"
    rates = {"paper": 1e-5, "neti": 1e-3 * batch_size, "textual_inversion": 5e-4 * batch_size, "custom": custom}
    if preset not in rates:
        raise ValueError(f"learning_rate_preset is {preset!r}: choose one of {', '.join(LEARNING_RATE_PRESETS)}.")
    return rates[preset]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a run's result. Defaults follow the paper; where it is silent, the project's choices."""

    method: str = "neti+"
    placeholder: str = "<my-subject>"
    super_category: str = "dog"
    steps: int = 500
    batch_size: int = 8
    seed: int = 0

    # AdamW (paper: AdamW, constant rate). Weight decay as torch and NeTI have it.
    learning_rate: float = 8e-3
    weight_decay: float = 1e-2

    # Eq. 6: w_s L_sub + w_b L_bg + w_i L_joint + w_c(step) L_InfoNCE
    subject_weight: float = 1.0
    background_weight: float = 1.0
    joint_weight: float = 1.0
    contrast_weight: float = 0.1  # peak of w_c
    contrast_schedule: str = "cosine"
    tau: float = 0.07
    normalize_contrast: bool = True
    prior_weight: float = 0.0  # not the paper's: the frozen model's own prediction as the target outside the mask

    prompts_per_step: str = "all"  # "all": the three pools on the same noise; "one": one pool a sample
    loss_mean: str = "mask"  # "mask": mean over masked elements; "all": Eq. 4 to the letter
    mask_resize: str = "area"
    mask_dilation: int = 0  # pixels of the training image
    flip: bool = True

    attractor_kind: str = "mapper"  # under NeTI: a mapper per image, or one plain embedding per image
    subject_init: str = ""  # empty: the super-category's word
    attractor_init: str = "background"
    attractor_noise: float = 0.1  # standard deviation, as a share of the word's own
    nested_dropout: float = 0.5

    # How a step is carried out; the result does not depend on these beyond rounding.
    micro_batch: int = 0  # U-Net rows at once; 0: as many as memory allows
    gradient_checkpointing: bool = False
    text_chunk: int = 32  # text-encoder sequences at once, recomputed in the backward pass
    fixed_loss_every: int = 10

    @property
    def uses_attractor(self) -> bool:
        return self.method.endswith("+")

    @property
    def kind(self) -> str:
        """`neti` or `textual_inversion`: what represents the subject."""
        return self.method.removesuffix("+")

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each denoising loss, by prompt pool. Without attractor: the plain subject loss alone."""
        if not self.uses_attractor:
            return {"subject": 1.0}
        pools = {"subject": self.subject_weight, "background": self.background_weight, "joint": self.joint_weight}
        return {pool: weight for pool, weight in pools.items() if weight > 0}

    @property
    def uses_contrast(self) -> bool:
        return self.uses_attractor and self.contrast_weight > 0 and self.contrast_schedule != "zero"

    @property
    def uses_prior(self) -> bool:
        return self.uses_attractor and self.prior_weight > 0

    def problems(self) -> list[str]:
        """Every setting that cannot work, each named with its remedy; empty if all is well."""
        found = [
            f"{name} is {getattr(self, name)!r}: choose one of {', '.join(allowed)}."
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        for name in ("steps", "batch_size", "text_chunk", "fixed_loss_every"):
            if getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)}: use 1 or more.")
        for name in ("learning_rate", "tau"):
            if not 0 < getattr(self, name) < math.inf:  # false for NaN, too
                found.append(f"{name} is {getattr(self, name)}: use a number above 0.")
        for name in (
            "subject_weight",
            "background_weight",
            "joint_weight",
            "contrast_weight",
            "prior_weight",
            "weight_decay",
            "attractor_noise",
            "mask_dilation",
            "micro_batch",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                found.append(f"{name} is {getattr(self, name)}: use a number, 0 or more.")
        if not 0 <= self.nested_dropout <= 1:
            found.append(f"nested_dropout is {self.nested_dropout}: use 0 to 1.")
        if self.uses_attractor and not self.loss_weights:
            found.append("subject_weight, background_weight and joint_weight are all 0: raise at least one.")
        if self.uses_prior and self.subject_weight == 0:
            found.append("prior_weight is for subject prompts, and subject_weight is 0: raise it, or set prior_weight to 0.")
        if self.uses_contrast and self.batch_size < 2:
            found.append(
                "batch_size is 1, and the InfoNCE loss compares the samples of a batch: use 2 or more "
                "(micro_batch, not batch_size, saves memory), or set contrast_weight to 0."
            )
        return found

    def to_dict(self) -> dict:
        """The settings as JSON-able values."""
        return asdict(self)

    def differences(self, other: dict) -> list[str]:
        """What of `other` (a saved `to_dict`) would make a resumed run compute something else, in words."""
        mine, other = self.to_dict(), {**_ADDED_LATER, **other}
        return [
            f"{name} was {other.get(name)!r}, is {mine[name]!r}"
            for name in mine
            if name not in _FREE_ON_RESUME and other.get(name) != mine[name]
        ]


def fingerprint(*parts) -> str:
    """A short, stable hash of JSON-able values and tensors, to notice changed data or models on resume."""
    digest = hashlib.sha256()
    for part in parts:
        if hasattr(part, "detach"):
            digest.update(str((tuple(part.shape), str(part.dtype))).encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]
