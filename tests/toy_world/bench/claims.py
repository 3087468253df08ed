"""The paper's claims as differences that have to be above 0, and one rule for what is made of them."""

from dataclasses import dataclass, field

from .table import ALONE, METRICS, Table, change, difference

OVERFITTING = "dreambooth, no prior"
HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"


def verdict(low: float | None, high: float | None) -> str:
    """Of a difference that is claimed to be above 0, by its 95 % interval; None: a single unit tells nothing."""
    if low is None or high is None:
        return UNDECIDED
    return HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED


def overall(verdicts: list[str]) -> str:
    """Of a claim that says several things: it holds where all of them do, and does not where one of them does not."""
    for found in (FAILS, NOT_RUN, UNDECIDED):
        if found in verdicts:
            return found
    return HOLDS


@dataclass(frozen=True)
class Part:
    """One difference of a claim. estimate: None where it was not run. decides: counts for the verdict."""

    what: str
    measure: str
    estimate: object
    decides: bool = True

    @property
    def verdict(self) -> str:
        return verdict(self.estimate.low, self.estimate.high) if self.estimate else NOT_RUN


@dataclass(frozen=True)
class Claim:
    name: str
    text: str  # what the paper says
    parts: list[Part] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return overall([part.verdict for part in self.parts if part.decides])

    def sentence(self) -> str:
        """In plain words."""
        deciding = [part for part in self.parts if part.decides]
        if self.verdict == NOT_RUN:
            return f"{self.text}: not all of its configurations were run."
        against = [f"{part.what}, {part.measure}" for part in deciding if part.verdict == FAILS]
        open_ = [f"{part.what}, {part.measure}" for part in deciding if part.verdict == UNDECIDED]
        if self.verdict == HOLDS:
            return f"{self.text}: it does here, on all {len(deciding)} comparisons."
        if against:
            return f"{self.text}: it does not here, as the opposite was found for {'; '.join(against)}."
        return f"{self.text}: not decided by these runs, as 0 lies in the interval for {'; '.join(open_)}."


def make_claims(table: Table) -> list[Claim]:
    """Every claim of the paper that the toy world can put to the test."""
    return [
        Claim(
            "TI+ > TI",
            "Attractors improve Textual Inversion on all metrics",
            _above(table, "textual_inversion+", "textual_inversion"),
        ),
        Claim("NeTI+ > NeTI", "Attractors improve NeTI on all metrics", _above(table, "neti+", "neti")),
        Claim("NeTI best base", "Of the base methods NeTI is best (here: of two)", _above(table, "neti", "textual_inversion")),
        Claim(
            "cosine, sigmoid > zero",
            "A contrast weight that starts low is better than none (cosine, sigmoid)",
            [*_above(table, "neti+", "schedule zero", "cosine"), *_above(table, "schedule sigmoid", "schedule zero")],
        ),
        Claim(
            "zero > exponential, one",
            "A contrast weight that is heavy from the start is worse than none (exponential, one)",
            [*_above(table, "schedule zero", "schedule exponential"), *_above(table, "schedule zero", "schedule one")],
        ),
        Claim(
            "Fig. 1",
            "While NeTI overfits, held-out scores fall and those on the training photos do not",
            _overfitting(table, "neti"),
        ),
        Claim(
            "Fig. 1, DreamBooth",
            "While DreamBooth overfits, held-out scores fall and those on the training photos do not",
            _overfitting_of_dreambooth(table),
        ),
        *(
            Claim(
                f"Fig. 9, {method}",
                f"An attractor ({method}) holds the photos' background and not the subject",
                _attractors(table, method),
            )
            for method in ("neti+", "textual_inversion+")
        ),
    ]


def _above(table: Table, one: str, other: str, one_name: str = "") -> list[Part]:
    """The paper's metrics decide; the ground truth's measures stand beside them. Less leak is better."""

    def part(measure: str, decides: bool) -> Part:
        pair = table.values(one, measure), table.values(other, measure)
        less = measure in ("leak", ALONE)
        estimate = difference(*(reversed(pair) if less else pair))
        return Part(f"{one_name or one} - {other}", f"less {measure}" if less else measure, estimate, decides)

    beside = ("subject", "leak", ALONE, "scene")
    return [*(part(measure, True) for measure in METRICS), *(part(measure, False) for measure in beside)]


def _overfitting(table: Table, configuration: str) -> list[Part]:
    """From the step at which all methods are compared to LONG times as many."""
    steps = table.steps(configuration)
    if len(steps) < 2:
        return [Part("held-out scores fall", measure, None) for measure in ("dino", "clip_t")]
    first, last = steps[0], steps[-1]

    def at(measure: str, step: int) -> dict:
        return table.values(configuration, measure, step)

    def changed(measure: str) -> dict:
        return change(at(measure, first), at(measure, last))

    fall = f"held-out scores fall, step {first} - step {last}"
    apart = "training photos' change - held-out change"
    return [
        *(Part(fall, measure, difference(at(measure, first), at(measure, last))) for measure in ("dino", "clip_t")),
        Part(apart, "dino", difference(changed("dino_train"), changed("dino"))),
        Part(fall, "clip_i", difference(at("clip_i", first), at("clip_i", last)), False),
        Part(apart, "clip_i", difference(changed("clip_i_train"), changed("clip_i")), False),
        *(
            Part(
                f"training photos' change, step {last} - step {first}",
                measure,
                difference(at(measure, last), at(measure, first)),
                False,
            )
            for measure in ("dino_train", "clip_i_train")
        ),
        Part(f"leak rises, step {last} - step {first}", "leak", difference(at("leak", last), at("leak", first)), False),
    ]


def _overfitting_of_dreambooth(table: Table) -> list[Part]:
    """From the middle, where DreamBooth is compared with others, to the end."""
    steps = table.scored_steps(OVERFITTING)
    if len(steps) < 2:
        return [Part("held-out scores fall", measure, None) for measure in ("dino", "clip_t")]

    def at(measure: str, step: int) -> dict:
        return table.scored(OVERFITTING, measure, step)

    def changed(measure: str) -> dict:
        return change(at(measure, middle), at(measure, last))

    middle, last = steps[len(steps) // 2 - 1], steps[-1]
    fall = f"held-out scores fall, step {middle} - step {last}"
    return [
        *(Part(fall, measure, difference(at(measure, middle), at(measure, last))) for measure in ("dino", "clip_t")),
        Part("training photos' change - held-out change", "dino", difference(changed("dino_train"), changed("dino"))),
    ]


def _attractors(table: Table, configuration: str) -> list[Part]:
    def of(kind: str, measure: str) -> dict:
        return table.alone(configuration, kind, measure)

    return [
        Part(
            "the photos' setting in A* - in the word 'background'",
            "confound",
            difference(of("attractor", "confound"), of("word", "confound")),
        ),
        Part("a subject in v* - in A*", "present", difference(of("subject", "present"), of("attractor", "present"))),
    ]
