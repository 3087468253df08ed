"""Which images are made: seeds, batches, shards, the pairing of tokens with subjects."""

import dataclasses
import hashlib

import pytest
import torch

from attractor.nodes.evaluation.entries import make_entries, misfits
from attractor.nodes.evaluation.pdst import Dataset, Subject, TestPhoto, read_dataset
from attractor.nodes.evaluation.plan import limited, make_batches, make_plan, prompt_for, shard_of, shot_seed
from attractor.nodes.evaluation.quick import quick_shots
from attractor.trainer.concept import Embedding, PersonalizedToken
from pdst_set import write_subject


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    write_subject(root, "my-dog", "dog")
    write_subject(root, "dog 2", "dog", seed=1)
    write_subject(root, "mug", "cup", "rigid", test=3, captions=3, seed=2)
    return read_dataset(root, captions=0)


def token(placeholder, super_category="dog", **record):
    return PersonalizedToken(placeholder, super_category, "neti", 768, Embedding(torch.zeros(1, 768)), record=record)


def entries(dataset, *tokens, pairs="", labels="", floor=False, identities=None, known=(), trigger=""):
    identities = identities or [f"{i:06d}rest" for i, _ in enumerate(tokens)]
    return make_entries(list(tokens), identities, dataset, pairs, labels, floor, frozenset(known), trigger)


def test_a_seed_depends_on_base_subject_photo_caption_and_index_alone(dataset):
    shots = make_plan(dataset.subjects, 2, 7)
    assert len({shot.seed for shot in shots}) == len(shots) == (4 + 4 + 9) * 2
    assert all(0 <= shot.seed < 2**53 for shot in shots)
    turned = make_plan(dataset.subjects[::-1], 2, 7)
    alone = make_plan(dataset.subjects[2:], 2, 7)
    more = make_plan(dataset.subjects, 3, 7)
    key = lambda shot: (shot.subject, shot.photo, shot.caption, shot.index)  # noqa: E731
    seeds = {key(shot): shot.seed for shot in shots}
    for other in (turned, alone, more):
        assert all(seeds[key(shot)] == shot.seed for shot in other if shot.index < 2)
    assert not {shot.seed for shot in make_plan(dataset.subjects, 2, 8)} & set(seeds.values())
    assert shot_seed(0, "a", "b", "c", 0) != shot_seed(0, "ab", "", "c", 0)


def test_a_seed_never_changes_between_versions():
    content = "\0".join(["attractor-pdst", "7", "cat", "photo-1", "a {} here", "2"]).encode()
    assert shot_seed(7, "cat", "photo-1", "a {} here", 2) == int(hashlib.sha256(content).hexdigest()[:16], 16) >> 11


def test_shards_take_whole_batches_of_one_caption_and_every_one_once(dataset):
    shots = make_plan(dataset.subjects, 5, 0)
    batches = make_batches(shots, 3)
    assert [shot for batch in batches for shot in batch] == shots
    assert {len(batch) for batch in batches} == {3, 2}
    assert all(len({(shot.subject, shot.photo, shot.caption) for shot in batch}) == 1 for batch in batches)
    parts = [shard_of(batches, i, 4) for i in (1, 2, 3, 4)]
    assert sorted(batch[0].number for part in parts for batch in part) == [batch[0].number for batch in batches]


def test_a_quick_look_takes_the_first_photos_and_captions(dataset):
    short = limited(dataset, 1, 2)
    assert [len(s.test) for s in short.subjects] == [1, 1, 1]
    assert all(len(photo.captions) == 2 for s in short.subjects for photo in s.test)
    assert limited(dataset) == dataset
    assert all(len(s.train) == 2 for s in short.subjects)


def test_the_few_images_while_training_are_spread_over_the_photos(dataset):
    mug = dataset.subjects[1]
    assert [(s.photo, s.caption) for s in quick_shots(mug, 5, 0)] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]
    assert len(quick_shots(mug, 100, 0)) == 9
    seeds = {shot.seed for shot in make_plan((mug,), 5, 0)}
    assert {shot.seed for shot in quick_shots(mug, 5, 0)} < seeds, "the same images as in an evaluation of this seed"


def test_brackets_in_captions_are_no_weights():
    assert prompt_for("a {} (small) on a mat", "<my-dog>") == "a <my-dog> \\(small\\) on a mat"


@pytest.mark.parametrize(
    "given, name",
    [
        (token("<my-dog>"), "my-dog"),
        (token("<dog2>"), "dog 2"),
        (token("<mug>", ""), "mug"),
        (token("<other>", "cup"), "mug"),
        (token("<My_Dog>", "cup"), "my-dog"),
        (token("<my-mug>", "dog"), "mug"),
    ],
)
def test_a_token_finds_its_subject_by_name_or_else_by_super_category(dataset, given, name):
    (entry,), problems = entries(dataset, given)
    assert not problems and entry.subject.name == name


