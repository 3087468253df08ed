"""The report's numbers: they are those of the results, its intervals mean what they say, and systems are what they seem."""

import csv
import io
import json

import numpy as np
import pytest

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.report.exports import make_csv, make_jsonl, make_markdown
from attractor.nodes.evaluation.report.figures import curves, intervals
from attractor.nodes.evaluation.report.gather import collect
from attractor.nodes.evaluation.report.tables import CEILING as CEILING_ROW
from attractor.nodes.evaluation.report.tables import make_tables
from attractor.nodes.evaluation.statistics import Bootstrap, Difference, Estimate, difference, estimate, unit_of
from pdst_results import CEILING, CORGI, ENCODERS, SUBJECTS, write_checkpoints, write_demonstration, write_entry
from report_parts import FAST, MEANS, page_of, tables_of

pytestmark = pytest.mark.one_host


def row(table, name):
    return dict(zip(table.columns, next(r for r in table.rows if r[0] == name), strict=True))


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "methods"
    write_demonstration(folder, pictures=False)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "checkpoints"
    write_checkpoints(folder)
    return folder


def records_of(folder, part):
    return [json.loads(line) for path in sorted(folder.glob(part)) for line in path.read_text().splitlines()[1:]]


# --- intervals ---------------------------------------------------------------------------------------


def subjects_and_images(rng, subjects=12, images=8, between=0.1, within=0.05):
    """Scores around 0 whose subjects differ more than their images."""
    return {
        (f"s{s}", "p", "c", i): mean + within * rng.normal()
        for s, mean in enumerate(between * rng.normal(size=subjects))
        for i in range(images)
    }


def test_an_interval_is_the_percentile_bootstrap_over_subjects():
    from scipy.stats import bootstrap

    values = subjects_and_images(np.random.default_rng(0))
    means = np.array([v for v in values.values()]).reshape(12, 8).mean(1)  # equally many images: a mean of means
    theirs = bootstrap((means,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))
    own = estimate(values, Bootstrap(20_000, 3))
    assert own.mean == pytest.approx(means.mean()) and (own.unit, own.units, own.images) == ("subject", 12, 96)
    width = own.high - own.low
    assert own.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert own.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


def test_intervals_hold_the_truth_as_often_as_they_say_and_intervals_over_images_would_not():
    rng, holds = np.random.default_rng(5), {"subject": 0, "image": 0}
    for _ in range(200):
        values = subjects_and_images(rng, subjects=20)
        for unit in holds:
            found = estimate(values, Bootstrap(300), unit)
            holds[unit] += found.low <= 0 <= found.high
    assert 0.87 <= holds["subject"] / 200 <= 0.99 and holds["image"] / 200 < 0.75, holds


def test_a_subject_with_more_images_weighs_more_in_mean_and_interval_alike():
    values = {("a", "p", "c", i): 1.0 for i in range(9)} | {("b", "p", "c", 0): 0.0}
    found = estimate(values, Bootstrap(2000))
    assert found.mean == 0.9 and found.low == 0.0 and found.high == 1.0


@pytest.mark.parametrize(
    "keys, unit",
    [
        ([("a", "p", "c", 0), ("b", "p", "c", 0)], "subject"),
        ([("a", "p", "c", 0), ("a", "q", "c", 0)], "photo"),
        ([("a", "p", "c", 0), ("a", "p", "d", 0)], "caption"),
        ([("a", "p", "c", 0), ("a", "p", "c", 1)], "image"),
    ],
)
def test_what_is_drawn_is_the_widest_of_which_there_are_several(keys, unit):
    assert unit_of(keys) == unit
    found = estimate({key: float(i) for i, key in enumerate(keys)}, FAST)
    assert (found.unit, found.units, found.low, found.high) == (unit, 2, 0.0, 1.0)


def test_one_image_has_no_interval_and_none_no_mean():
    assert estimate({("a", "p", "c", 0): 0.5}, FAST) == Estimate(0.5, None, None, 1, 1, "image")
    with pytest.raises(ValueError, match="no values"):
        estimate({}, FAST)


def test_the_same_seed_gives_the_same_interval_and_another_another():
    values = subjects_and_images(np.random.default_rng(2))
    assert estimate(values, Bootstrap(200, 7)) == estimate(dict(reversed(values.items())), Bootstrap(200, 7))
    assert estimate(values, Bootstrap(200, 7)) != estimate(values, Bootstrap(200, 8))


