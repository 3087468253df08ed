"""The benchmark's report: tables, claims with their figures, sentences; as Markdown and JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from . import grid, measures
from .claims import OVERFITTING, Claim, make_claims
from .runs import Run, result_path
from .sheets import write_sheets
from .table import ALONE, METRICS, TRAIN_METRICS, Table, difference, estimate_of

COLUMNS = (*METRICS, *TRAIN_METRICS, *measures.MEASURES, ALONE)
SHARE = 0.8  # of the way from the plain word to the best score of any rate: what the rates are timed to
_RATES = {method: [name for name in grid.GROUPS["rates"] if name.split(" ")[0] == method] for method in grid.RATES}
_STEPS_OF_LADDER = tuple(zip(grid.GROUPS["ladder"], grid.GROUPS["ladder"][1:], strict=False))


def write(folder: Path, wanted: list[Run], out: Path) -> str:
    """Write report.md, report.json and contact sheets of the runs that are there into `out`; the Markdown."""
    results = [json.loads(path.read_text()) for run in wanted if (path := result_path(folder, run)).exists()]
    if not results:
        return "no run has ended yet"
    table = Table(results)
    claims = make_claims(table)
    out.mkdir(parents=True, exist_ok=True)
    sheets = write_sheets(folder, table, wanted, out)
    text = (
        "\n\n".join(
            [
                _head(table, wanted),
                *_tables(table),
                *_rate_tables(table),
                _claims(claims),
                _ladder(table),
                _prior(table),
                _definitions(),
                *(f"![{path.stem}]({path.name})" for path in sheets),
            ]
        )
        + "\n"
    )
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "report.json").write_text(json.dumps(_as_json(table, claims), indent=1), encoding="utf-8")
    return text


def overall_score(table: Table, configuration: str, step: int | None = None) -> float:
    """Geometric mean of the paper's metrics' means, as training chooses its best step by."""
    means = [max(table.mean(configuration, measure, step).mean, 0.0) for measure in METRICS]
    return math.prod(means) ** (1 / len(means))


def steps_to(curve: list[tuple[int, float]], target: float) -> int | None:
    """The first step of a curve of (step, score) whose score is `target` or more."""
    return next((step for step, value in curve if value >= target), None)


def _head(table: Table, wanted: list[Run]) -> str:
    runs, first = table.results, table.results[0]
    hours = sum(result["seconds"]["all"] for result in runs) / 3600
    subjects = sorted({result["subject"] for result in runs})
    seeds = sorted({result["seed"] for result in runs})
    return "\n".join(
        [
            "# Toy world benchmark",
            "",
            f"{len(runs)} of {len(wanted)} runs ({hours:.1f} h of one core): {len(subjects)} subjects ({', '.join(subjects)}), "
            f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. Compared at step {first['plan']['steps']}; batch "
            f"{grid.BASE['batch_size']}, prompts_per_step {grid.BASE['prompts_per_step']}. "
            f"Made with version {', '.join(sorted({result['version'] for result in runs}))}.",
            "",
            "Means over images, of the subjects and seeds that all rows of a table have; differences are image by image on the "
            "same prompts and noise; intervals are 95 %, by bootstrap over subjects. With few subjects they are too narrow "
            "rather than too wide.",
        ]
    )


def _tables(table: Table) -> list[str]:
    found = []
    for group, names in grid.GROUPS.items():
        rows = [name for name in names if name in table.configurations]
        if not rows or group in ("rates", "overfitting", "prior"):
            continue
        own, shown = table.shared(rows), _with_interval if group == "systems" else _number
        cost = own.cost if group in ("prompts", "qualities") else lambda _name: ()
        columns = (*COLUMNS, *(("steps", "minutes") if cost(rows[0]) else ()), "runs")
        lines = [f"## {group.capitalize()}", "", _row("", *columns), _rule(len(columns) + 1)]
        for name in rows:
            means = (shown(own.mean(name, column)) for column in COLUMNS)
            lines.append(_row(grid.SHOWN_AS.get(group, {}).get(name, name), *means, *cost(name), own.runs(name)))
        found.append("\n".join(lines))
    if len(steps := table.steps("neti")) > 1:
        lines = ["## Overfitting of NeTI (Fig. 1)", "", _row("step", *COLUMNS), _rule(len(COLUMNS) + 1)]
        lines += [_row(step, *(_number(table.mean("neti", column, step)) for column in COLUMNS)) for step in steps]
        found.append("\n".join(lines))
    if steps := table.scored_steps(OVERFITTING):
        names = (*METRICS, *TRAIN_METRICS)
        lines = ["## Overfitting of DreamBooth (Fig. 1)", "", "Scored by the training itself, without a prior loss.", ""]
        lines += [_row("step", *names), _rule(len(names) + 1)]
        for step in steps:
            lines.append(_row(step, *(_with_interval(estimate_of(table.scored(OVERFITTING, name, step))) for name in names)))
        found.append("\n".join(lines))
    return found


def _rate_tables(table: Table) -> list[str]:
    found = []
    for method, rates in rates_of(table).items():
        steps = rates["steps"]
        lines = [
            f"## Learning rates of {method}",
            "",
            f"{rates['runs']} runs each. Held-out score: geometric mean of CLIP-T, CLIP-I and DINO. Plain word "
            f"{rates['floor']:.4f}, best {rates['best']:.4f}; timed to {rates['target']:.4f}, {SHARE:.0%} of the way.",
            "",
            _row("rate", *(f"step {step}" for step in steps), "steps to it"),
            _rule(len(steps) + 2),
        ]
        for name, curve in rates["curves"].items():
            reached = steps_to(curve, rates["target"])
            lines.append(
                _row(
                    grid.SHOWN_AS["rates"].get(name, name),
                    *(f"{value:.4f}" for _, value in curve),
                    reached or f"not in {steps[-1]}",
                )
            )
        found.append("\n".join(lines))
    return found


def rates_of(table: Table) -> dict:
    """By method: the curves of its learning rates, and what they are timed to; methods with too few runs are left out."""
    found = {}
    for method, names in _RATES.items():
        run = [name for name in names if name in table.configurations]
        own = table.shared([*run, "floor"])
        if len(run) < 2 or not own.results:
            continue
        curves = {name: [(step, overall_score(own, name, step)) for step in own.steps(name)] for name in run}
        floor, best = overall_score(own, "floor"), max(value for curve in curves.values() for _, value in curve)
        found[method] = {
            "floor": floor,
            "best": best,
            "target": floor + SHARE * (best - floor),
            "curves": curves,
            "steps": [step for step, _ in next(iter(curves.values()))],
            "runs": own.runs("floor"),
        }
    return found


def _claims(claims: list[Claim]) -> str:
    lines = [
        "## The paper's claims",
        "",
        "A difference holds where its interval lies above 0, does not hold where it lies below 0, and else is undecided. "
        "A claim holds where all its differences do. Those in brackets stand beside it and do not count.",
        "",
        _row("claim", "difference", "measure", "mean", "95 % interval", "verdict"),
        _rule(6),
    ]
    for claim in claims:
        lines.append(_row(f"**{claim.name}**", "", "", "", "", f"**{claim.verdict}**"))
        for part in claim.parts:
            mean, interval = _difference(part.estimate)
            verdict = part.verdict if part.decides else f"({part.verdict})"
            lines.append(_row("", part.what, part.measure, mean, interval, verdict))
    return "\n".join([*lines, "", "In words:", "", *(f"- {claim.sentence()}" for claim in claims)])


def _ladder(table: Table) -> str:
    lines = ["## The ablation ladder, rung by rung", "", _row("rung", *COLUMNS), _rule(len(COLUMNS) + 1)]
    shown = grid.SHOWN_AS["ladder"]
    for before, after in _STEPS_OF_LADDER:
        found = [difference(table.values(after, column), table.values(before, column)) for column in COLUMNS]
        if all(found):
            cells = [f"{mean} {interval}" for mean, interval in map(_difference, found)]
            lines.append(_row(f"{shown.get(after, after)} - {shown.get(before, before)}", *cells))
    return "\n".join(lines)


def _prior(table: Table) -> str:
    """What the class's own word shows after weights were learnt: of the subject, and of the training photos' setting."""
    lines = ["## What is left of the class", "", _row("", "the subject in it", "the photos' setting in it", "runs"), _rule(4)]
    for name in grid.GROUPS["prior"]:
        kind = "class" if grid.CONFIGURATIONS[name].trained else "subject"  # of the plain model that is its word
        values = [table.alone(name, kind, measure) for measure in ("likeness", "confound")]
        if all(values):
            lines.append(_row(name, *(_number(estimate_of(own)) for own in values), table.runs(name)))
    return "\n".join(lines) if len(lines) > 4 else ""


def _definitions() -> str:
    lines = [f"- **{name}**: {text}." for name, text in measures.DEFINITIONS.items()]
    lines.append(
        f'- **{ALONE}**: how much of the training photos\' setting "a photo of <token>" shows, which asks for none: '
        "its place and its colour count half each (lower is better)."
    )
    return "\n".join(
        [
            "## What is measured",
            "",
            "- **clip_t, clip_i, dino** are the product's scores with encoders that were trained on the toy world: "
            "cosines, and no numbers to compare with any other model's.",
            "- **clip_i_train, dino_train**: the same against the training photos.",
            *lines,
        ]
    )


def _as_json(table: Table, claims: list[Claim]) -> dict:
    means = {
        name: {
            str(step): {
                column: asdict(estimate) for column in COLUMNS if (estimate := table.mean(name, column, step)) is not None
            }
            for step in table.steps(name)
        }
        for name in table.configurations
    }
    return {
        "runs": [
            {key: result[key] for key in ("configuration", "subject", "seed", "inputs", "seconds", "version")}
            for result in table.results
        ],
        "means": means,
        "rates": rates_of(table),
        "claims": [
            {
                "name": claim.name,
                "verdict": claim.verdict,
                "sentence": claim.sentence(),
                "parts": [
                    {
                        "what": part.what,
                        "measure": part.measure,
                        "decides": part.decides,
                        "verdict": part.verdict,
                        "estimate": part.estimate and asdict(part.estimate),
                    }
                    for part in claim.parts
                ],
            }
            for claim in claims
        ],
    }


def _row(*cells) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def _number(estimate) -> str:
    return "" if estimate is None else f"{estimate.mean:.3f}"


def _with_interval(estimate) -> str:
    if estimate is None or estimate.low is None:
        return _number(estimate)
    return f"{estimate.mean:.2f} ({estimate.low:.2f} … {estimate.high:.2f})"


def _difference(estimate) -> tuple[str, str]:
    if estimate is None:
        return "", ""
    interval = "" if estimate.low is None else f"{estimate.low:+.3f} … {estimate.high:+.3f}"
    return f"{estimate.mean:+.3f}", interval
