"""What is known of a setting beside its type and default: the row that `settings.py` writes for each."""

import math
from dataclasses import dataclass, field
from typing import Any

GROUPS = {
    "main": "On the training node",
    "losses": "Photos, losses and optimiser",
    "attractor": "Attractors and mapper",
    "weights": "DreamBooth and Custom Diffusion",
    "memory": "Memory: the result does not depend on these beyond rounding",
    "scoring": "Scores, samples and checkpoints",
}


@dataclass(frozen=True)
class Row:
    """What is known of a setting beside its type and default.

    minimum, maximum: limits, inclusive. above: exclusive lower limit. step: of a widget's arrows. choices: of a text.
    multiline: a text of several lines. free: a resumed run may change it, as it changes no result of a step. before: what
    runs had that were saved when the setting did not exist.
    """

    doc: str
    group: str
    minimum: float = -math.inf
    maximum: float = math.inf
    above: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    multiline: bool = False
    free: bool = False
    before: Any = None

    def problem(self, name: str, value: Any) -> str | None:
        """Why `value` cannot be, with the remedy; None if it can."""
        if self.choices:
            allowed = value in self.choices
            return None if allowed else f"{name} is {value!r}: choose one of {', '.join(self.choices)}."
        if isinstance(value, str):
            return None
        # All comparisons are false for NaN.
        if self.minimum <= value <= self.maximum and abs(value) < math.inf and (self.above is None or value > self.above):
            return None
        return f"{name} is {value}: use {self.limits()}."

    def limits(self) -> str:
        """What is allowed, in words; empty if anything is."""
        if self.choices:
            return ", ".join(self.choices)
        if self.above is not None:
            most = f", at most {self.maximum:g}" if self.maximum < math.inf else ""
            return f"a number above {self.above:g}{most}"
        if self.maximum < math.inf:
            return f"{self.minimum:g} to {self.maximum:g}"
        return f"{self.minimum:g} or more" if self.minimum > -math.inf else ""


def setting(default: Any, doc: str, group: str = "main", **more: Any) -> Any:
    """A field of `TrainingSettings` with its row; `more` as in `Row`."""
    return field(default=default, metadata={"row": Row(doc, group, **more)})