def test_a_difference_is_paired_by_image():
    """Two systems that differ by little, on subjects that differ by much: apart they cannot be told from each other."""
    rng = np.random.default_rng(1)
    one = subjects_and_images(rng, between=1.0)
    other = {key: value - 0.02 + 0.01 * rng.normal() for key, value in one.items()}
    found = difference(one, {**other, ("new", "p", "c", 0): 9.0}, FAST)
    assert found.estimate.mean == pytest.approx(0.02, abs=0.004) and found.estimate.images == 96
    assert 0 < found.estimate.low < found.estimate.high < 0.04
    assert found.wins == np.mean([one[key] > other[key] for key in one])
    apart = [estimate(values, FAST) for values in (one, other)]
    assert apart[0].low < apart[1].high
    assert difference(one, {("z", "p", "c", 0): 1.0}, FAST) is None
    assert difference(one, one, FAST).wins == 0.5


# --- systems -----------------------------------------------------------------------------------------


def test_tokens_of_a_method_are_one_system_over_their_subjects(methods):
    data = collect([methods])
    assert [s.name for s in data.systems] == ["NeTI", "NeTI+", "TI", "TI+", "floor"] and not data.series
    assert all(s.subjects == set(SUBJECTS) and len(s.images) == 48 for s in data.systems)
    assert len(collect([methods], "token").systems) == 4 * 6 + 1


def test_checkpoints_are_a_series_in_the_order_of_steps(checkpoints):
    data = collect([checkpoints])
    assert [s.name for s in data.systems] == [*(f"my-dog-neti-step-{n}00" for n in range(1, 6)), "floor"]
    assert {name: [s.step for s in systems] for name, systems in data.series.items()} == {
        "my-dog-neti": [100, 200, 300, 400, 500]
    }


def test_checkpoints_of_a_method_on_several_subjects_are_one_series(tmp_path):
    for name, subject in list(SUBJECTS.items())[:2]:
        for step in (10, 200):
            write_entry(tmp_path / "e", f"{name}-neti-step-{step}", {name: subject}, MEANS, step=step, method="neti")
    data = collect([tmp_path / "e"])
    assert [(s.name, s.series, len(s.images)) for s in data.systems] == [
        ("NeTI, step 10", "NeTI", 16),
        ("NeTI, step 200", "NeTI", 16),
    ]


def test_two_runs_of_one_placeholder_are_two_series(tmp_path):
    """At the same steps, whose labels differ in a hash of the token, and at others, whose labels do not."""
    for run, steps in (("one", (100, 200)), ("two", (150, 200, 250))):
        for step in steps:
            own = f"-{run}{step}" if step == 200 else ""
            write_entry(tmp_path / "e", f"x-neti-step-{step}{own}", CORGI, MEANS, step=step, method="neti", run=run)
    for i in range(2):
        write_entry(tmp_path / "e", f"y{i}", CORGI, MEANS, method="neti+")
    data = collect([tmp_path / "e"])
    assert {name: [s.step for s in systems] for name, systems in data.series.items()} == {
        "x-neti, run one": [100, 200],
        "x-neti, run two": [150, 200, 250],
    }
    assert [s.name for s in data.compared] == ["x-neti-step-200-one200", "x-neti-step-250", "y0", "y1"]
    assert "x-neti, run two, DINO" in curves(data, FAST).text


def test_schedules_of_the_contrast_are_systems_with_their_names(tmp_path):
    """The paper's Fig. 7: tokens that differ in the schedule alone, on two subjects; the floor beside them."""
    for name, subject in list(SUBJECTS.items())[:2]:
        for schedule in ("cosine", "zero"):
            entry = f"{name}-neti+-step-500-{schedule}"
            write_entry(tmp_path / "e", entry, {name: subject}, MEANS, step=500, run=f"{name}{schedule}", schedule=schedule)
        write_entry(tmp_path / "e", f"floor-{name}", {name: subject}, MEANS, floor=True)
    data = collect([tmp_path / "e"])
    assert [(s.name, len(s.images)) for s in data.systems] == [("NeTI+, cosine", 16), ("NeTI+, zero", 16), ("floor", 16)]
    chart = intervals(data, FAST)
    assert chart.title == "Fig. 7: held-out scores by schedule of the contrast" and "Fig. 7" in chart.caption
    assert "NeTI+, cosine − NeTI+, zero" in [row[0] for row in tables_of(data)["differences"].rows]
    write_entry(tmp_path / "other", "corgi-neti", CORGI, MEANS, method="neti")
    both = intervals(collect([tmp_path / "e", tmp_path / "other"]), FAST)
    assert both.title == "Held-out scores with intervals" and "Fig. 7" in both.caption


