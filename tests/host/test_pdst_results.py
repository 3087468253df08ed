"""Results on disk: whole batches only, nothing mixed, and a reader that refuses what is incomplete."""

import copy
import json

import pytest

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.header import header_differences
from attractor.nodes.evaluation.plan import Shot, make_batches, shard_of
from attractor.nodes.evaluation.results import ResultsFile, file_name, read_results

HEADER = {
    "format": "attractor-pdst",
    "version": 1,
    "evaluation": "pets",
    "entry": "my-cat",
    "step": 7,
    "shard": [1, 1],
    "expected": 10,
    "token": {"placeholder": "<my-cat>", "method": "neti+"},
    "identity": {"token": "t", "model": "m", "photo cat/train/1.png": "p", "captions cat/2.png": "c"},
    "settings": {"steps": 30, "seed": 0},
    "encoders": {"dino": dict.fromkeys(("backbone", "weights", "resize", "crop", "norm", "dtype"), "b")},
    "ceiling": {},
    "subjects": {"cat": {"super_category": "cat", "kind": "living", "train": ["1.png"], "test": ["2.png"], "captions": [2]}},
}
SHOTS = [Shot(i, "cat", 0, i // 5, "a {}", i % 5, 100 + i) for i in range(10)]
BATCHES = make_batches(SHOTS, 2)


def records(batch):
    return [
        {
            "number": shot.number,
            "subject": shot.subject,
            "photo": "2.png",
            "caption": shot.caption,
            "text": shot.text,
            "index": shot.index,
            "seed": shot.seed,
            "scores": {"dino": shot.number / 10},
            "image": None,
        }
        for shot in batch
    ]


def write(folder, shard=1, shards=1, batches=None, **changes):
    """A file of an evaluation with so many batches of the shard (all unless said)."""
    header = {**copy.deepcopy(HEADER), "shard": [shard, shards], **changes}
    folder.mkdir(exist_ok=True)
    own = shard_of(BATCHES, shard, shards)
    file = ResultsFile(folder / file_name(header["entry"], shard, shards), header, own)
    file.open()
    for batch in own[:batches]:
        file.add(records(batch))
    return file


def changed(part, key, value):
    return {part: {**HEADER[part], key: value}}


def test_a_single_run_and_shards_written_in_any_order_read_the_same(tmp_path):
    write(tmp_path / "one")
    for shard in (3, 1, 2):
        write(tmp_path / "many", shard, 3)
    (one,), (many,) = read_results(tmp_path / "one"), read_results(tmp_path / "many")
    assert one.records == many.records == records(SHOTS)
    assert (one.entry, one.step, one.evaluation) == ("my-cat", 7, "one")


@pytest.mark.parametrize("torn", ["in a line", "between the lines of a batch", "at a line's end", "not at all"])
def test_a_file_cut_anywhere_goes_on_from_its_last_whole_batch(tmp_path, torn):
    path = write(tmp_path / "set", batches=3).path
    whole = path.read_bytes()
    if torn == "in a line":
        path.write_bytes(whole + b'{"number": 6, "se')
    elif torn == "between the lines of a batch":
        path.write_bytes(whole + json.dumps(records(BATCHES[3])[0]).encode() + b"\n")
    elif torn == "at a line's end":
        path.write_bytes(whole + json.dumps(records(BATCHES[3])[0]).encode())
    file = ResultsFile(path, copy.deepcopy(HEADER), BATCHES)
    assert file.open() == [record for batch in BATCHES[:3] for record in records(batch)]
    assert path.read_bytes() == whole and file.left == BATCHES[3:]
    for batch in file.left[:]:
        file.add(records(batch))
    assert read_results(tmp_path / "set")[0].records == records(SHOTS)


@pytest.mark.parametrize("kept", [b"", b'{"format": "attractor-p'])
def test_a_kill_in_the_header_leaves_a_file_that_begins_anew(tmp_path, kept):
    path = tmp_path / "my-cat.jsonl"
    path.write_bytes(kept)
    assert write(tmp_path).path == path
    assert len(read_results(tmp_path)[0].records) == 10


def test_a_header_alone_may_be_replaced(tmp_path):
    """Such as after an evaluation whose first batch was too much for the memory."""
    write(tmp_path, batches=0)
    write(tmp_path, **changed("settings", "steps", 20))
    assert read_results(tmp_path)[0].header["settings"]["steps"] == 20


@pytest.mark.parametrize(
    "changes, said",
    [
        (changed("identity", "token", "other"), "token has changed"),
        (changed("identity", "model", "other"), "model has changed"),
        (changed("identity", "captions cat/2.png", "other"), "captions cat/2.png has changed"),
        (changed("identity", "photo cat/train/9.png", "new"), "photo cat/train/9.png is new"),
        (changed("settings", "steps", 20), "setting steps was 30, is 20"),
        (changed("encoders", "clip", {"backbone": "x"}), "encoder clip was"),
        ({"expected": 20}, "expected was 10, is 20"),
    ],
)
def test_results_of_something_else_are_not_gone_on_with(tmp_path, changes, said):
    before = write(tmp_path, batches=2).path.read_bytes()
    with pytest.raises(UserError, match="start_over") as raised:
        write(tmp_path, **changes)
    assert said in str(raised.value)
    assert (tmp_path / "my-cat.jsonl").read_bytes() == before


def test_another_entry_of_an_evaluation_may_differ_in_token_and_subject_only():
    other = {
        **HEADER,
        "entry": "my-dog",
        "subjects": {"dog": {}},
        "expected": 4,
        "identity": {"token": "u", "model": "m", "photo dog/train/1.png": "q"},
    }
    assert header_differences(HEADER, other, alone=False) == []
    other["identity"]["model"] = "n"
    assert header_differences(HEADER, other, alone=False) == ["model has changed"]
    other = {**HEADER, **changed("identity", "photo cat/train/1.png", "new"), "entry": "second"}
    assert header_differences(HEADER, other, alone=False) == ["photo cat/train/1.png has changed"]


def test_a_damaged_line_is_no_batch_to_go_on_from(tmp_path):
    path = write(tmp_path, batches=3).path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(UserError, match="damaged at image 1"):
        write(tmp_path)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[2:]]))
    with pytest.raises(UserError, match="damaged at line 2"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("version", None),
        ("version", "1"),
        ("entry", 3),
        ("shard", [1]),
        ("shard", ["1", 1]),
        ("step", "7"),
        ("token", []),
        ("settings", None),
        ("encoders", ...),
        ("ceiling", 0),
        ("subjects", ...),
        ("expected", ...),
        ("identity", ...),
    ],
)
def test_a_header_changed_by_hand_is_named_with_the_remedy(tmp_path, key, value):
    path = write(tmp_path).path
    lines = path.read_text().splitlines(keepends=True)
    header = {**json.loads(lines[0]), key: value}
    if value is ...:  # taken out
        del header[key]
    path.write_text(json.dumps(header) + "\n" + "".join(lines[1:]))
    with pytest.raises(UserError, match=rf"my-cat.jsonl is damaged in its first line \({key}\). Restore it, or delete it"):
        read_results(tmp_path)


