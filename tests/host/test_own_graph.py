"""Images of the user's own graph: names that fit a file, whose image is whose, and what is scored again."""

import dataclasses

import pytest
import torch
from PIL import Image

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.encoders import EvaluationEncoders, load_dino
from attractor.nodes.evaluation.entries import Entry
from attractor.nodes.evaluation.evaluation import Evaluation, Setup
from attractor.nodes.evaluation.own_graph import Pictures, Plan, match, phrases_of, readable
from attractor.nodes.evaluation.pdst import Dataset, Subject, TestPhoto, read_dataset
from attractor.nodes.evaluation.results import read_results
from pdst_set import Silent, write_subject

SETTINGS = {"images_per_caption": 2, "seed": 0, "metrics": True, "max_photos": 0, "max_captions": 0}


def plan_of(*subjects, **more):
    dataset = Dataset(None, subjects)
    return Plan(dataset, {subject.name: "x" for subject in subjects}, SETTINGS, **more)


def subject(tmp_path, name, *photos):
    return Subject(name, "dog", "living", (), tuple(TestPhoto(tmp_path / photo, ("a {}", "the {}")) for photo in photos))


def test_names_are_files_of_their_own_whatever_subjects_and_photos_are_called(tmp_path):
    odd = [("a", "b--c.png"), ("a--b", "c.png"), ("dög 1", "1 (2).jpg"), ("dög/1", "1 %date% [2].jpg"), ("x", "..y.png")]
    plan = plan_of(*(subject(tmp_path, name, photo) for name, photo in odd))
    assert len(plan.share) == len(odd) * 4
    for name in plan.share:
        assert not set(name) & set('/\\:*?"<>|%() ') and not name.startswith("."), name
    assert next(iter(plan_of(subject(tmp_path, "my-dog", "photo-1.jpg")).share)) == "my-dog--photo-1--01-1"


def test_shards_are_all_images_and_each_once(tmp_path):
    one = subject(tmp_path, "dog", "1.png", "2.png")
    shares = [plan_of(one, shard=shard, shards=3).share for shard in (1, 2, 3)]
    assert sorted(name for share in shares for name in share) == sorted(plan_of(one).everything)
    assert plan_of(one, shard=1, shards=3).everything == plan_of(one).everything


def test_names_with_a_number_of_save_image_are_known_and_others_are_said(tmp_path):
    plan = plan_of(subject(tmp_path, "dog", "1.png"))
    names = [*plan.share]
    images = [torch.full((4, 4, 3), number / 10) for number in range(4)]
    saved = [f"{name}_{number:05d}_" for number, name in enumerate(names, 1)]
    assert match(plan, saved[::-1], images[::-1], "folder") == match(plan, names, images, "names")
    with pytest.raises(UserError) as raised:
        match(plan, [names[0], saved[0], "dog", "x" * 500], images, "names")
    said = str(raised.value)
    assert "names: the plan knows no 'dog', 'xxx" in said and f"several images of '{names[0]}'" in said and len(said) < 700
    assert f"no image of '{names[1]}', '{names[2]}', '{names[3]}'. Make them all" in said
    one = dataclasses.replace(plan, shard=1, shards=4)
    assert [*match(one, names, images, "names")] == names[:1], "images of other shards are left alone"


def test_every_subject_has_one_phrase(tmp_path):
    data = Dataset(None, (subject(tmp_path, "a", "1.png"), subject(tmp_path, "b", "1.png")))
    assert phrases_of("{super_category}", data) == {"a": "dog", "b": "dog"}
    assert phrases_of("a: <my-dog>\nb: embedding:rex dog", data) == {"a": "<my-dog>", "b": "embedding:rex dog"}
    for typed, said in ((" \n", "is empty"), ("a: x", "b has no line"), ("a: x\nb: y\na: z", "several phrases")):
        with pytest.raises(UserError, match=said):
            phrases_of(typed, data)


def test_a_picture_that_cannot_be_read_is_named_before_anything_is_scored(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="folder: bad.png cannot be read"):
        readable([tmp_path / "good.png", tmp_path / "bad.png"])


@pytest.fixture
def scored(tmp_path, small_encoders):
    """scored(images): scores images of one subject; its entry. Counts what was encoded."""
    write_subject(tmp_path / "set", "cat")
    dataset = read_dataset(tmp_path / "set", captions=2)
    encoders = EvaluationEncoders(dino=load_dino(small_encoders / "evaluation" / "dino-tiny"))
    plan = Plan(dataset, {"cat": "cat"}, SETTINGS)

    def score(images, most=99):
        pictures = Pictures(plan, dict(zip(plan.share, images, strict=True)))
        entry = Entry("own-cat", None, dataset.subjects[0], "id", "cat", "own", "")
        setup = Setup(SETTINGS, {})
        calls = []

        def maker(prompts, seeds):
            if len(calls) == most:
                raise KeyboardInterrupt
            calls.append(seeds)
            return pictures(prompts, seeds)

        evaluation = Evaluation(tmp_path / "out", [entry], encoders, setup, lambda _: maker, pictures.unchanged)
        evaluation.check()
        evaluation.open(Silent())
        try:
            evaluation.run(Silent())
        except KeyboardInterrupt:
            return len(calls)
        return read_results(tmp_path / "out")[0].records, len(calls)

    return score


def test_a_cut_goes_on_and_only_changed_images_are_scored_again(scored, tmp_path):
    images = [torch.rand(20 + number, 24, 4, generator=torch.Generator().manual_seed(number)) * 1.2 for number in range(8)]
    assert scored(images, most=3) == 3
    records, calls = scored(images)
    assert calls == 5 and len({record["pixels"] for record in records}) == 8
    path = tmp_path / "out" / "own-cat.jsonl"
    before = path.read_bytes()
    assert scored(images) == (records, 0) and path.read_bytes() == before
    again = [*images[:1], images[1].flip(0), *images[2:6], images[6].flip(1), images[7]]
    changed, calls = scored(again)
    assert calls == 2
    pairs = zip(records, changed, strict=True)
    assert [number for number, (one, other) in enumerate(pairs) if one["scores"] != other["scores"]] == [1, 6]
    back, _ = scored(images)
    assert [r["scores"] for r in back] == [r["scores"] for r in records]


def test_an_image_that_is_no_number_is_refused_and_the_rest_is_kept(scored):
    images = [torch.rand(16, 16, 3) for _ in range(8)]
    images[2] = torch.full((16, 16, 3), float("nan"))
    with pytest.raises(UserError, match="own-cat contain NaN"):
        scored(images)
    images[2] = torch.rand(16, 16, 3)
    assert scored(images)[1] == 6