def test_one_schedule_needs_no_name(tmp_path):
    for name, subject in list(SUBJECTS.items())[:2]:
        write_entry(tmp_path / "e", name, {name: subject}, MEANS, schedule="cosine")
    data = collect([tmp_path / "e"])
    assert [s.name for s in data.systems] == ["NeTI+"] and "Fig. 7" not in intervals(data, FAST).caption


def test_checkpoints_of_two_schedules_are_two_series(tmp_path):
    for schedule in ("cosine", "zero"):
        for name, subject in list(SUBJECTS.items())[:2]:
            for step in (100, 200):
                write_entry(
                    tmp_path / "e", f"{name}-{schedule}-step-{step}", {name: subject}, MEANS, step=step, schedule=schedule
                )
    data = collect([tmp_path / "e"])
    assert {name: [s.step for s in systems] for name, systems in data.series.items()} == {
        "NeTI+, cosine": [100, 200],
        "NeTI+, zero": [100, 200],
    }
    assert data.systems[0].name == "NeTI+, cosine, step 100"


def test_every_system_is_counted_at_the_top_of_the_page(methods, checkpoints):
    data = collect([methods, checkpoints])
    assert len([system for system in data.systems if not system.floor]) == 9 and len(data.compared) < 9
    assert "<b>9</b><span>systems</span>" in page_of(data)


def test_one_step_twice_is_no_curve_and_no_crash(tmp_path):
    for suffix in ("aaaaaa", "bbbbbb"):
        write_entry(tmp_path / "e", f"x-neti-step-500-{suffix}", CORGI, MEANS, step=500, method="neti")
    data = collect([tmp_path / "e"])
    assert not data.series and len(data.compared) == 2
    assert "Evaluate several checkpoints" in curves(data, FAST).text


def test_the_same_name_in_two_evaluations_is_kept_apart(tmp_path):
    for name, mean in (("first", 0.4), ("second", 0.6)):
        write_entry(tmp_path / name, "my-dog-neti", CORGI, {**MEANS, "dino": mean}, method="neti")
        write_entry(tmp_path / name, "floor", CORGI, MEANS, floor=True)
    data = collect([tmp_path / "first", tmp_path / "second", tmp_path / "first"])
    assert [s.name for s in data.systems] == ["first: my-dog-neti", "second: my-dog-neti", "first: floor", "second: floor"]
    assert sum(data.systems[1].values("dino").values()) / 8 == pytest.approx(0.6, abs=0.02)
    assert data.evaluations == ("first", "second")


def test_scores_of_different_encoders_are_not_put_side_by_side(tmp_path):
    write_entry(tmp_path / "one", "a", CORGI, MEANS)
    other = {**ENCODERS, "dino": {**ENCODERS["dino"], "backbone": "dinov2-small"}}
    write_entry(tmp_path / "two", "b", CORGI, MEANS, encoders=other)
    with pytest.raises(UserError, match="results: two and one were scored by different encoders"):
        collect([tmp_path / "one", tmp_path / "two"])


def test_what_makes_rows_hard_to_compare_is_said(tmp_path):
    write_entry(tmp_path / "one", "a", SUBJECTS, MEANS, method="neti")
    write_entry(tmp_path / "two", "b", CORGI, MEANS, settings={"steps": 50})
    data = collect([tmp_path / "one", tmp_path / "two"])
    assert any("steps was 30, is 50" in text for text in data.warnings)
    assert any("different subjects, of which all share 1 (a: 6)" in text for text in data.warnings)
    assert "steps was 30, is 50" in page_of(data) and "Read with care" in make_markdown("x", data, [])
    assert collect([tmp_path / "one"]).warnings == ()


def test_results_without_scores_or_not_whole_are_refused(tmp_path):
    write_entry(tmp_path / "bare", "a", CORGI, {}, encoders={})
    with pytest.raises(UserError, match="images but no scores"):
        collect([tmp_path / "bare"])
    write_entry(tmp_path / "third", "a", CORGI, MEANS, shard=(1, 3))
    with pytest.raises(UserError, match="shard 2 of 3 is missing.*\n.*shard 3 of 3"):
        collect([tmp_path / "third"])


def test_shards_and_a_single_run_give_the_same_report(tmp_path):
    write_entry(tmp_path / "single" / "e", "a", SUBJECTS, MEANS)
    for shard in (1, 2, 3):
        write_entry(tmp_path / "shards" / "e", "a", SUBJECTS, MEANS, shard=(shard, 3))
    whole, merged = (collect([tmp_path / name / "e"]) for name in ("single", "shards"))
    assert make_csv(make_tables(whole, FAST)) == make_csv(make_tables(merged, FAST))
    assert make_jsonl(whole) == make_jsonl(merged) and page_of(whole) == page_of(merged)


