"""Names and folders that a user types: judged before anything is looked at or written, and by trying."""

import os
import sys

import pytest

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.captions import is_edited, photos_to_caption, stamp, write_drafts
from attractor.nodes.evaluation.nodes_captions import MakePDSTCaptions
from attractor.nodes.evaluation.pdst import subject_folder
from attractor.nodes.evaluation.results import result_stamps
from attractor.nodes.host import folders
from attractor.trainer.reading import BadFile
from attractor.trainer.storage import replacing
from pdst_set import write_subject

posix = pytest.mark.skipif(sys.platform == "win32", reason="no pipes and no bytes in names")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "file").touch()
    return tmp_path / "root"


def everything(folder):
    return sorted(folder.rglob("*"))


OUTSIDE = [
    *("", ".", "..", "../outside", "inner/..", "inner/../..", "inner/.", "./inner", "/etc", "inner//x", "/", "inner/"),
    *("..\\outside", "inner\\..", "a\0b", "\0", None, 7, ["inner"], {"a": 1}),
]


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_name_that_is_not_plainly_below_leads_nowhere(root, name):
    assert folders.below(root, name) is None


def test_plain_names_lead_below_and_links_only_if_they_stay_there(root, tmp_path):
    for name in ("inner", "inner/x", "absent", "a..b", "...", "x" * 5_000, "狗/é"):
        assert folders.below(root, name) == root.resolve() / name
    if sys.platform != "win32":
        (root / "out").symlink_to(tmp_path / "outside")
        (root / "round").symlink_to(root / "round")
        assert folders.below(root, "out") is None and folders.below(root, "out/x") is None
        assert folders.below(root, "round") in (None, root.resolve() / "round")


GOOD = ["my-dog", "a/b/c", "dog 1.5", "狗" * 70, "é" * 100, "x" * 200, "²①"]
BAD = {
    "a" * 235: "too long for this disk",  # 255 bytes with its suffix would fit, not with the step's number
    "é" * 128: "too long for this disk",
    "狗" * 86: "too long for this disk",
    "x" * 5_000: "is too long: it has 5,000 characters",
    "a/" * 2_500 + "a": "is too long: it has 5,001 characters",
    "file/x": "file is a file, and would have to be a folder",
    "file": "file is a file",
    "a/.": "cannot be a file name",
    "pics/..": "cannot be a file name",
    "a\0b": "cannot be a file name",
    "a\n": "cannot be a file name",
    "\udcff": "cannot be a file name",
    "": "is empty",
}


def names(name):
    return folders.name_problems(
        name, "name", folders.output_folder(), [f"{name}/{name.split('/')[-1]}-step-000000.safetensors"]
    )


@pytest.fixture
def output(root, monkeypatch):
    monkeypatch.setattr(folders, "output_folder", lambda: root)
    return root


@pytest.mark.parametrize("name", GOOD, ids=lambda name: name[:20])
def test_a_name_that_the_disk_takes_is_good_and_nothing_is_left_of_the_try(output, name):
    before = everything(output)
    assert folders.run_problems(name) == []
    assert everything(output) == before
    with replacing(folders.output_path(name) / f"{name.split('/')[-1]}-step-000000.safetensors") as path:  # and it is true
        path.touch()


@pytest.mark.skipif(sys.platform != "linux", reason="other disks have other limits")
@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name[:20]))
def test_a_name_that_the_disk_does_not_take_is_named_before_any_work(output, name):
    before = everything(output)
    (problem,) = folders.run_problems(name)
    assert problem.startswith("name ") and BAD[name] in problem and problem.endswith(".") and len(problem) < 500
    problem.encode()
    assert everything(output) == before


