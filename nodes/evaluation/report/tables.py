"""The report's tables, the same in the page, in Markdown and in CSV."""

from dataclasses import dataclass
from itertools import combinations

from ..metrics import DEFINITIONS, TITLES
from ..statistics import CONFIDENCE, Bootstrap, Difference, Estimate, difference, estimate
from .gather import FEW, Collected

HELD_OUT = ("clip_t", "clip_i", "dino")
CEILING = "real photos (ceiling)"
_FEW = 5  # units: an interval from fewer is a rough guess

Cell = str | int | float | Estimate | Difference | None


@dataclass(frozen=True)
class Table:
    """A table's cells and what the page says about it.

    name: for files. columns: the first is the row's heading. note: what its numbers are, a paragraph a line. aside: rows that
    are only there to compare with. best: whether to highlight each column's highest value among the other rows. folded: the
    page shows it closed, as it is long and few readers want it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    aside: frozenset[str] = frozenset()
    best: bool = False
    folded: bool = False


def held_out(data: Collected) -> list[str]:
    """The held-out scores that these results have."""
    return [name for name in HELD_OUT if name in data.scores]


def make_tables(data: Collected, bootstrap: Bootstrap, baseline: str = "") -> list[Table]:
    """Every table that can be made of these results, the most important first."""
    tables = [
        overall(data, bootstrap),
        gap(data, bootstrap),
        differences(data, bootstrap, baseline),
        kinds(data, bootstrap),
        per_subject(data, bootstrap),
        definitions(data),
        settings(data),
    ]
    return [table for table in tables if table is not None]


def overall(data: Collected, bootstrap: Bootstrap) -> Table:
    scores = held_out(data)
    rows: list[tuple[Cell, ...]] = [
        (system.name, *(system.estimate(score, bootstrap) for score in scores), len(system.images)) for system in data.systems
    ]
    rows.append((CEILING, *(ceiling(data, score) for score in scores), None))
    columns = ("System", *(TITLES[score] for score in scores), "Images")
    note = f"{_score_note(scores)}\n{interval_note(data)}"
    return Table("overall", "Held-out scores", columns, tuple(rows), note, _aside(data), best=True)


_MEANINGS = {
    "clip_t": "CLIP-T: does the image show what its caption says? CLIP, a network that matches images with texts, judges.",
    "clip_i": "CLIP-I: does the subject look as in the held-out photo, a photo that training never saw? CLIP compares the two.",
    "dino": "DINO: the same question. DINO is a network trained on images alone, and better at telling one dog from another.",
}


def _score_note(scores: list[str]) -> str:
    """What the scores and the two landmarks mean, for people who never read the paper."""
    return "\n".join(
        [
            " ".join(_MEANINGS[score] for score in scores),
            "Floor: what the model draws without a token, from the plain word (say, 'dog') in its place; a token should score "
            "higher on likeness. Ceiling: what real photos of the subject score when they are compared with each other.",
        ]
    )


def _aside(data: Collected) -> frozenset[str]:
    """Rows that are only there to compare with."""
    return frozenset([CEILING, *(system.name for system in data.systems if system.floor)])


def interval_note(data: Collected) -> str:
    """What the intervals mean, in words."""
    values = data.systems[0].values(data.scores[0])
    one = estimate(values, Bootstrap(2))
    text = (
        f"Each number is a mean over all images. Below it is a {CONFIDENCE:.0%} interval (bootstrap over {one.units} "
        f"{one.unit}s): where the mean might lie with other {one.unit}s."
    )
    if one.unit != "subject":
        text += " As there is only one subject, it says nothing about other subjects."
    if 1 < one.units < _FEW:
        text += f" An interval from {one.units} {one.unit}s is a rough guess."
    return text


def ceiling(data: Collected, score: str, subjects: list[str] | None = None) -> float | None:
    """What real photos score against each other: the mean over the subjects for which it is known."""
    found = [data.ceiling[name].get(score) for name in (data.subjects if subjects is None else subjects)]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else None


def gap(data: Collected, bootstrap: Bootstrap) -> Table | None:
    """Likeness to the training photos minus likeness to held-out photos: a token that memorised the former has a large gap."""
    pairs = [(score, f"{score}_train") for score in ("dino", "clip_i") if f"{score}_train" in data.scores]
    if not pairs:
        return None
    columns = ["System"]
    for score, _ in pairs:
        columns += [f"{TITLES[score]}, training photos", f"{TITLES[score]}, held-out", "Gap"]
    rows = []
    for system in data.systems:
        row: list[Cell] = [system.name]
        for score, train in pairs:
            apart = difference(system.values(train), system.values(score), bootstrap)
            row += [system.estimate(train, bootstrap), system.estimate(score, bootstrap), apart and apart.estimate]
        rows.append(tuple(row))
    row = [CEILING]
    for score, train in pairs:
        one, other = ceiling(data, train), ceiling(data, score)
        row += [one, other, None if one is None or other is None else one - other]
    rows.append(tuple(row))
    note = (
        "The gap is the score against the training photos minus the score against held-out photos, image by image. A token "
        "that overfits repeats its training photos, so its gap grows. The floor's gap is what there is without any training."
    )
    return Table("gap", "Training photos against held-out photos", tuple(columns), tuple(rows), note, _aside(data))


def differences(data: Collected, bootstrap: Bootstrap, baseline: str = "") -> Table | None:
    """Pairs of systems, compared image by image on the same prompts and seeds."""
    systems = data.compared
    names = {system.name: system for system in data.systems}
    if baseline in names:
        pairs = [(system, names[baseline]) for system in systems if system.name != baseline]
    elif len(systems) <= FEW:
        pairs = list(combinations(systems, 2))
    else:
        pairs = [(system, systems[0]) for system in systems[1:]]
    scores = held_out(data)
    rows: list[tuple[Cell, ...]] = []
    for one, other in pairs:
        found = [difference(one.values(score), other.values(score), bootstrap) for score in scores]
        known = [cell for cell in found if cell is not None]
        if len(known) == len(scores):
            rows.append((f"{one.name} − {other.name}", *known, known[0].estimate.images))
    if not rows:
        return None
    note = (
        "How much higher the first system scores than the second, compared image by image on the same captions and seeds; "
        "below it the interval, and the share of images on which the first is higher. If the interval does not contain 0, "
        "the difference would most likely have the same sign with other subjects (or photos)."
    )
    return Table("differences", "Paired differences", ("Systems", *(TITLES[s] for s in scores), "Images"), tuple(rows), note)


def kinds(data: Collected, bootstrap: Bootstrap) -> Table | None:
    present = [kind for kind in ("living", "rigid") if data.of_kind(kind)]
    if len(present) < 2:
        return None
    scores = held_out(data)
    rows: list[tuple[Cell, ...]] = []
    for kind in present:
        names = data.of_kind(kind)
        for system in data.systems:
            covered = len(system.subjects & set(names))
            if covered:
                estimates = [system.estimate(score, bootstrap, names) for score in scores]
                rows.append((f"{kind}: {system.name}", *estimates, covered))
        rows.append((f"{kind}: {CEILING}", *(ceiling(data, score, names) for score in scores), len(names)))
    columns = ("Kind and system", *(TITLES[s] for s in scores), "Subjects")
    aside = frozenset(f"{kind}: {name}" for kind in present for name in _aside(data))
    return Table("kinds", "Living and rigid subjects", columns, tuple(rows), aside=aside)


def per_subject(data: Collected, bootstrap: Bootstrap) -> Table:
    rows = []
    for name, subject in data.subjects.items():
        about = (subject["super_category"], subject["kind"])
        for system in data.systems:
            if name in system.subjects:
                found = [system.estimate(score, bootstrap, [name]) for score in data.scores]
                images = next((cell.images for cell in found if cell), 0)
                rows.append((f"{name}: {system.name}", *about, *found, images))
        real = [ceiling(data, score, [name]) for score in data.scores]
        rows.append((f"{name}: {CEILING}", *about, *real, None))
    columns = ("Subject", "Super-category", "Kind", *(TITLES[s] for s in data.scores), "Images")
    return Table("subjects", "Every subject", columns, tuple(rows), "Intervals are over the subject's own photos.", folded=True)


def definitions(data: Collected) -> Table:
    """How each score is computed, down to the weights' hash and the resizing filter: they change the numbers."""
    rows = []
    for score in data.scores:
        encoder = data.encoders["dino" if score.startswith("dino") else "clip"]
        images = sum(len(system.values(score)) for system in data.systems)
        pixels = "; ".join(encoder[key] for key in ("resize", "crop", "norm"))
        feature = encoder.get("feature", "projected image and text features; text: " + encoder.get("text", ""))
        made_by = (encoder["backbone"], encoder["weights"], pixels, feature, encoder["dtype"])
        rows.append((TITLES[score], DEFINITIONS[score], *made_by, images))
    columns = ("Score", "What it is", "Backbone", "Weights", "Pixels", "Feature", "Precision", "Images")
    note = (
        f"{CEILING}: for CLIP-I and DINO, the mean over all pairs of different held-out (or training) photos of a subject; "
        "for CLIP-T, held-out photos with their own captions. A system can exceed it: an image shows the same setting as the "
        "photo it is compared with, while a subject's photos differ in theirs. Floor: the super-category's word in place of "
        "the token."
    )
    return Table("definitions", "How each score is computed", columns, tuple(rows), note, folded=True)


def settings(data: Collected) -> Table:
    rows = [(name.replace("_", " "), str(value)) for name, value in data.settings.items()]
    rows.append(("evaluations", ", ".join(data.evaluations)))
    rows.append(("subjects", ", ".join(data.subjects)))
    spent = sum(data.seconds.values())
    if spent:
        rows.append(("time", f"{spent:.0f} s, of which {data.seconds['other'] / spent:.1%} was not sampling"))
    return Table("settings", "How the images were made", ("Setting", "Value"), tuple(rows), folded=True)


def plain(cell: Cell) -> tuple[str, str]:
    """A cell as text: its value, and what is shown below it."""
    if cell is None:
        return "–", ""
    if isinstance(cell, Difference):
        value, below = plain(cell.estimate)
        return _number(cell.estimate.mean, "+"), " · ".join(filter(None, [below, f"higher on {cell.wins:.0%}"]))
    if isinstance(cell, Estimate):
        return _number(cell.mean), _interval(cell)
    if isinstance(cell, float):
        return _number(cell), ""
    return str(cell), ""


def _interval(cell: Estimate) -> str:
    return "" if cell.low is None or cell.high is None else f"{_number(cell.low)} to {_number(cell.high)}"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("-", "−")
