"""The toy world's benchmark through a real server: what it keeps of a run, what it reports, and what it does not do again."""

import json

import pytest

from toy_world.bench import driver, grid, report, runs
from toy_world.toy_subjects import TRAIN, toy_subject

pytestmark = pytest.mark.one_host


def test_runs_are_carried_out_once_and_reported(tmp_path, host_root):
    plan = runs.Plan(grid.QUICK_STEPS, tuple(grid.QUICK_EVALUATION.items()))
    wanted = [runs.Run(grid.CONFIGURATIONS[name], toy_subject(0), 0, plan) for name in ("floor", "textual_inversion+")]
    driver.carry_out_all(str(host_root), tmp_path, wanted, workers=1)

    floor, trained = (json.loads(runs.result_path(tmp_path, run).read_text()) for run in wanted)
    assert [entry["step"] for entry in floor["entries"]] == [0]
    assert [image["kind"] for image in floor["alone"]] == ["subject"] * 4
    assert [entry["step"] for entry in trained["entries"]] == [1, 2, 3, 4]
    for entry in (*floor["entries"], *trained["entries"]):
        assert len(entry["images"]) == grid.QUICK_EVALUATION["max_photos"]
        for image in entry["images"]:
            assert set(image["values"]) == set(report.COLUMNS) - {"leak_alone"}
            assert (tmp_path / "output" / "pdst" / image["image"]).exists()
    counts = {kind: sum(image["kind"] == kind for image in trained["alone"]) for kind in ("word", "subject", "attractor")}
    assert counts == {"word": 4, "subject": 4, "attractor": 4 * TRAIN}

    text = report.write(tmp_path, wanted, tmp_path / "report")
    assert "2 of 2 runs" in text and "Attractors improve NeTI on all metrics: not all of its configurations were run" in text
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {
        "report.md",
        "report.json",
        "sheet-methods.jpg",
        "sheet-attractors.jpg",
    }
    driver.carry_out_all("no host: nothing is left to be done", tmp_path, wanted, workers=1)
