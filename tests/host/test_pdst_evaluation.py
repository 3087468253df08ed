"""An evaluation without a server: scores are of the files, the first of a kind is shown, and what costs time is counted."""

import json
import shutil

import pytest
import torch
from PIL import Image

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation import nodes_evaluate as evaluate
from attractor.nodes.evaluation.encoders import EvaluationEncoders, load_clip, load_dino
from attractor.nodes.evaluation.entries import make_entries
from attractor.nodes.evaluation.evaluation import Evaluation, Setup
from attractor.nodes.evaluation.evaluation_state import evaluation_state
from attractor.nodes.evaluation.metrics import SCORES, references, score
from attractor.nodes.evaluation.nodes_evaluate import PDSTEvaluate
from attractor.nodes.evaluation.pdst import read_dataset
from attractor.nodes.evaluation.quick import quick_scores
from attractor.nodes.evaluation.results import read_results, result_stamps
from attractor.nodes.host import folders
from attractor.nodes.host.versions import made_with
from attractor.nodes.pictures import read_picture
from attractor.trainer.concept import Embedding, PersonalizedToken
from pdst_set import Silent, write_subject


def noise(prompts, seeds):
    """Images as a model would give them: floats, another for each seed and prompt."""

    def image(prompt, seed):
        generator = torch.Generator().manual_seed((seed + sum(prompt.encode())) % 2**40)
        return torch.rand(8, 8, 3, generator=generator).repeat_interleave(6, 0).repeat_interleave(6, 1)

    return torch.stack([image(*pair) for pair in zip(prompts, seeds, strict=True)])


@pytest.fixture(scope="module")
def encoders(small_encoders):
    folder = small_encoders / "evaluation"
    return EvaluationEncoders(load_clip(folder / "clip-tiny"), load_dino(folder / "dino-tiny"))


@pytest.fixture
def evaluation(tmp_path, encoders):
    """evaluation(**changes): an evaluation of two subjects' tokens in one folder."""
    write_subject(tmp_path / "set", "cat")
    write_subject(tmp_path / "set", "mug", "cup", "rigid", seed=1)

    def make(make_images=noise, scored=True, which=("cat", "mug"), tokens=1.0, **changes):
        dataset = read_dataset(tmp_path / "set", captions=2)
        chosen = [PersonalizedToken(f"<{name}>", "", "neti", 4, Embedding(torch.full((1, 4), tokens))) for name in which]
        entries, problems = make_entries(chosen, [f"{name}{tokens}" for name in which], dataset, "", "", True)
        assert not problems
        settings = {"images_per_caption": 3, "seed": 0, "batch_size": 2, **changes.pop("settings", {})}
        setup = Setup(settings, {"model": "m"}, **changes)
        return Evaluation(tmp_path / "out", entries, encoders if scored else None, setup, lambda entry: make_images)

    return make


def run(evaluation):
    progress = Silent()
    evaluation.check()
    evaluation.open(progress)
    evaluation.run(progress)
    return progress


def test_scores_are_those_of_the_saved_files(evaluation, encoders, tmp_path):
    whole = evaluation()
    progress = run(whole)
    found = {entry.entry: entry for entry in read_results(tmp_path / "out")}
    assert list(found) == ["cat-neti", "mug-neti", "floor-cat", "floor-mug"]
    subject = read_dataset(tmp_path / "set", captions=2).subjects[1]
    real = references(subject, encoders)
    for name in ("mug-neti", "floor-mug"):
        assert found[name].header["ceiling"] == {"mug": real.ceiling}
        for record in found[name].records[::5]:
            image = read_picture(tmp_path / "out" / record["image"])[0][None]
            photo = ["test-1.png", "test-2.png"].index(record["photo"])
            wanted = score(image, [record["text"].replace("{}", "cup")], real, [photo], encoders)
            assert record["scores"] == {key: value for key, (value,) in wanted.items()}
            assert tuple(record["scores"]) == SCORES
    assert progress.values[-1] == whole.total == 4 * 12 and progress.previews
    assert progress.lines[0] == "reading the photos of cat"
    assert "floor-mug (4 of 4) · image 48 of 48 · clip_t" in progress.lines[-1]
    assert len(whole.samples()) == 4