def test_a_token_that_fits_no_subject_or_two_is_named_with_the_choices(dataset):
    found, problems = entries(dataset, token("<rex>"), token("<it>", "cow"))
    assert not found and len(problems) == 2
    assert "<rex> (dog)" in problems[0] and "Write <rex> = subject" in problems[0] and "dog 2, mug, my-dog" in problems[0]
    assert "<it> (cow)" in problems[1]
    (rex, it), problems = entries(dataset, token("<rex>"), token("<it>", "cow"), pairs="<rex> = dog 2\n\n <it>=mug ")
    assert (rex.subject.name, it.subject.name, problems) == ("dog 2", "mug", [])


def test_wrong_pairs_are_said(dataset):
    _, problems = entries(dataset, token("<my-dog>"), pairs="<my-dog> dog 2\n<you> = mug\n<my-dog> = cow")
    assert [text.split(":")[0] for text in problems] == ["pairs"] * 3
    assert "has no =" in problems[0] and "no token is called '<you>'" in problems[1] and "no subject 'cow'" in problems[2]


def test_any_token_fits_a_data_set_of_one_subject(dataset):
    only = Dataset(dataset.root, dataset.subjects[1:2])
    (entry,), problems = entries(only, token("<rex>"))
    assert not problems and entry.subject.name == "mug"


def test_each_subject_that_has_a_token_has_a_floor_of_its_own(dataset):
    (_, floor), _ = entries(dataset, token("<my-dog>"), floor=True)
    assert floor.token is None and (floor.label, floor.subject.name, floor.name_in_prompt) == ("floor-my-dog", "my-dog", "dog")
    alone, _ = entries(dataset, floor=True)
    assert [entry.label for entry in alone] == ["floor-dog 2", "floor-mug", "floor-my-dog"]
    assert alone[1].name_in_prompt == "cup"
    assert "nothing to evaluate" in entries(dataset)[1][0]


def test_checkpoints_and_methods_have_labels_of_their_own_in_any_order(dataset):
    steps = [token("<my-dog>", step=step, settings={"method": "neti+"}) for step in (20, 100)]
    twins = [token("<my-dog>", step=5), token("<my-dog>", step=5)]
    found, _ = entries(dataset, *steps, *twins, identities=["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"])
    labels = [entry.label for entry in found]
    assert labels == ["my-dog-neti+-step-20", "my-dog-neti+-step-100", "my-dog-neti-step-5-cccccc", "my-dog-neti-step-5-dddddd"]
    assert [entry.step for entry in found] == [20, 100, 5, 5]
    again, _ = entries(dataset, *twins[::-1], *steps, identities=["dddddddd", "cccccccc", "aaaaaaaa", "bbbbbbbb"])
    assert {entry.label for entry in again} == set(labels)
    same, _ = entries(dataset, *twins, identities=["eeeeeeee", "eeeeeeee"])
    assert [entry.label for entry in same] == ["my-dog-neti-step-5"], "the same token twice is evaluated once"


def test_checkpoints_of_one_training_name_the_same_run_and_those_of_another_do_not(dataset):
    def run(step, lr=1.0, photos="p", steps=500):
        settings = {"method": "neti", "learning_rate": lr, "steps": steps}
        made = token("<my-dog>", step=step, settings=settings, identity={"photos": photos}, scores={"dino": step})
        (entry,), _ = entries(dataset, made)
        return entry.describe()["run"]

    assert run(100) == run(200) == run(700, steps=1000)
    assert len({run(100), run(100, lr=2.0), run(100, photos="q")}) == 3
    (entry,), _ = entries(dataset, token("<my-dog>"))
    assert entry.describe()["run"] is None


def test_a_token_keeps_the_label_it_was_evaluated_under(dataset):
    """Whichever others are wired now, or were then."""

    def labels(*identities, known):
        tokens = [token("<my-dog>", step=5) for _ in identities]
        return [entry.label for entry in entries(dataset, *tokens, identities=list(identities), known=known)[0]]

    alone, a, b = "my-dog-neti-step-5", "my-dog-neti-step-5-aaaaaa", "my-dog-neti-step-5-bbbbbb"
    assert labels("aaaaaaaa", "bbbbbbbb", known=[(alone, "aaaaaaaa")]) == [alone, b]
    assert labels("bbbbbbbb", known=[(alone, "aaaaaaaa"), (b, "bbbbbbbb")]) == [b]
    assert labels("aaaaaaaa", known=[(a, "aaaaaaaa"), (b, "bbbbbbbb")]) == [a]
    assert labels("cccccccc", known=[(alone, "aaaaaaaa")]) == [alone], "retrained: refused, not put beside the other"