def test_a_file_that_cannot_be_written_is_said_without_this_machines_paths(tmp_path):
    file = write(tmp_path, batches=1)
    file.path.unlink()
    file.path.mkdir()  # as unwritable as a full disk
    with pytest.raises(UserError, match="my-cat.jsonl could not be written .*queue again") as raised:
        file.add(records(BATCHES[1]))
    assert str(tmp_path) not in str(raised.value) and file.left == BATCHES[1:]


def problems(folder):
    with pytest.raises(UserError) as raised:
        read_results(folder)
    return str(raised.value)


def test_the_reader_takes_nothing_that_is_not_whole(tmp_path):
    assert "no results" in problems(tmp_path / "nothing")
    write(tmp_path / "short", batches=3)
    assert "my-cat: 5 images of 10" in problems(tmp_path / "short")
    write(tmp_path / "missing", 1, 3)
    said = problems(tmp_path / "missing")
    assert "shard 2 of 3 is missing (my-cat-shard-2-of-3.jsonl)" in said and "shard 3 of 3" in said
    write(tmp_path / "mixed", 1, 2)
    write(tmp_path / "mixed", 2, 2, **changed("settings", "steps", 20))
    assert "setting steps was 30, is 20" in problems(tmp_path / "mixed")
    write(tmp_path / "both", 1, 2)
    write(tmp_path / "both")
    assert "a single run and in shards" in problems(tmp_path / "both")
    path = write(tmp_path / "half").path
    path.write_bytes(path.read_bytes()[:-9])
    assert "ends in an incomplete line" in problems(tmp_path / "half")
    path = write(tmp_path / "twice").path
    with open(path, "ab") as file:
        file.write(path.read_bytes().splitlines(keepends=True)[-1])
    assert "11 images of 10 are there, 1 of them twice" in problems(tmp_path / "twice")
    path = write(tmp_path / "renamed").path
    path.rename(path.with_name("my-dog.jsonl"))
    assert "rename it to that" in problems(tmp_path / "renamed")
    write(tmp_path / "foreign").path.with_name("x.jsonl").write_text('{"a": 1}\n')
    assert "x.jsonl is not a results file" in problems(tmp_path / "foreign")
    write(tmp_path / "newer", version=2)
    assert "update the pack" in problems(tmp_path / "newer")


def test_entries_come_by_token_and_step_and_the_floor_last(tmp_path):
    some = HEADER["token"]
    for entry, step, token in (
        ("floor", None, None),
        ("my-cat-step-100", 100, some),
        ("my-cat-step-20", 20, some),
        ("a", 3, some),
    ):
        write(tmp_path, entry=entry, step=step, token=token)
    assert [entry.entry for entry in read_results(tmp_path)] == ["a", "my-cat-step-20", "my-cat-step-100", "floor"]


def test_a_score_that_is_no_number_is_not_written(tmp_path):
    file = write(tmp_path, batches=1)
    with pytest.raises(ValueError):
        file.add([{"number": 2, "seed": 102, "scores": {"dino": float("nan")}}])
    assert file.path.read_text().count("\n") == 3