def test_the_time_of_everything_but_sampling_is_recorded(evaluation, tmp_path):
    import time

    def slow(prompts, seeds):
        time.sleep(0.2)
        return noise(prompts, seeds)

    whole = evaluation(slow, which=("cat",), scored=False, settings={"batch_size": 3})
    started = time.monotonic()
    run(whole)
    elapsed = time.monotonic() - started
    records = [record for entry in read_results(tmp_path / "out") for record in entry.records]
    sampling = sum(record["seconds_sampling"] for record in records)
    other = sum(record["seconds_other"] for record in records)
    assert 8 * 0.2 <= sampling < elapsed and 0 < other < elapsed - sampling
    assert whole.summary().splitlines()[-1].startswith("time: ")


def test_another_subjects_token_joins_and_its_floor_with_it(evaluation, tmp_path):
    run(evaluation(which=("cat",), scored=False))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
    run(evaluation(which=("mug",), scored=False))
    assert {entry.entry for entry in read_results(tmp_path / "out")} == {"cat-neti", "mug-neti", "floor-cat", "floor-mug"}
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in before.items())


def test_a_finished_evaluation_makes_nothing_and_shows_what_is_saved(evaluation):
    run(evaluation(which=("cat",), scored=False))

    def never(prompts, seeds):
        raise AssertionError("nothing is left to make")

    again = evaluation(never, which=("cat",), scored=False)
    run(again)
    assert len(again.samples()) == 2 and again.done == again.total == 24


def test_scores_on_top_of_images_without_are_refused(evaluation):
    run(evaluation(scored=False))
    with pytest.raises(UserError, match="encoder clip was None"):
        evaluation().check()


def test_start_over_removes_what_does_not_fit_and_nothing_else(evaluation, tmp_path):
    run(evaluation(which=("mug",), scored=False))
    run(evaluation(which=("cat",), scored=False))
    mug = (tmp_path / "out" / "mug-neti.jsonl").read_bytes()
    run(evaluation(which=("cat",), tokens=2.0, scored=False, start_over=True))
    assert (tmp_path / "out" / "mug-neti.jsonl").read_bytes() == mug
    identity = json.loads((tmp_path / "out" / "cat-neti.jsonl").read_text().splitlines()[0])["identity"]
    assert identity["token"] == "cat2.0"
    run(evaluation(which=("cat",), tokens=2.0, scored=False, start_over=True, settings={"seed": 9}))
    assert {entry.entry for entry in read_results(tmp_path / "out")} == {"cat-neti", "floor-cat"}


@pytest.mark.parametrize(
    "images, said",
    [
        (torch.full((2, 8, 8, 3), float("nan")), "contain NaN"),
        (torch.OutOfMemoryError("no room"), "batch_size"),
    ],
)
def test_a_model_that_gives_no_image_is_said_and_what_was_made_is_kept(evaluation, tmp_path, images, said):
    made = []

    def fails(prompts, seeds):
        if len(made) < 3:
            made.append(prompts)
            return noise(prompts, seeds)
        if isinstance(images, Exception):
            raise images
        return images[: len(prompts)]

    with pytest.raises(UserError, match=said):
        run(evaluation(fails, which=("cat",), scored=False))
    assert (tmp_path / "out" / "cat-neti.jsonl").read_text().count("\n") == 1 + 5
    run(evaluation(which=("cat",), scored=False))
    assert [entry.entry for entry in read_results(tmp_path / "out")] == ["cat-neti", "floor-cat"]


def test_the_node_runs_again_when_its_results_change_and_not_else(evaluation, tmp_path, monkeypatch):
    """As the host asks: a list an input, [None] where it is wired."""
    monkeypatch.setattr(folders, "evaluations_folder", lambda: tmp_path)

    def stamp(**inputs):
        return PDSTEvaluate.fingerprint_inputs(**{"name": ["out"], "model": [None], "start_over": [False], **inputs})

    def again(**inputs):
        return stamp(**inputs) != stamp(**inputs)

    assert again()
    run(evaluation(which=("cat",), scored=False))
    assert again(), "nobody has said that it came to its end"
    monkeypatch.setattr(evaluate, "_finished", {result_stamps([tmp_path / "out"])})
    assert not again() and not again(name=[" out "])
    run(evaluation(which=("cat",), scored=False))
    assert not again(), "a run that finds everything there touches nothing"
    assert again(start_over=[True]) and again(name=[None]) and again(start_over=[None]) and again(name=["../out"])
    (tmp_path / "out" / "floor-cat.jsonl").unlink()
    assert again()


