"""How thoroughly to train, in words that people choose by: a row each, with the settings that it decides."""

from typing import Any

QUALITIES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 150, "batch_size": 4},
    "balanced": {},  # the settings' own defaults
    "paper": {"prompts_per_step": "all", "patience": 0},
}


def with_quality(chosen: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What a person chose, with what the preset `quality` says of those settings that stand at their defaults.

    Nothing tells a default that was chosen from one that was left.
    """
    preset = QUALITIES.get(chosen.get("quality", defaults["quality"]), {})
    left = {name: value for name, value in preset.items() if chosen.get(name, defaults[name]) == defaults[name]}
    return {**chosen, **left}


def in_words() -> str:
    """What each preset sets, as sentences."""
    return " ".join(f"{name}: {_listed(row) or 'the defaults'}." for name, row in QUALITIES.items())


def quality_note(settings: Any) -> str:
    """What of a run's settings its preset has decided; empty if nothing."""
    row = QUALITIES[settings.quality]
    decided = {name: value for name, value in row.items() if getattr(settings, name) == value}
    return f"quality {settings.quality}: {_listed(decided)}" if decided else ""


def _listed(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())
