"""The methods: a row each. What is learnt, which prompts it is learnt from, and at which learning rate."""

from dataclasses import dataclass

SUBJECT, BACKGROUND, JOINT = "subject", "background", "joint"  # the prompt pools (paper, section 3.2)
PRIOR = "prior"  # prompts of the plain class (DreamBooth)

# What is learnt: a token, as a vector or as a mapper from time and layer; or weights of the U-Net.
TOKEN, MAPPER, KEYS_VALUES, WEIGHTS, LOW_RANK = "token", "mapper", "keys_values", "weights", "low_rank"
# How photos are varied: mirrored if `flip` is on; not at all; scaled and placed (Custom Diffusion).
FLIPPED, PLAIN, PLACED = "flipped", "plain", "placed"


@dataclass(frozen=True)
class Method:
    """One way to learn a subject.

    learns: the token, as a vector or a mapper; or weights of the U-Net: of the keys and values in cross-attention (beside the
        token), all of them, or what low-rank matrices add to those of attention.
    pools: the prompt pools that are trained on. attractor: whether each photo gets a background token of its own; the losses
        are masked then. prompt: what is trained on instead of the paper's templates, with slots for token and class.
    views: how photos are varied. learning_rate: the preset that `auto` stands for. source: where the method is from.
    """

    learns: str
    pools: tuple[str, ...]
    attractor: bool
    learning_rate: str
    source: str
    prompt: str = ""
    views: str = FLIPPED

    @property
    def kind(self) -> str:
        """What represents the subject in prompts: `neti` or `textual_inversion`."""
        return "neti" if self.learns == MAPPER else "textual_inversion"

    @property
    def tunes(self) -> bool:
        """Whether weights of the U-Net are learnt. Such methods keep the class as it was by a prior loss, if asked to."""
        return self.learns not in (TOKEN, MAPPER)

    @property
    def learns_token(self) -> bool:
        """Whether the placeholder's own vectors are learnt; if not, they are a rare word's."""
        return self.learns in (TOKEN, MAPPER, KEYS_VALUES)


_TI, _NETI, _PAPER = "Gal et al. 2022", "Alaluf et al. 2023", "Li et al. 2025"
_DREAMBOOTH, _CUSTOM = "Ruiz et al. 2023, diffusers' settings", "Kumari et al. 2023, diffusers' settings"
_ALONE, _APART = (SUBJECT,), (SUBJECT, BACKGROUND, JOINT)
_OF = "a photo of a {} {}"
METHODS = {
    # name                       learns    pools    attractor  rate                 source
    "neti+": Method(MAPPER, _APART, True, "neti", _PAPER),
    "textual_inversion+": Method(TOKEN, _APART, True, "textual_inversion", _PAPER),
    "neti": Method(MAPPER, _ALONE, False, "neti", _NETI),
    "textual_inversion": Method(TOKEN, _ALONE, False, "textual_inversion", _TI),
    "custom_diffusion": Method(KEYS_VALUES, (SUBJECT, PRIOR), False, "custom_diffusion", _CUSTOM, _OF, PLACED),
    "dreambooth": Method(WEIGHTS, (SUBJECT, PRIOR), False, "dreambooth", _DREAMBOOTH, _OF, PLAIN),
    "dreambooth_lora": Method(LOW_RANK, (SUBJECT, PRIOR), False, "dreambooth_lora", _DREAMBOOTH, _OF, PLAIN),
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
    "custom_diffusion": LearningRate(2e-5, True, "diffusers: 1e-5 x batch, twice with prior"),
    "dreambooth": LearningRate(5e-6, False, "diffusers' train_dreambooth.py"),
    "dreambooth_lora": LearningRate(1e-4, False, "diffusers' train_dreambooth_lora.py"),
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