@pytest.mark.parametrize("kept", [1, 2], ids=["a part of a batch", "a whole batch"])
def test_what_a_cut_leaves_of_the_first_batch_does_not_cost_the_ceiling(evaluation, tmp_path, kept):
    run(evaluation(which=("cat",)))
    path = tmp_path / "out" / "cat-neti.jsonl"
    before = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(before[: 1 + kept]))
    run(evaluation(which=("cat",)))
    after = path.read_bytes().splitlines(keepends=True)
    assert json.loads(after[0])["ceiling"]["cat"] and after[0] == before[0] and len(after) == len(before)


def test_results_without_the_copies_of_the_photos_go_on_and_get_them_back(evaluation, tmp_path):
    run(evaluation(which=("cat",), scored=False))
    photos, path = tmp_path / "out" / "photos", tmp_path / "out" / "cat-neti.jsonl"
    shutil.rmtree(photos)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert run(evaluation(which=("cat",), scored=False)).previews
    assert sorted(p.name for p in photos.rglob("*.jpg")) == ["test-1.jpg", "test-2.jpg"]


def test_scores_while_training_are_of_no_image_that_is_no_number(encoders, tmp_path):
    write_subject(tmp_path, "cat")
    (subject,) = read_dataset(tmp_path, captions=2).subjects
    real = references(subject, encoders)
    found = quick_scores(noise, "<cat>", subject, real, encoders, 2, 0)
    assert tuple(found) == SCORES
    with pytest.raises(UserError, match="images of <cat> contain NaN"):
        quick_scores(lambda *_: torch.full((1, 8, 8, 3), float("nan")), "<cat>", subject, real, encoders, 2, 0)


def test_photos_are_kept_beside_the_results(evaluation, tmp_path):
    run(evaluation(which=("cat",), scored=False, save_images=False))
    header = read_results(tmp_path / "out")[0].header
    sizes = [Image.open(tmp_path / "out" / name).size for name in header["subjects"]["cat"]["references"]]
    assert sizes == [(96, 72)] * 2
    assert not (tmp_path / "out" / "images").exists()
    assert str(tmp_path) not in (tmp_path / "out" / "cat-neti.jsonl").read_text(), "results are to be shared, without paths"


def test_results_tell_what_made_them_and_are_continued_by_another_version(evaluation, tmp_path):
    first = made_with()
    assert set(first) == {"pack", "comfyui", "torch", "device"} and all(first.values())
    run(evaluation(which=("cat",), made_with=first))
    with open(tmp_path / "out" / "cat-neti.jsonl", "r+b") as file:
        whole = file.read()
        file.truncate(len(whole) - 5)
    run(evaluation(which=("cat",), made_with={**first, "pack": "9.9.9 (00000000)"}))
    entries = read_results(tmp_path / "out")
    assert [len(entry.records) for entry in entries] == [12, 12]
    assert all(entry.header["made_with"] == first for entry in entries)
    assert all(entry.header["together"] == ["cat-neti", "floor-cat"] for entry in entries)


def test_what_a_tokens_results_begin_with_never_changes(evaluation, tmp_path):
    """Not even by a field: doors that came later have fields of their own, and results of any version go on."""
    run(evaluation(which=("cat",), scored=False, save_images=False))
    fields = "format version evaluation entry step shard expected token identity settings encoders ceiling subjects together"
    for name in ("cat-neti", "floor-cat"):
        header, first = map(json.loads, (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()[:2])
        assert " ".join(header) == f"{fields} made_with"
        assert " ".join(first) == (
            "number subject photo caption text prompt index seed scores image seconds_sampling seconds_other"
        )


def test_a_script_can_ask_how_far_an_evaluation_is(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "evaluations_folder", lambda: tmp_path)
    assert evaluation_state("none-yet")["results"] == []
    run(evaluation(which=("cat",), shard=2, shards=3))
    (tmp_path / "out" / "foreign.jsonl").write_text("of something else\n")
    state = evaluation_state("out")
    assert state["folder"] == "pdst/out"
    assert [(one["file"], one["images"]) for one in state["results"]] == [
        ("cat-neti-shard-2-of-3.jsonl", 4),
        ("floor-cat-shard-2-of-3.jsonl", 4),
    ]
    assert state["results"][0]["header"]["entry"] == "cat-neti"
    with pytest.raises(UserError, match="cannot be a file name"):
        evaluation_state("../out")
