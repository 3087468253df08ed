"""What runs, evaluations and data sets leave on disk, damaged or edited by hand: read, or named in one sentence."""

import json
import random
import time

import pytest
from PIL import Image

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.captions import words_of
from attractor.nodes.evaluation.nodes_report import PDSTReport
from attractor.nodes.evaluation.pdst import MOST_CAPTIONS, read_dataset
from attractor.nodes.evaluation.report.figures import training_curve
from attractor.nodes.evaluation.report.gather import collect
from attractor.nodes.evaluation.report.make_report import charts_of, make_report
from attractor.nodes.evaluation.report.page import make_page
from attractor.nodes.evaluation.report.tables import make_tables
from attractor.nodes.evaluation.statistics import Bootstrap
from attractor.nodes.training.held_out import ScoreLog
from mutations import damaged, odd_value, rounds
from pdst_results import CORGI, write_entry
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


def first(**values):
    """Changes the first image's record."""
    return lambda header, records: (header, [{**records[0], **values}, *records[1:]])


def every(**values):
    return lambda header, records: (header, [{**record, **values} for record in records])


def subject(**values):
    """Changes what the header says of the subject."""
    return lambda header, records: (
        {**header, "subjects": {name: {**about, **values} for name, about in header["subjects"].items()}},
        records,
    )


EDITED = {
    "an image outside": (first(image="../../../../../etc/passwd"), None),
    "an absolute image": (first(image="/etc/passwd"), None),
    "an image with a NUL": (first(image="a\0b"), None),
    "an image that no disk could hold": (first(image="x" * 50_000), None),
    "photos outside": (subject(references=["../../x.jpg"] * 2), None),
    "scores without bound": (every(scores={"clip_t": 1e308, "dino": -1e308}), "line 2 .scores"),
    "scores that are not known": (every(scores={"beauty": 0.5}), "other scores"),
    "a text that is none": (first(text="\ud800 {}"), "line 2 .text"),
    "a text without end": (first(text="{} " * 100_000), "line 2 .text"),
    "a caption before the first": (first(caption=-5), "line 2 .caption"),
    "too few photos": (subject(references=["x"]), "first line .subjects"),
    "too few numbers of captions": (subject(captions=[]), "first line .subjects"),
    "a subject that is no text": (subject(super_category="\ud800"), "not a results file"),
}


@pytest.mark.parametrize("kind", EDITED)
def test_results_edited_by_hand_make_a_report_or_are_named(tmp_path, kind):
    change, words = EDITED[kind]
    folder = tmp_path / "edited"
    write_entry(folder, "corgi", CORGI, {"clip_t": 0.3, "dino": 0.5}, photos=2, images=1)
    path = folder / "corgi.jsonl"
    header, *records = (json.loads(line) for line in path.read_text().splitlines())
    header, records = change(header, records)
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *records)))
    made = []

    def report():
        made.append(make_report([folder], folder / "report", "x", y_axis="dino", contact_sheet="every photo", resamples=20))

    assert said(path, report, kind) == (words is not None)
    if words is None:
        assert made and made[0].path.is_file()
    else:
        with pytest.raises(UserError, match=words):
            report()


def test_what_is_typed_without_end_is_refused_at_once():
    started = time.monotonic()
    with pytest.raises(UserError, match="evaluations: there are 100,000 names, and 1,000 is the most"):
        PDSTReport.execute("\n".join(f"n{i}" for i in range(100_000)), "", "dino", "none")
    with pytest.raises(UserError, match="subject_words: .*2,000, the longest of 5 "):
        words_of(",".join(f"w{i}" for i in range(2_000)))
    with pytest.raises(UserError, match="subject_words: .*1, the longest of 5,000 "):
        words_of("w" * 5_000)
    assert words_of("dog, puppy") == ["puppy", "dog"]
    assert time.monotonic() - started < SECONDS


def test_an_error_is_not_longer_than_a_person_would_read():
    message = str(UserError.of([f"input {i}: {'x' * 5_000}: use another." for i in range(5_000)]))
    assert len(message) < 40_000 and message.startswith("- input 0: xxx") and message.endswith("xxx: use another.")
    assert "(and 4,941 more)" in message and "- input 4999: " in message
    assert str(UserError("short\nand clear")) == "short\nand clear"


# --- damaged at random --------------------------------------------------------------------------------


def said(path, read, what):
    """Whether a file is refused, with one error that names it."""
    started = time.monotonic()
    try:
        read()
        refused = False
    except UserError as error:
        assert path.stem in str(error) and len(str(error)) < 2_000, (what, str(error))
        refused = True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} instead of a sentence") from error
    assert time.monotonic() - started < SECONDS, what
    return refused


def broken(content, draw):
    """A JSON file's content with a fault, as text or in a value."""
    if draw.random() < 0.4:
        return damaged(json.dumps(content).encode(), draw)
    return json.dumps(odd_value(content, draw)).encode()


def test_scores_damaged_at_random(tmp_path):
    path = tmp_path / "scores.json"
    scores = {"clip_t": 0.3, "clip_i": 0.5, "dino": 0.4, "dino_train": 0.5}
    content = {"scored_with": {"images": 2}, "scores": [{"step": step, **scores} for step in (2, 4, 6)]}
    found = []
    for number in rounds(300):
        path.write_bytes(broken(content, random.Random(number)))

        def read(number=number):
            log = ScoreLog(path, {"images": 2})
            log.resume(10**6)
            best = log.best()
            if number % 10 == 0:
                training_curve("x", log.scores, best and best["step"], "nothing").picture()

        found.append(said(path, read, number))
    assert any(found) and not all(found)


def test_results_damaged_at_random(tmp_path):
    write_entry(tmp_path / "good", "corgi", CORGI, {"clip_t": 0.3, "dino": 0.5}, step=4, images=1)
    (good,) = (tmp_path / "good").glob("*.jsonl")
    lines = [json.loads(line) for line in good.read_text().splitlines()]
    path = tmp_path / "bad" / good.name
    path.parent.mkdir()
    found = []
    for number in rounds(300):
        draw = random.Random(number)
        changed = [json.dumps(line).encode() for line in lines]
        which = draw.choice([0, 0, draw.randrange(len(lines))])
        changed[which] = broken(lines[which], draw)
        path.write_bytes(b"".join(line + b"\n" for line in changed))

        def read(number=number):
            data = collect([path.parent])
            if number % 10 == 0:
                few = Bootstrap(20, 0)
                make_page("x", data, make_tables(data, few, ""), charts_of(data, few, "dino")[:1], None)

        found.append(said(path, read, number))
    assert any(found) and not all(found)


def test_data_sets_damaged_at_random(tmp_path):
    for part, spread in (("train", 100), ("test", 20)):
        (tmp_path / "cat" / part).mkdir(parents=True)
        Image.effect_noise((64, 64), spread).save(tmp_path / "cat" / part / f"{part}.png")
    meta, captions = tmp_path / "cat" / "meta.json", tmp_path / "cat" / "test" / "test.txt"
    content, texts = {"super_category": "cat", "kind": "living", "source": ["x"]}, "a {} on a mat\na {} at sea\n"
    found = []
    for number in rounds(60):
        draw = random.Random(number)
        spoil_meta = draw.random() < 0.5
        meta.write_bytes(broken(content, draw) if spoil_meta else json.dumps(content).encode())
        captions.write_bytes(texts.encode() if spoil_meta else damaged(texts.encode(), draw))
        found.append(said(meta if spoil_meta else captions, lambda: read_dataset(tmp_path, captions=0), number))
    assert any(found) and not all(found)
