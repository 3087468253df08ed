"""What the benchmark runs: one base setting, and for each configuration what differs from it. Nothing is set per claim."""

import hashlib
import json
from dataclasses import dataclass, field

STEPS = 120  # of every run, and where all are compared
LONG = 4  # times as many steps, for the overfitting of Fig. 1: its first checkpoint is the run of STEPS
CHECKPOINTS = 4  # of a run, evenly

BASE = {
    "placeholder": "<toy>",
    "method": "neti+",
    "batch_size": 4,
    "learning_rate_preset": "auto",
    "learning_rate": 1e-3,
    "resolution": 128,
    "prompts_per_step": "one",
    "contrast_schedule": "cosine",
    "text_chunk": 1024,
    "sample_every": 0,
    "fixed_loss_every": 10,
}
EVALUATION = {
    "images_per_caption": 1,
    "sampler": "dpmpp_2m",
    "scheduler": "karras",
    "steps": 12,
    "cfg": 4.0,
    "width": 128,
    "height": 128,
    "batch_size": 1,
    "max_photos": 10,
    "max_captions": 1,
}
QUICK_STEPS, QUICK_EVALUATION = 4, {**EVALUATION, "steps": 2, "max_photos": 2}  # to see that all works

# What a preset decides, as the training node has it when nobody touches it; and how its own scores are sampled here.
UNTOUCHED = {"steps": 500, "batch_size": 8, "checkpoint_every": 100, "score_images": 10, "sample_steps": 12, "sample_cfg": 4.0}

# The attractors' loss weights, all off: what is left is the subject loss inside the mask.
_MASK_ONLY = {"background_weight": 0.0, "joint_weight": 0.0, "contrast_weight": 0.0}
RATES = {"neti+": (1e-5, 1e-4, 1e-3), "textual_inversion+": (1e-5, 1e-3, 1e-2)}  # beside the preset's; the paper's is 1e-5
OTHER_CATEGORY = {"monster": "vase", "vase": "monster"}
NEUTRAL = "thing"  # a word that says nothing; the toy model has never read it, and the node takes no empty one


