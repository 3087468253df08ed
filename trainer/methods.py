"""The methods: a row each. What is learnt, which prompts it is learnt from, and at which learning rate."""

from dataclasses import dataclass

SUBJECT, BACKGROUND, JOINT = "subject", "background", "joint"  # the prompt pools (paper, section 3.2)


@dataclass(frozen=True)
class Method:
    """One way to learn a token.

    kind: what represents the subject: `textual_inversion` (one embedding) or `neti` (a mapper from time and layer).
    pools: the prompt pools that are trained on. attractor: whether each photo gets a background token of its own; the losses
        are masked then. learning_rate: the preset that `auto` stands for.
    source: where the method is from.
    """

    kind: str
    pools: tuple[str, ...]
    attractor: bool
    learning_rate: str
    source: str


_TI, _NETI, _PAPER = "Gal et al. 2022", "Alaluf et al. 2023", "Li et al. 2025"
_ALONE, _APART = (SUBJECT,), (SUBJECT, BACKGROUND, JOINT)
METHODS = {
    # name                       kind                 pools    attractor  rate                 source
    "neti+": Method("neti", _APART, True, "neti", _PAPER),
    "textual_inversion+": Method("textual_inversion", _APART, True, "textual_inversion", _PAPER),
    "neti": Method("neti", _ALONE, False, "neti", _NETI),
    "textual_inversion": Method("textual_inversion", _ALONE, False, "textual_inversion", _TI),
}


@dataclass(frozen=True)
class LearningRate:
    """A published learning rate. per_sample: it is multiplied by the batch size (the authors' scale_lr)."""

    value: float
    per_sample: bool
    source: str


LEARNING_RATES = {
    "paper": LearningRate(1e-5, False, "Li et al. 2025, experiments"),
    "neti": LearningRate(1e-3, True, "NeTI coach.py: 8e-3 at its effective batch of 8"),
    "textual_inversion": LearningRate(5e-4, True, "Textual Inversion's scale_lr"),
}
LEARNING_RATE_PRESETS = ("auto", *LEARNING_RATES, "custom")


def resolve_learning_rate(preset: str, method: str, batch_size: int, custom: float) -> float:
    """The learning rate that a preset stands for.

    `auto`: the method's own. `custom`: the number given. All others: a row of `LEARNING_RATES`.

    Raises:
        ValueError: unknown preset or method.
    """
    if preset == "custom":
        return custom
    if preset == "auto" and method in METHODS:
        preset = METHODS[method].learning_rate
    if preset not in LEARNING_RATES:
        raise ValueError(f"learning_rate_preset is {preset!r}: choose one of {', '.join(LEARNING_RATE_PRESETS)}.")
    rate = LEARNING_RATES[preset]
    return rate.value * (batch_size if rate.per_sample else 1)
