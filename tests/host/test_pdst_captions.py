"""Drafts of captions: what becomes {}, what is flagged, and that nothing edited by hand is lost."""

import pytest
import torch

from attractor.nodes.evaluation.captions import flags, is_edited, subject_words, to_caption, write_drafts
from attractor.nodes.evaluation.pdst import read_captions
from attractor.nodes.masking.florence import load_florence2
from pdst_set import picture, write_subject

WORDS = subject_words("dog, Corgi  puppy,puppy\n")


@pytest.mark.parametrize(
    "sentence, caption",
    [
        ("A dog on a sofa.", "A {} on a sofa"),
        ("The Dog sits", "The {} sits"),
        ("my dog in the snow", "{} in the snow"),
        ("a corgi puppy and a puppy", "a {} and a puppy"),
        ("a cat\n on a  mat", "a cat on a mat"),
        ("hotdogs", "hotdogs"),
        ("a {} near a dog", "a {} near a dog"),
        ("a <loc_1> dog", "a {}"),
        ("two dogs", "two dogs"),
    ],
)
def test_the_subjects_word_becomes_the_slot(sentence, caption):
    assert to_caption(sentence, WORDS) == caption


@pytest.mark.parametrize(
    "caption, said",
    [
        ("a {} on a sofa", []),
        ("a sofa", ["does not mention the subject"]),
        ("a {} and dogs", ["still names the subject (dog)"]),
        ("a {} near a puppy", ["still names the subject (puppy)"]),
        ("a {} on a {}", ["more than once"]),
        ("a small brown {} on a mat", ["describes the subject (small brown)"]),
        ("a {} and a hotdog stand", []),
        ("a dog", ["does not mention", "still names"]),
        ("a photo of a {} here", []),
        ("the {} <x>", ["< or >"]),
    ],
)
def test_what_a_person_has_to_check_is_flagged(caption, said):
    found = flags(caption, WORDS)
    assert len(found) == len(said) and all(part in text for part, text in zip(said, found, strict=True)), found


@pytest.fixture
def photos(tmp_path):
    folder = write_subject(tmp_path, "dog", captions=0)
    for path in (folder / "test").glob("*.txt"):
        path.unlink()
    return sorted((folder / "test").glob("*.png"))


def write(photos, *drafts, replace_edited=False):
    return write_drafts(photos[0].parents[1], photos, list(drafts), WORDS, replace_edited)


def test_drafts_may_be_drafted_anew_and_edited_files_are_kept(photos):
    first = write(photos, ["a dog here", "a dog here.", "a dog there"], ["a cat"])
    assert [draft.captions for draft in first] == [("a {} here", "a {} there"), ("a cat",)]
    assert [len(draft.flags) for draft in first] == [0, 1] and not any(draft.kept for draft in first)
    assert not is_edited(photos[0])
    photos[1].with_suffix(".txt").write_text("my own {} words\n")
    assert is_edited(photos[1])
    second = write(photos, ["a dog anew"], ["lost"])
    assert [draft.kept for draft in second] == [False, True]
    assert [draft.captions for draft in second] == [("a {} anew",), ("my own {} words",)]
    third = write(photos, ["x {}"], ["y {}"], replace_edited=True)
    assert [draft.captions for draft in third] == [("x {}",), ("y {}",)] and not any(draft.kept for draft in third)


def test_files_from_before_count_as_edited(photos):
    photos[0].with_suffix(".txt").write_text("a {} from elsewhere\n")
    (draft, _) = write(photos, ["a dog"], ["a dog"])
    assert draft.kept and read_captions(photos[0].with_suffix(".txt")) == ("a {} from elsewhere",)
    (photos[0].parents[1] / "drafts.json").write_text("{")
    assert all(draft.kept for draft in write(photos, ["a"], ["b"])), "a lost record must not cost anyone's work"


def test_a_draft_saved_again_by_a_windows_editor_is_not_edited(photos):
    write(photos, ["a dog\na", "b dog"], ["c dog"])
    path = photos[0].with_suffix(".txt")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert not is_edited(photos[0])


def test_florence_describes_the_same_picture_the_same_way(vision_models):
    florence = load_florence2(vision_models / "florence2" / "tiny", torch.float32)
    image = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = florence.captions(image, 4)
        assert 1 <= len(found) <= 4 and all(text and "<" not in text for text in found)
        assert florence.captions(image, 4) == found
    assert picture(0).size == (96, 72)