@dataclass(frozen=True)
class Configuration:
    """changes: to BASE. super_category: right, wrong or neutral. curve: every checkpoint is evaluated, not the last alone.
    long: LONG times the steps. slow: the same, and compared at the end, as it learns little in fewer. scored: twice as
    many, scored by the training itself on the way. attractors: images of the attractors too. trained: False for the word.
    share: of the steps, where a step does more. quality: as this preset has it, scored on the way, and its best step counts."""

    name: str
    changes: dict = field(default_factory=dict)
    super_category: str = "right"
    curve: bool = False
    long: bool = False
    slow: bool = False
    scored: bool = False
    attractors: bool = False
    trained: bool = True
    share: float = 1.0
    quality: str = ""

    def inputs(self, steps: int = STEPS) -> dict:
        """Of Train Attractor Embedding, but for what subject and seed decide."""
        if self.quality:
            base = {name: value for name, value in BASE.items() if name != "prompts_per_step"}
            return {**base, **UNTOUCHED, **self.changes, "quality": self.quality}
        total = round(steps * self.share) * (LONG if self.long or self.slow else 1) * (2 if self.scored else 1)
        scoring = {"score_every": total // (2 * CHECKPOINTS), "score_images": 10, "patience": 0} if self.scored else {}
        return {**BASE, **self.changes, **scoring, "steps": total, "checkpoint_every": total // CHECKPOINTS}

    @property
    def tuned(self) -> bool:
        """Whether weights of the U-Net are learnt."""
        return "class_images" in self.changes

    @property
    def masked(self) -> bool:
        """Whether it gets cut-outs; else the plain photos."""
        return self.inputs()["method"].endswith("+")


def _tuned(method: str, rate: float) -> dict:
    """A baseline that learns weights. Published rates are for SD1.5, and the toy's U-Net is a hundredth of its size: these are
    the rates that learn something here, and DreamBooth needs more steps than the others."""
    return {
        "method": method,
        "learning_rate_preset": "custom",
        "learning_rate": rate,
        "class_images": 40,
        "sample_steps": 12,
        "sample_cfg": 4.0,
    }


def _rate(method: str, rate: float) -> Configuration:
    changes = {"method": method, "learning_rate_preset": "custom", "learning_rate": rate}
    return Configuration(f"{method} lr {rate:g}", changes, curve=True)


CONFIGURATIONS = {
    c.name: c
    for c in (
        Configuration("floor", trained=False),
        Configuration("neti+", curve=True, attractors=True),
        Configuration("neti", {"method": "neti"}, curve=True, long=True),
        Configuration("textual_inversion+", {"method": "textual_inversion+"}, curve=True, attractors=True),
        Configuration("textual_inversion", {"method": "textual_inversion"}),
        Configuration("custom_diffusion", _tuned("custom_diffusion", 1e-3)),
        Configuration("dreambooth", _tuned("dreambooth", 1e-3), slow=True),
        Configuration("dreambooth, no prior", {**_tuned("dreambooth", 1e-3), "prior": "none"}, slow=True, scored=True),
        Configuration("dreambooth_lora", _tuned("dreambooth_lora", 4e-3), slow=True),
        *(
            Configuration(f"schedule {name}", {"contrast_schedule": name})
            for name in ("sigmoid", "linear", "exponential", "zero", "one")
        ),
        Configuration("mask only", _MASK_ONLY),
        Configuration("mask + prior", {**_MASK_ONLY, "prior_weight": 1.0}),
        Configuration("all prompts", {"prompts_per_step": "all"}),
        Configuration("all prompts, a third of the steps", {"prompts_per_step": "all"}, share=1 / 3),
        *(Configuration(f"quality {name}", quality=name) for name in ("quick", "balanced", "paper")),
        Configuration("word wrong", super_category="wrong"),
        Configuration("word neutral", super_category="neutral"),
        *(_rate(method, rate) for method, rates in RATES.items() for rate in rates),
    )
}

# The groups as they are shown: a configuration may stand in several, and is run once.
GROUPS = {
    "methods": ("floor", "textual_inversion", "textual_inversion+", "neti", "neti+"),
    "systems": (  # Fig. 5
        *("floor", "textual_inversion", "textual_inversion+", "neti", "neti+"),
        *("custom_diffusion", "dreambooth", "dreambooth_lora"),
    ),
    "prior": ("floor", "dreambooth, no prior", "dreambooth", "dreambooth_lora", "custom_diffusion"),
    "schedules": ("schedule zero", "neti+", "schedule sigmoid", "schedule linear", "schedule exponential", "schedule one"),
    "ladder": ("neti", "mask only", "mask + prior", "schedule zero", "neti+"),
    "words": ("neti+", "word wrong", "word neutral"),
    "prompts": ("floor", "neti+", "all prompts, a third of the steps", "all prompts"),
    "qualities": ("floor", "quality quick", "quality balanced", "quality paper"),
    "overfitting": ("neti",),
    "rates": (
        "floor",
        *(name for method, rates in RATES.items() for name in (*(f"{method} lr {rate:g}" for rate in rates), method)),
    ),
}
SHOWN_AS = {
    "ladder": {"neti": "no mask", "schedule zero": "mask + attractor", "neti+": "mask + attractor + contrast"},
    "schedules": {"neti+": "schedule cosine"},
    "words": {"neti+": "word right"},
    "prompts": {"neti+": "one prompt"},
    "rates": {"neti+": "neti+ lr 0.004 (preset neti)", "textual_inversion+": "textual_inversion+ lr 0.002 (its preset)"},
}


def chosen(names: list[str]) -> list[Configuration]:
    """Configurations by their names or their groups'; none named: all.

    Raises:
        ValueError: there is no such name.
    """
    if not names:
        return list(CONFIGURATIONS.values())
    unknown = [name for name in names if name not in CONFIGURATIONS and name not in GROUPS]
    if unknown:
        raise ValueError(
            f"no configuration or group is called {', '.join(unknown)}. Groups: {', '.join(GROUPS)}; "
            f"configurations: {', '.join(CONFIGURATIONS)}"
        )
    wanted = {own for name in names for own in GROUPS.get(name, (name,))}
    return [configuration for name, configuration in CONFIGURATIONS.items() if name in wanted]


def word_for(configuration: Configuration, category: str) -> str:
    """The super-category's word that a subject is trained with."""
    return {"right": category, "wrong": OTHER_CATEGORY[category], "neutral": NEUTRAL}[configuration.super_category]


def short_hash(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
