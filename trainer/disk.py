"""How large the files of a run will be, from its settings alone: to be said, and checked, before the work."""

import math
from dataclasses import dataclass, replace

from .methods import WEIGHTS
from .own_prompts import sample_prompts
from .settings import TrainingSettings
from .token_check import MapperConfig, mapper_shapes

MANY_PHOTOS = 20  # up to so many, step files hold the attractors too
_VALUE, _CURVE_VALUE = 4, 8 + 22  # bytes of a float32; of a curve's point, in the state and as text
_HEADER = 8_000  # of a token's file or a state, with settings and record; roughly
_ATTRACTOR_HEADER = 1_500  # what an attractor adds to it
_CHARTS = 1_000_000


@dataclass(frozen=True)
class RunFiles:
    """Bytes of a run's files, and how many step files and samples there will be."""

    token: int
    step_file: int
    state: int
    sample: int
    other: int  # charts, curves and pictures of the class
    step_files: int
    samples: int

    @property
    def total(self) -> int:
        """All of them together, the best step's token and what is there for a moment while a file is replaced included."""
        kept = (self.step_files + 1) * self.step_file + self.samples * self.sample
        return kept + self.token + self.state + max(self.token, self.state) + self.other

    def __str__(self) -> str:
        parts = [f"a state of {megabytes(self.state)}", f"a token of {megabytes(self.token)}"]
        if self.step_files:
            files = "a step file" if self.step_files == 1 else f"{self.step_files:,} step files"
            parts.insert(0, f"{files} of {megabytes(self.step_file)}")
        return f"{', '.join(parts)}: {megabytes(self.total)} in all"


def run_files(settings: TrainingSettings, photos: int, width: int, weights: int = 0) -> RunFiles:
    """The files of a run on so many photos. width: of the text encoder. weights: numbers that are learnt of the U-Net."""
    subject = settings.vectors * _values(width, settings.kind == "neti") + weights
    attractor = _values(width, has_mappers(settings)) if settings.uses_attractor else 0
    attractors = photos if settings.uses_attractor else 0
    values, header = subject + attractors * attractor, _HEADER + attractors * _ATTRACTOR_HEADER
    token = _VALUE * values + header
    curves = _CURVE_VALUE * (len(settings.loss_weights) + 4) * settings.steps
    of_class = settings.class_images if settings.class_prior == "generated" else 0
    return RunFiles(
        token=token,
        step_file=token if photos <= MANY_PHOTOS else _VALUE * subject + _HEADER,
        state=(3 if settings.optimizer == "adamw" else 1) * _VALUE * values + 3 * header + curves,  # and two moments
        sample=2 * settings.resolution**2,
        other=curves + _CHARTS + of_class * 2 * settings.resolution**2,
        step_files=_times(settings.steps, settings.checkpoint_every) if keeps_steps(settings) else 0,
        samples=_times(settings.steps, settings.sample_every) * len(sample_prompts(settings)),
    )


def keeps_steps(settings: TrainingSettings) -> bool:
    """Whether each checkpoint gets a file of its own; of methods that write gigabytes the last and the best are kept only."""
    return settings.learns != WEIGHTS


def has_mappers(settings: TrainingSettings) -> bool:
    """Whether each photo gets a mapper, not a plain embedding."""
    return settings.uses_attractor and settings.kind == "neti" and settings.attractor_kind == "mapper"


def smaller_offer(settings: TrainingSettings, photos: int, width: int) -> str:
    """What to choose instead of a mapper for each of many photos; empty if there are few, or no mappers."""
    if photos <= MANY_PHOTOS or not has_mappers(settings):
        return ""
    now, then = (run_files(chosen, photos, width) for chosen in (settings, replace(settings, attractor_kind="embedding")))
    return (
        f"{photos} photos with a mapper each make a token of {megabytes(now.token)} and a state of {megabytes(now.state)}; "
        f"attractor_kind 'embedding' in Training Options makes that {megabytes(then.token)} and {megabytes(then.state)}"
    )


def megabytes(size: int) -> str:
    return f"{size / 1024**2:,.0f} MB" if size >= 1024**2 else "under 1 MB"


def _values(width: int, mapper: bool) -> int:
    """Numbers in a token: a mapper's, or an embedding's."""
    return sum(math.prod(shape) for shape in mapper_shapes(MapperConfig(width=width)).values()) if mapper else width


def _times(steps: int, every: int) -> int:
    return steps // every if every else 0
