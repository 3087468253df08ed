"""The PDST layout: all problems in one message; the same picture is recognised whatever became of its file."""

import io
import json

import numpy as np
import pytest
from photographs import cat_photos
from PIL import Image, ImageOps

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.pdst import looks_like_dataset, read_dataset
from attractor.nodes.evaluation.same_photo import look_at, same_photo
from pdst_set import picture, write_subject


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pets"
    write_subject(root, "cat")
    write_subject(root, "mug 10", "mug", "rigid", seed=1)
    write_subject(root, "mug 9", "mug", "rigid", seed=2)
    return root


def problems(root, captions=2, subjects=None):
    with pytest.raises(UserError) as raised:
        read_dataset(root, subjects, captions)
    return [line.removeprefix("- ") for line in str(raised.value).splitlines()[1:]]


def test_a_right_data_set_is_read_as_it_lies(root):
    dataset = read_dataset(root, captions=2)
    assert [subject.name for subject in dataset.subjects] == ["cat", "mug 9", "mug 10"]
    cat = dataset.subjects[0]
    assert (cat.super_category, cat.kind) == ("cat", "living")
    assert [path.name for path in cat.train] == ["train-1.png", "train-2.png"]
    assert [photo.path.name for photo in cat.test] == ["test-1.png", "test-2.png"]
    assert cat.test[1].captions == ("a photo of a {} on the beach, 2", "a photo of a {} in the snow, 2")
    assert looks_like_dataset(root) and not looks_like_dataset(root / "cat")


def test_only_the_subjects_that_are_asked_for_are_checked(root):
    (root / "cat" / "meta.json").unlink()
    assert [subject.name for subject in read_dataset(root, ["mug 9"], 2).subjects] == ["mug 9"]
    assert problems(root, subjects=["mug 9", "cow"])[0].startswith("subjects: there is no subject 'cow'")


