"""Widgets out of the rows of `trainer.settings`, and what Training Options hands on."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ...trainer.concept import PersonalizedToken
from ...trainer.settings import ROWS, TrainingSettings
from ..evaluation.encoders import EvaluationEncoders
from ..evaluation.pdst import Dataset

_DEFAULTS = TrainingSettings()


@dataclass(frozen=True)
class Options:
    """What the training node takes from Training Options: values of settings by name, what held-out scores need, and a token to
    start from."""

    settings: dict[str, Any]
    dataset: Dataset | None = None
    encoders: EvaluationEncoders | None = None
    start_from: PersonalizedToken | None = None


def settings_of(main: bool) -> list[str]:
    """Names of the settings on the training node, or of those on its options node, in the order of the widgets."""
    return [name for name, row in ROWS.items() if (row.group == "main") == main]


def widget(name: str, optional: bool = False) -> Any:
    """The input of a setting. optional: a graph in API format may leave it out, which means the default."""
    row, default = ROWS[name], getattr(_DEFAULTS, name)
    common = {"default": default, "tooltip": row.doc, "optional": optional}
    if row.choices:
        return io.Combo.Input(name, options=list(row.choices), **common)
    if isinstance(default, str):
        lines = {"multiline": True, "dynamic_prompts": False} if row.multiline else {}  # dynamic prompts would take {} out
        return io.String.Input(name, **common, **lines)
    if isinstance(default, bool):
        return io.Boolean.Input(name, **common)
    if isinstance(default, int):
        limits = {"min": int(row.minimum), "max": int(row.maximum), "step": int(row.step or 1)}
        # Said, because the frontend gives every input named seed a widget more, which would draw new seeds unasked.
        return io.Int.Input(name, **limits, **common, control_after_generate=False)
    # The frontend rounds to the step, which would cut small learning rates.
    low, exact = row.minimum if row.above is None else row.above, {"round": False} if row.above is not None else {}
    return io.Float.Input(name, min=low, max=min(row.maximum, 1e30), step=row.step, **common, **exact)