def test_a_place_is_missing_or_taken(root):
    assert folders.place_problems(root / "a" / "b", ["c/d.txt", "e.txt"], "x") == []
    assert folders.place_problems(root, ["file"], "x") == [], "a file may be replaced"
    (problem,) = folders.place_problems(root, ["inner"], "name: x")
    assert problem.startswith("name: x cannot be used: 'inner' cannot be written (there is a folder of this name)")
    assert everything(root) == [root / "file", root / "inner"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_is_read_only_is_said(root):
    (root / "inner").chmod(0o500)
    assert "Permission denied" in folders.place_problems(root / "inner", ["a/b"], "x")[0]


# --- fingerprints ----------------------------------------------------------------------------------------


@pytest.fixture
def dataset(monkeypatch, tmp_path):
    """A data set with one subject, and a subject of another one beside it, which must not be looked at."""
    monkeypatch.setattr(folders, "_dataset_roots", lambda: [("pdst", tmp_path / "sets")])
    write_subject(tmp_path / "sets" / "pets", "cat")
    write_subject(tmp_path / "sets" / "private", "dog")
    return tmp_path / "sets" / "pets"


def fingerprint(subject, folder="pdst/pets"):
    return MakePDSTCaptions.fingerprint_inputs([folder], [subject])


def test_a_fingerprint_looks_at_no_subject_outside(dataset, monkeypatch):
    assert fingerprint("cat") == fingerprint(" cat ")
    looked = []
    monkeypatch.setattr("attractor.nodes.evaluation.nodes_captions.pictures", lambda path: looked.append(path) or [])
    for subject in ("../private/dog", str(dataset.parent / "private" / "dog"), ".", "cat/../cat", "\0", "x" * 5_000, None):
        assert fingerprint(subject) != fingerprint(subject), "the node runs, and says what is wrong"
        with pytest.raises(UserError, match="has no subject"):
            subject_folder(dataset, subject)
    for folder in ("pdst/.", "pdst/pets/..", "pdst", "", "pdst/\0", "pdst/" + "x" * 5_000, None, "input/../x"):
        fingerprint("cat", folder)
        with pytest.raises(UserError, match="folder: there is no data set"):
            folders.dataset_path(folder)
    assert looked == []


@posix
def test_a_pipe_in_place_of_captions_is_named_and_nothing_waits(dataset):
    photo = dataset / "cat" / "test" / "test-1.png"
    path = photo.with_suffix(".txt")
    path.unlink()
    os.mkfifo(path)
    fingerprint("cat")
    assert "a pipe" in stamp(photo)
    with pytest.raises(BadFile, match="test-1.txt .*a pipe"):
        is_edited(photo)
    photos = photos_to_caption(dataset, "cat")
    with pytest.raises(BadFile, match="test-1.txt .*a pipe"):
        write_drafts(dataset / "cat", photos, [["a cat"]] * 2, ["cat"], False)
    assert write_drafts(dataset / "cat", photos, [["a cat"]] * 2, ["cat"], True)[0].captions == ("a {}",)


def test_captions_are_read_up_to_a_bound(dataset):
    photo = dataset / "cat" / "test" / "test-1.png"
    with open(photo.with_suffix(".txt"), "r+b") as file:
        file.truncate(2**31)
    assert "at most 1 MB" in stamp(photo)
    with pytest.raises(BadFile, match="test-1.txt has 2,048 MB"):
        is_edited(photo)


@posix
def test_names_in_bytes_that_are_no_utf8_are_hashed_and_named(dataset, root):
    strange = os.fsdecode(b"caf\xe9")
    (root / strange).mkdir()
    (root / strange / "x.jsonl").touch()
    assert result_stamps([root / strange]) == result_stamps([root / strange])
    assert folders.stamps(lambda: [root / strange / "x.jsonl"]) == folders.stamps(lambda: [root / strange / "x.jsonl"])
    photo = dataset / "cat" / "test" / "test-1.png"
    photo.rename(photo.with_name(strange + ".png"))
    fingerprint("cat").encode()
    with pytest.raises(UserError, match=r"caf\\xe9.png in cat/test has a name in bytes that are no UTF-8: rename it"):
        photos_to_caption(dataset, "cat")


@pytest.mark.skipif(sys.platform != "linux", reason="other disks have other limits")
def test_a_photo_whose_captions_would_have_too_long_a_name_is_named_before_any_work(dataset):
    photo = dataset / "cat" / "test" / "test-1.png"
    photo.rename(photo.with_name("x" * 253))  # without an extension: its content says that it is a photo
    with pytest.raises(UserError, match="subject: cat/test is too long for this disk: the file 'xxx.* with 257 bytes"):
        photos_to_caption(dataset, "cat")


def test_the_newest_training_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "output_folder", lambda: tmp_path)
    assert folders.runs() == [folders.NEWEST]
    with pytest.raises(UserError, match="file: no training has left a token in output/neti yet. Train first"):
        folders.token_path(folders.NEWEST)
    nothing = r"run: no training has left checkpoints \(checkpoint_every in Training Options\) in output/neti yet. Train first"
    with pytest.raises(UserError, match=nothing):
        folders.checkpoint_files(folders.NEWEST)
    written = ["x/b/b-step-1.safetensors", "x/b/b.safetensors", "a/a.safetensors", "a/a-best.safetensors", "saved.safetensors"]
    for age, name in enumerate(written):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    assert folders.token_path(folders.NEWEST) == str(tmp_path / "a" / "a.safetensors")
    assert folders.checkpoint_files(folders.NEWEST) == [tmp_path / name for name in written[:2]]
    assert folders.runs() == [folders.NEWEST, "x/b"]


def test_the_packs_own_photos_are_listed_first_and_nobody_writes_there():
    assert folders.picture_folders()[0] == folders.dataset_folders(lambda _: False)[0] == folders.EXAMPLE
    assert [path.suffix for path in folders.pictures_in(folders.EXAMPLE)] == [".webp"] * 5
    assert folders.dataset_path(folders.EXAMPLE).is_dir()
    with pytest.raises(UserError, match="stays as it is"):
        folders.dataset_path(folders.EXAMPLE, to_write=True)
