"""A node's widgets out of the rows of `trainer.settings`: nothing about a setting is said a second time here."""

from typing import Any

from comfy_api.latest import io

from ...trainer.settings import ROWS, TrainingSettings

_DEFAULTS = TrainingSettings()


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
        return io.String.Input(name, **common)
    if isinstance(default, bool):
        return io.Boolean.Input(name, **common)
    if isinstance(default, int):
        after = {"control_after_generate": io.ControlAfterGenerate.fixed} if row.random else {}
        return io.Int.Input(name, min=int(row.minimum), max=int(row.maximum), step=int(row.step or 1), **common, **after)
    # The frontend rounds to the step, which would cut small learning rates.
    low, exact = row.minimum if row.above is None else row.above, {"round": False} if row.above is not None else {}
    return io.Float.Input(name, min=low, max=min(row.maximum, 1e30), step=row.step, **common, **exact)