# --- numbers -----------------------------------------------------------------------------------------


def test_the_tables_numbers_are_those_of_the_results(methods):
    tables = tables_of(collect([methods]))
    records = records_of(methods, "*-neti-step-500.jsonl")
    mean = {score: np.mean([r["scores"][score] for r in records]) for score in records[0]["scores"]}
    neti = row(tables["overall"], "NeTI")
    assert neti["Images"] == 48
    for column, score in (("CLIP-T", "clip_t"), ("CLIP-I", "clip_i"), ("DINO", "dino")):
        assert neti[column].mean == pytest.approx(mean[score], abs=1e-12) and neti[column].low < mean[score] < neti[column].high
    assert row(tables["overall"], CEILING_ROW)["DINO"] == pytest.approx(CEILING["dino"])
    gap = tables["gap"].rows[0]
    assert gap[3].mean == pytest.approx(mean["dino_train"] - mean["dino"]) and gap[1].mean == pytest.approx(mean["dino_train"])
    living = [r["scores"]["dino"] for r in records if r["subject"] in ("corgi", "tabby", "parrot")]
    assert row(tables["kinds"], "living: NeTI")["DINO"].mean == pytest.approx(np.mean(living))
    tabby = [r["scores"]["clip_i"] for r in records if r["subject"] == "tabby"]
    cell = row(tables["subjects"], "tabby: NeTI")["CLIP-I"]
    assert cell.mean == pytest.approx(np.mean(tabby)) and cell.unit == "photo"


def test_differences_between_systems_are_those_of_the_results(methods):
    data = collect([methods])
    table = tables_of(data)["differences"]
    assert len(table.rows) == 10, "every pair of five"
    plus, plain = (records_of(methods, f"*-{method}-step-500.jsonl") for method in ("neti+", "neti"))
    apart = [a["scores"]["dino"] - b["scores"]["dino"] for a, b in zip(plain, plus, strict=True)]
    cell = row(table, "NeTI − NeTI+")["DINO"]
    assert isinstance(cell, Difference) and cell.estimate.mean == pytest.approx(np.mean(apart))
    assert cell.wins == np.mean(np.array(apart) > 0) and cell.estimate.unit == "subject"
    against = tables_of(data, baseline="floor")["differences"]
    assert [r[0] for r in against.rows] == [f"{name} − floor" for name in ("NeTI", "NeTI+", "TI", "TI+")]


def test_one_subject_is_said_to_be_one(checkpoints):
    table = tables_of(collect([checkpoints]))["overall"]
    assert "bootstrap over 4 photos" in table.note and "only one subject" in table.note and "rough guess" in table.note
    assert "kinds" not in tables_of(collect([checkpoints]))


def test_every_score_comes_with_its_definition(methods):
    table = tables_of(collect([methods]))["definitions"]
    assert [r[0] for r in table.rows] == ["CLIP-T", "CLIP-I", "DINO", "CLIP-I, training photos", "DINO, training photos"]
    page = page_of(collect([methods]))
    for words in (
        "dino-vits16",
        ENCODERS["dino"]["weights"],
        "shortest side to 256 px",
        "224 x 224 px",
        "ImageNet mean",
        "float32",
        "that its caption was written for",
        "after the final LayerNorm",
        "the first 77 tokens",
    ):
        assert words in page, words
    assert row(table, "DINO")["Images"] == 240


def test_csv_has_every_number_in_full(methods):
    data = collect([methods])
    rows = list(csv.DictReader(io.StringIO(make_csv(make_tables(data, FAST)))))
    found = next(r for r in rows if (r["table"], r["row"], r["column"]) == ("overall", "NeTI+", "DINO"))
    wanted = estimate(data.systems[1].values("dino"), FAST)
    assert (float(found["value"]), float(found["low"]), float(found["high"])) == (wanted.mean, wanted.low, wanted.high)
    assert (found["unit"], found["units"], found["images"]) == ("subject", "6", "48")
    assert {r["table"] for r in rows} == {"overall", "gap", "differences", "kinds", "subjects", "definitions", "settings"}


def test_jsonl_has_every_image_once(methods):
    lines = [json.loads(line) for line in make_jsonl(collect([methods])).splitlines()]
    assert len(lines) == 240 and len({(r["system"], r["subject"], r["photo"], r["text"], r["index"]) for r in lines}) == 240
    records = records_of(methods, "*-neti-step-500.jsonl")
    given = {(r["subject"], r["photo"], r["text"], r["index"]): r["scores"] for r in records}
    assert all(r["scores"] == given[r["subject"], r["photo"], r["text"], r["index"]] for r in lines if r["system"] == "NeTI")
