"""What runs, evaluations and data sets leave on disk, damaged or edited by hand: read, or named in one sentence."""

import json
import time

import pytest
from PIL import Image

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.pdst import MOST_CAPTIONS, read_dataset
from attractor.nodes.evaluation.report.figures import training_curve
from attractor.nodes.training.held_out import ScoreLog
from source_files import ROOT

SCORES = sorted((ROOT / "tests" / "faults").glob("*.json"))
SECONDS = 5
# All others are refused. Here a score has a name that is not known.
GOOD_SCORES = {"scores-flip_28_at_357-scores.json", "scores-flip_38_at_391-scores.json"}


def test_the_faulty_files_are_here():
    assert len(SCORES) > 20


@pytest.mark.parametrize("path", SCORES, ids=lambda path: path.name)
def test_faulty_scores_are_read_or_named(path):
    try:
        known = json.loads(path.read_text()).get("scored_with")
    except ValueError:
        known = None
    log = ScoreLog(path, known if isinstance(known, dict) else {})
    if path.name in GOOD_SCORES:
        assert log.resume(10**6) == "" and log.scores
        best = log.best()
        assert training_curve("x", log.scores, best and best["step"], "nothing").picture().width > 100
    else:
        with pytest.raises(UserError, match=f"^{path.name} is damaged.*Delete it"):
            log.resume(10**6)


def test_a_score_that_is_not_finite_is_left_out(tmp_path):
    log = ScoreLog(tmp_path / "scores.json", {"x": 1})
    log.add(1, {"clip_i": float("nan"), "dino": 0.9})
    log.add(2, {"clip_i": 0.5, "dino": 0.4})
    log.save()
    again = ScoreLog(tmp_path / "scores.json", {"x": 1})
    again.resume(2)
    assert again.scores == [{"step": 1, "dino": 0.9}, {"step": 2, "clip_i": 0.5, "dino": 0.4}]
    assert again.best()["step"] == 2, "a step without one of the scores cannot be compared"
    assert training_curve("x", again.scores, 2, "nothing").picture().width > 100
    log.add(3, {"clip_i": float("inf"), "dino": float("nan")})
    assert training_curve("x", log.scores[2:], None, "nothing").picture().width > 100


def test_a_captions_file_of_a_hundred_thousand_lines_is_one_problem(tmp_path):
    for part, colour in (("train", "red"), ("test", "blue")):
        (tmp_path / "cat" / part).mkdir(parents=True)
        Image.effect_noise((64, 64), 100 if part == "train" else 20).save(tmp_path / "cat" / part / f"{colour}.png")
    (tmp_path / "cat" / "meta.json").write_text(json.dumps({"super_category": "c" * 100_000, "kind": "living"}))
    (tmp_path / "cat" / "test" / "blue.txt").write_text("a cat\n" * 100_000)
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        read_dataset(tmp_path, captions=0)
    assert time.monotonic() - started < SECONDS
    message = str(error.value)
    assert f"{MOST_CAPTIONS:,} captions" in message and "super_category" in message and len(message) < 1_000
