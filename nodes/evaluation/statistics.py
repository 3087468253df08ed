"""Means with bootstrap intervals, and differences between systems on the same prompts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
UNITS = ("subject", "photo", "caption", "image")  # what is resampled, from the widest to the narrowest

Key = tuple[str, str, str, int]  # of an image: subject, photo, caption, index: the same in every system


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: `resamples` times, units are drawn with replacement, always in the same way for a seed."""

    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over `images`, and the interval in which it may lie for other `unit`s. units: how many of them there are.

    low, high: None if there is a single unit, which tells nothing.
    """

    mean: float
    low: float | None
    high: float | None
    images: int
    units: int
    unit: str


@dataclass(frozen=True)
class Difference:
    """One system's score minus another's, image by image on the same prompts. wins: share of images where it is higher."""

    estimate: Estimate
    wins: float


def unit_of(keys: list[Key]) -> str:
    """What is resampled: subjects if there are several, else photos, else captions, else images."""
    for depth, unit in enumerate(UNITS[:-1], 1):
        if len({key[:depth] for key in keys}) > 1:
            return unit
    return UNITS[-1]


def estimate(values: Mapping[Key, float], bootstrap: Bootstrap, unit: str | None = None) -> Estimate:
    """Mean over all images, with a percentile interval over units.

    Images of a unit stay together: those of one subject are alike, and taken one by one they would make any interval
    too narrow.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to take a mean of")
    unit = unit or unit_of(list(values))
    depth = UNITS.index(unit) + 1
    sums: dict[tuple[str | int, ...], list[float]] = {}
    for key, value in values.items():
        sums.setdefault(key[:depth], []).append(value)
    groups = [sums[name] for name in sorted(sums)]
    totals = np.array([math.fsum(group) for group in groups])  # exact: the order of images must not matter
    counts = np.array([len(group) for group in groups])
    low, high = _interval(totals, counts, bootstrap) if len(groups) > 1 else (None, None)
    return Estimate(math.fsum(values.values()) / len(values), low, high, len(values), len(groups), unit)


def _interval(totals: np.ndarray, counts: np.ndarray, bootstrap: Bootstrap) -> tuple[float, float]:
    """Percentiles of the mean over images when units are drawn with replacement. totals, counts: (units,)."""
    drawn = np.random.default_rng(bootstrap.seed).multinomial(
        len(totals), np.full(len(totals), 1 / len(totals)), size=bootstrap.resamples
    )  # (resamples, units): how often each was drawn
    means = (drawn @ totals) / (drawn @ counts)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def difference(one: Mapping[Key, float], other: Mapping[Key, float], bootstrap: Bootstrap) -> Difference | None:
    """How much higher `one` is than `other` on the images that both have; None if they share none."""
    shared = {key: value - other[key] for key, value in one.items() if key in other}
    if not shared:
        return None
    wins = sum((value > 0) + 0.5 * (value == 0) for value in shared.values()) / len(shared)
    return Difference(estimate(shared, bootstrap), wins)
