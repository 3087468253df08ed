"""The report's tables, the same in the page, in Markdown and in CSV."""

from dataclasses import dataclass
from itertools import combinations

from ..metrics import DEFINITIONS
from ..statistics import CONFIDENCE, Bootstrap, Difference, Estimate, difference, estimate
from .gather import FEW, Collected

TITLES = {
    "clip_t": "CLIP-T",
    "clip_i": "CLIP-I",
    "dino": "DINO",
    "clip_i_train": "CLIP-I, training photos",
    "dino_train": "DINO, training photos",
}
HELD_OUT = ("clip_t", "clip_i", "dino")
CEILING = "real photos (ceiling)"
_FEW = 5  # units, below which an interval is a rough guess

Cell = str | int | float | Estimate | Difference | None


@dataclass(frozen=True)
class Table:
    """name: for files. columns: the first is a row's heading. best: columns in which the highest of the rows that are not
    `aside` is set off. folded: shown closed, as its rows are many and of interest to few."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    aside: frozenset[str] = frozenset()
    best: bool = False
    folded: bool = False


def held_out(data: Collected) -> list[str]:
    """The held-out scores that are there."""
    return [name for name in HELD_OUT if name in data.scores]


def make_tables(data: Collected, bootstrap: Bootstrap, baseline: str = "") -> list[Table]:
    """All tables that the results allow, the most wanted first."""
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
    rows = [
        (system.name, *(system.estimate(score, bootstrap) for score in scores), len(system.images)) for system in data.systems
    ]
    rows.append((CEILING, *(ceiling(data, score) for score in scores), None))
    return Table(
        "overall",
        "Held-out scores",
        ("System", *(TITLES[s] for s in scores), "Images"),
        tuple(rows),
        interval_note(data),
        _aside(data),
        best=True,
    )


def _aside(data: Collected) -> frozenset[str]:
    """Rows that compete with none."""
    return frozenset([CEILING, *(system.name for system in data.systems if system.floor)])


def interval_note(data: Collected) -> str:
    """What the intervals are, in words."""
    values = data.systems[0].values(data.scores[0])
    one = estimate(values, Bootstrap(2))
    text = f"Mean over all images; below it the {CONFIDENCE:.0%} bootstrap interval over {one.unit}s ({one.units} of them)"
    if one.unit != "subject":
        text += (
            f": there is only one subject, so it says nothing about other subjects, only about other {one.unit}s of this one"
        )
    if 1 < one.units < _FEW:
        text += f". An interval from {one.units} {one.unit}s is a rough guess"
    return text + "."


def ceiling(data: Collected, score: str, subjects: list[str] | None = None) -> float | None:
    """Real against real: mean over subjects that have one."""
    found = [data.ceiling[name].get(score) for name in (data.subjects if subjects is None else subjects)]
    found = [value for value in found if value is not None]
    return sum(found) / len(found) if found else None


def gap(data: Collected, bootstrap: Bootstrap) -> Table | None:
    """Fig. 1: a token that has learnt its training photos by heart is near to them, and not nearer to held-out ones."""
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
        "The gap is training minus held-out, image by image. Training photos are the biased measure: a token that overfits "
        "stays near to them while it loses the held-out photos. A gap that is larger than the floor's is what it learnt of "
        "its training photos alone."
    )
    return Table("gap", "Training photos against held-out photos", tuple(columns), tuple(rows), note, _aside(data))


def differences(data: Collected, bootstrap: Bootstrap, baseline: str = "") -> Table | None:
    """Systems against each other, image by image on the same prompts and seeds."""
    systems = data.compared
    names = {system.name: system for system in data.systems}
    if baseline in names:
        pairs = [(system, names[baseline]) for system in systems if system.name != baseline]
    elif len(systems) <= FEW:
        pairs = list(combinations(systems, 2))
    else:
        pairs = [(system, systems[0]) for system in systems[1:]]
    scores, rows = held_out(data), []
    for one, other in pairs:
        found = [difference(one.values(score), other.values(score), bootstrap) for score in scores]
        if all(found):
            rows.append((f"{one.name} − {other.name}", *found, found[0].estimate.images))
    if not rows:
        return None
    note = (
        "Mean of the differences between images of the same caption and number, with its interval; below it, on how many "
        "of the images the first is higher. Where an interval does not hold 0, other subjects (or photos) would most "
        "likely show the same sign."
    )
    return Table("differences", "Paired differences", ("Systems", *(TITLES[s] for s in scores), "Images"), tuple(rows), note)


def kinds(data: Collected, bootstrap: Bootstrap) -> Table | None:
    present = [kind for kind in ("living", "rigid") if data.of_kind(kind)]
    if len(present) < 2:
        return None
    scores, rows = held_out(data), []
    for kind in present:
        names = data.of_kind(kind)
        for system in data.systems:
            if system.subjects & set(names):
                rows.append(
                    (
                        f"{kind}: {system.name}",
                        *(system.estimate(s, bootstrap, names) for s in scores),
                        len(system.subjects & set(names)),
                    )
                )
        rows.append((f"{kind}: {CEILING}", *(ceiling(data, score, names) for score in scores), len(names)))
    columns = ("Kind and system", *(TITLES[s] for s in scores), "Subjects")
    return Table(
        "kinds",
        "Living and rigid subjects",
        columns,
        tuple(rows),
        aside=frozenset(f"{k}: {n}" for k in present for n in _aside(data)),
    )


def per_subject(data: Collected, bootstrap: Bootstrap) -> Table:
    rows = []
    for name, subject in data.subjects.items():
        for system in data.systems:
            if name in system.subjects:
                found = [system.estimate(score, bootstrap, [name]) for score in data.scores]
                images = next((cell.images for cell in found if cell), 0)
                rows.append((f"{name}: {system.name}", subject["super_category"], subject["kind"], *found, images))
        rows.append(
            (
                f"{name}: {CEILING}",
                subject["super_category"],
                subject["kind"],
                *(ceiling(data, score, [name]) for score in data.scores),
                None,
            )
        )
    columns = ("Subject", "Super-category", "Kind", *(TITLES[s] for s in data.scores), "Images")
    return Table("subjects", "Every subject", columns, tuple(rows), "Intervals over the subject's photos.", folded=True)


def definitions(data: Collected) -> Table:
    """What each score is: without it a number means nothing."""
    rows = []
    for score in data.scores:
        encoder = data.encoders["dino" if score.startswith("dino") else "clip"]
        images = sum(len(system.values(score)) for system in data.systems)
        pixels = "; ".join(encoder[key] for key in ("resize", "crop", "norm"))
        feature = encoder.get("feature", "projected image and text features; text: " + encoder.get("text", ""))
        rows.append(
            (
                TITLES[score],
                DEFINITIONS[score],
                encoder["backbone"],
                encoder["weights"],
                pixels,
                feature,
                encoder["dtype"],
                images,
            )
        )
    columns = ("Score", "What it is", "Backbone", "Weights", "Pixels", "Feature", "Precision", "Images")
    note = (
        f"{CEILING}: for CLIP-I and DINO the mean over all pairs of different held-out (or training) photos of a subject, "
        "for CLIP-T held-out photos with their own captions. It is a mark to measure by, and no limit: an image has the "
        "setting of the photo that it is compared with, and a subject's photos differ in theirs. Floor: the "
        "super-category's word in place of the token."
    )
    return Table("definitions", "How each score is computed", columns, tuple(rows), note, folded=True)


def settings(data: Collected) -> Table:
    rows = [(name.replace("_", " "), str(value)) for name, value in data.settings.items()]
    rows.append(("evaluations", ", ".join(data.evaluations)))
    rows.append(("subjects", ", ".join(data.subjects)))
    spent = sum(data.seconds.values())
    if spent:
        rows.append(("time", f"{spent:.0f} s, {data.seconds['other'] / spent:.1%} of it for anything but sampling"))
    return Table("settings", "How the images were made", ("Setting", "Value"), tuple(rows), folded=True)


def plain(cell: Cell) -> tuple[str, str]:
    """A cell as text: the value, and what belongs below it."""
    if cell is None:
        return "–", ""
    if isinstance(cell, Difference):
        value, below = plain(cell.estimate)
        return _number(cell.estimate.mean, "+"), " · ".join(filter(None, [below, f"higher on {cell.wins:.0%}"]))
    if isinstance(cell, Estimate):
        return _number(cell.mean), "" if cell.low is None else f"{_number(cell.low)} to {_number(cell.high)}"
    if isinstance(cell, float):
        return _number(cell), ""
    return str(cell), ""


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("-", "−")