def test_a_token_on_a_subject_of_another_super_category_is_said(dataset):
    only = Dataset(dataset.root, dataset.subjects[1:2])
    found, _ = entries(only, token("<rex>"), token("<rex>", step=2), token("<x>", "Cup"), token("<y>", ""), floor=True)
    assert misfits(found) == ["Check this: <rex> was trained as 'dog', but mug is 'cup'. clip_t uses the latter."]


def test_labels_by_hand(dataset):
    found, problems = entries(dataset, token("<my-dog>"), token("<mug>"), labels="ours\n their own ")
    assert [entry.label for entry in found] == ["ours", "their own"] and not problems
    for labels, word in (("a", "2 tokens and 1 labels"), ("a\na", "the same"), ("a\n../b", "cannot be"), ("a\nfloor", "taken")):
        assert any(word in text for text in entries(dataset, token("<my-dog>"), token("<mug>"), labels=labels)[1]), labels


def test_a_trigger_phrase_stands_for_the_subject_that_its_line_names(dataset):
    found, problems = entries(dataset, trigger="my-dog: sks dog\n\n mug:(ohwx {super_category}:1.2) ", floor=True)
    assert not problems
    assert [(e.label, e.subject.name, e.name_in_prompt) for e in found] == [
        ("sks-dog-trigger", "my-dog", "sks dog"),
        ("ohwx-cup-1.2-trigger", "mug", "(ohwx cup:1.2)"),
        ("floor-mug", "mug", "cup"),
        ("floor-my-dog", "my-dog", "dog"),
    ]
    assert found[0].describe() == {
        "placeholder": "sks dog",
        "super_category": "dog",
        "kind": "trigger",
        "method": "trigger",
        "width": 0,
        "run": None,
        "schedule": None,
    }
    everyone, _ = entries(dataset, trigger="sks {super_category}")
    assert [(e.subject.name, e.phrase) for e in everyone] == [("dog 2", "sks dog"), ("mug", "sks cup"), ("my-dog", "sks dog")]
    assert len({e.label for e in everyone}) == 3 and len({e.identity for e in everyone}) == 3
    only = Dataset(dataset.root, dataset.subjects[1:2])
    assert [e.phrase for e in entries(only, trigger="sks cup\nsks cup\nmug: a cup, style: anime")[0]] == [
        "sks cup",
        "a cup, style: anime",
    ]


def test_a_token_and_a_phrase_are_evaluated_side_by_side_and_named_in_this_order(dataset):
    found, _ = entries(dataset, token("<my-dog>"), trigger="my-dog: sks dog", labels="ours\nLoRA", floor=True)
    assert [(e.label, e.token is not None, e.phrase) for e in found] == [
        ("ours", True, None),
        ("LoRA", False, "sks dog"),
        ("floor-my-dog", False, None),
    ]
    assert found[1].describe()["method"] == "LoRA", "the report groups it by the name that was typed"
    assert "2 tokens and phrases and 1 labels" in entries(dataset, token("<my-dog>"), trigger="mug: x", labels="a")[1][0]


@pytest.mark.parametrize(
    "trigger, said",
    [
        ("sks dog", "which subject is 'sks dog'? The data set has several. Write a line for each, such as dog 2: sks dog"),
        ("rex: sks dog", "no subject 'rex'. Its subjects: dog 2, mug, my-dog"),
        ("mug:", "a subject has no phrase"),
        ("mug: a {}", "has braces"),
        ("mug: a {category}", "has braces"),
        ("mug: <my-mug>", "has < or >, which mark tokens"),
        ("mug: " + "x" * 241, "is too long"),
    ],
)
def test_a_trigger_that_says_nothing_clear_is_refused_in_a_sentence(dataset, trigger, said):
    found, (problem,) = entries(dataset, trigger=trigger)
    assert not found and problem.startswith("trigger: ") and said in problem and len(problem) < 300


def test_a_subject_knows_nothing_of_its_folder(dataset):
    photo = TestPhoto(dataset.root / "x.png", ("a {}",))
    subject = Subject("cow", "cow", "living", (), (photo,))
    moved = dataclasses.replace(subject, test=(TestPhoto(dataset.root / "elsewhere" / "x.jpg", ("a {}",)),))
    assert make_plan((subject,), 3, 0) == make_plan((moved,), 3, 0), "a data set may be moved and its photos re-encoded"