def test_every_problem_is_said_at_once(root):
    cat, mug = root / "cat", root / "mug 9"
    (cat / "meta.json").write_text('{"super_category": "", "kind": "alive"}')
    (cat / "test" / "test-1.txt").write_text("a cat on a sofa\na {} with a <thing>\na {} with a <thing>\n")
    (cat / "test" / "test-2.txt").unlink()
    (cat / "test" / "lost.txt").write_text("a {}")
    picture(7).save(cat / "test" / "test-3.png")
    picture(8).save(cat / "test" / "test-3.jpg")
    (cat / "test" / "test-3.txt").write_bytes(b"\xff\xfe\xfd")
    (cat / "train" / "photo.heic").write_bytes(b"x")
    (cat / "train" / "notes.doc").write_bytes(b"x")
    picture(1001).resize((48, 36)).save(cat / "train" / "train-3.jpg", quality=60)
    Image.open(cat / "train" / "train-1.png").resize((192, 144)).save(cat / "test" / "test-4.webp", quality=70)
    (cat / "test" / "test-4.txt").write_text("a {}\nthe {}")
    whole = io.BytesIO()
    picture(9).save(whole, "PNG")
    (mug / "train" / "train-1.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (mug / "train" / "train-2.png").write_text("no picture")
    for path in (root / "mug 10" / "test").iterdir():
        path.unlink()
    (root / "empty").mkdir()
    (root / "bad").mkdir()
    (root / "bad" / "meta.json").write_text("{")
    said = problems(root)
    expected = [
        "bad/meta.json is damaged",
        "bad/train is missing",
        "bad/test is missing",
        "cat/meta.json: super_category is missing",
        "cat/meta.json: kind is 'alive'",
        "cat/train/notes.doc is not an image file of a known type",
        "cat/train/photo.heic cannot be read (it is damaged, or of a kind",
        "cat/test/test-1.txt has 3 captions; 2 are required",
        "cat/test/test-1.txt, caption 1 (a cat on a sofa) has no {}",
        "cat/test/test-1.txt, caption 2 (a {} with a <thing>) contains < or >",
        "cat/test/test-1.txt, caption 3 (a {} with a <thing>) contains < or >",
        "cat/test/test-1.txt, caption 3 (a {} with a <thing>) is there twice",
        "cat/test/test-2.txt is missing",
        "cat/test/test-3.txt cannot be read",
        "cat/test/test-3.txt cannot be read",
        "cat/test/lost.txt does not belong to any photo",
        "cat/test: test-3.jpg and test-3.png differ only in their extension",
        "cat/test/test-4.webp is the same picture as train/train-1.png",
        "empty/meta.json is missing",
        "empty/train is missing",
        "empty/test is missing",
        "mug 9/train/train-1.png cannot be read",
        "mug 9/train/train-2.png cannot be read",
        "mug 10/test has no photos",
    ]
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(start), (line, start)
    assert not any(str(root) in line for line in said), "a path of this machine is of no use here"


@pytest.mark.parametrize("wanted, lines, fine", [(2, 2, True), (10, 2, False), (0, 2, True), (0, 1, True), (0, 0, False)])
def test_the_number_of_captions_is_the_users_choice(tmp_path, wanted, lines, fine):
    write_subject(tmp_path / "set", "cat", captions=lines)
    if fine:
        assert len(read_dataset(tmp_path / "set", captions=wanted).subjects[0].test[0].captions) == lines
    else:
        assert len(problems(tmp_path / "set", wanted)) == 2


def test_captions_by_a_windows_editor_are_read(root):
    (root / "cat" / "test" / "test-1.txt").write_bytes("\ufeffa {} au café\r\n\r\n  the {}  \r\n".encode())
    assert read_dataset(root, ["cat"], 2).subjects[0].test[0].captions == ("a {} au café", "the {}")


def test_an_empty_folder_is_said(tmp_path):
    (tmp_path / "none").mkdir()
    assert "has no subjects" in problems(tmp_path / "none")[0]


def photographs():
    from skimage import data

    named = [Image.fromarray(pixels).convert("RGB") for pixels in (data.astronaut(), data.coffee(), data.chelsea())]
    for photo in named:
        photo.thumbnail((300, 300))
    return named + [photo for photo, _ in cat_photos(4, 240)]


def changed(photo, folder):
    """The same photo as other files."""
    third = tuple(side // 3 for side in photo.size)
    turned = Image.Exif()
    turned[0x0112] = 6
    for name, version, options in (
        ("a.jpg", photo, {"quality": 30}),
        ("b.webp", photo.resize(third), {"quality": 50}),
        ("c.png", photo.resize((photo.width * 2, photo.height * 2)), {}),
        ("d.jpg", ImageOps.mirror(photo), {"quality": 70}),
        ("e.jpg", photo.rotate(90, expand=True), {"quality": 90, "exif": turned}),
        ("f.gif", photo, {}),
    ):
        version.save(folder / name, **options)
        yield folder / name


def test_a_photo_is_known_again_by_its_content_and_no_other_is_taken_for_it(tmp_path):
    photos = photographs()
    for i, photo in enumerate(photos):
        photo.save(tmp_path / f"{i}.png")
    looks = [look_at(tmp_path / f"{i}.png") for i in range(len(photos))]
    for i, photo in enumerate(photos):
        for path in changed(photo, tmp_path):
            assert same_photo(looks[i], look_at(path)), (i, path.name, distance(looks[i], look_at(path)))
    pairs = [(i, j) for i in range(3) for j in range(i)] + [(4, 3), (5, 3), (6, 3), (6, 5)]
    for i, j in pairs:  # different photos; the last ones are different crops of one, mirrored or not
        assert not same_photo(looks[i], looks[j]), (i, j)


def test_a_small_thing_in_another_place_on_plain_ground_is_another_photo(tmp_path):
    for name, place in (("a.png", (40, 40)), ("b.png", (64, 40))):
        photo = Image.new("RGB", (160, 120), "white")
        photo.paste((60, 60, 60), (*place, place[0] + 8, place[1] + 8))
        photo.save(tmp_path / name)
    assert distance(look_at(tmp_path / "a.png"), look_at(tmp_path / "b.png")) < 0.01, "the mean alone does not tell them apart"
    assert not same_photo(look_at(tmp_path / "a.png"), look_at(tmp_path / "b.png"))


def distance(one, other):
    return float(np.abs(one.thumbnail - other.thumbnail).mean())


def test_meta_with_more_in_it_is_fine(root):
    meta = {"super_category": "cat", "kind": "living", "source": "me", "licence": "CC0"}
    (root / "cat" / "meta.json").write_text("\ufeff" + json.dumps(meta), encoding="utf-8")
    assert read_dataset(root, ["cat"], 2).subjects[0].super_category == "cat"
