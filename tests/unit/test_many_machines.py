"""scripts/many_machines without servers: what a graph becomes for them, and what counts as done."""

import json
import subprocess
import sys

import pytest

from pdst_set import write_subject
from source_files import ROOT

sys.path.append(str(ROOT / "scripts"))

from many_machines.graph_files import LocalFiles  # noqa: E402
from many_machines.outcomes import Lost, WrongUse  # noqa: E402
from many_machines.result_folder import ResultFolder  # noqa: E402
from many_machines.same_models import Reference  # noqa: E402
from many_machines.training_grid import Grid  # noqa: E402
from many_machines.work_plans import EvaluationWork, Sharding, evaluate  # noqa: E402

PHOTOS, CAPTIONS, EACH = 2, 3, 4


@pytest.fixture
def comfyui(tmp_path):
    """A ComfyUI folder with two subjects and a token."""
    root = tmp_path / "ComfyUI"
    for number, name in enumerate(("cat", "dog")):
        write_subject(root / "models" / "pdst" / "pets", name, name, test=PHOTOS, captions=CAPTIONS, seed=number)
    for name in ("token.safetensors", "run/run-step-000001.safetensors", "run/run-step-000002.safetensors"):
        (root / "output" / "neti" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "output" / "neti" / name).write_bytes(name.encode())
    return root


def graph(subjects="cat", **changes):
    """An evaluation of a token, and a report."""
    inputs = {"name": "my eval", "images_per_caption": EACH, "dataset": ["2", 0], "tokens": ["3", 0], "options": ["4", 0]}
    return {
        "1": {"class_type": "AttractorPDSTEvaluate", "inputs": {**inputs, **changes}, "_meta": {"title": "a"}},
        "2": {"class_type": "AttractorLoadPDST", "inputs": {"folder": "pdst/pets", "subjects": subjects}},
        "3": {"class_type": "AttractorLoadNeTIMapper", "inputs": {"file": "token.safetensors"}},
        "4": {"class_type": "AttractorPDSTEvaluateOptions", "inputs": {"batch_size": 2, "shard": 3, "shards": 9}},
        "5": {"class_type": "AttractorPDSTReport", "inputs": {"results": ["1", 0]}},
    }


def jobs_of(folder, comfyui, prompt, workers=2, asked=0):
    file = folder / "graph.json"
    file.write_text(json.dumps(prompt))
    results = folder / "results"
    return evaluate(file, LocalFiles(comfyui), lambda name: ResultFolder(results), Sharding(workers, asked)).jobs


def test_a_job_is_the_evaluation_alone_with_its_shard_and_paths_on_the_server(tmp_path, comfyui):
    jobs = jobs_of(tmp_path, comfyui, graph(), asked=3)
    assert [(job.shard, job.shards, job.images) for job in jobs] == [(1, 3, 16), (2, 3, 16), (3, 3, 16)]
    prompt = jobs[1].graph
    assert set(prompt) == {"1", "2", "3", "4"}, "a report would fail: other shards are missing there"
    assert prompt["4"]["inputs"] == {"batch_size": 2, "shard": 2, "shards": 3}
    data, token = sorted(jobs[1].bundles, key=lambda bundle: bundle.place)
    assert prompt["2"]["inputs"]["folder"] == f"input/{data.folder}" and data.folder.startswith("cluster/")
    assert prompt["3"]["inputs"]["file"] == f"{token.folder.removeprefix('neti/')}/token.safetensors"
    assert {name.split("/")[0] for name in data.files} == {"cat"}, "the dog is not needed"
    assert data.contents()["cat/meta.json"] == (comfyui / "models" / "pdst" / "pets" / "cat" / "meta.json").read_bytes()
    assert token.place == "output" and list(token.contents().values()) == [b"token.safetensors"]


def test_images_are_counted_with_floors_checkpoints_and_limits(tmp_path, comfyui):
    def images(prompt):
        return EvaluationWork.of(prompt, "x", LocalFiles(comfyui)).images

    assert images(graph()) == 2 * PHOTOS * CAPTIONS * EACH
    assert images(graph(include_floor=False, max_captions=2, max_photos=1)) == 2 * EACH
    prompt = graph(subjects="all", include_floor=True)
    del prompt["1"]["inputs"]["tokens"], prompt["3"]
    assert images(prompt) == 2 * PHOTOS * CAPTIONS * EACH  # a floor for each subject
    prompt = graph(include_floor=False)
    prompt["3"] = {"class_type": "AttractorLoadTokenCheckpoints", "inputs": {"run": "run"}}
    assert images(prompt) == 2 * PHOTOS * CAPTIONS * EACH
    prompt = graph(subjects="all", include_floor=False, trigger="cat: sks cat\n\nsks {super_category}")
    del prompt["1"]["inputs"]["tokens"], prompt["3"]
    assert images(prompt) == 3 * PHOTOS * CAPTIONS * EACH, "a phrase for the cat, and one for every subject"


def test_the_packs_own_example_is_sent_like_any_data_set(tmp_path, comfyui):
    prompt = graph(subjects="my-monster")
    prompt["2"]["inputs"]["folder"] = "attractor example"
    work = EvaluationWork.of(prompt, "x", LocalFiles(comfyui))
    assert "my-monster/meta.json" in work.bundles[0].files and work.images > 0


def test_there_are_shards_for_all_workers_none_of_them_large_or_empty():
    assert Sharding(2).count(images=400, batches=80) == 8
    assert Sharding(2).count(images=4000, batches=800) == 20
    assert Sharding(4).count(images=12, batches=3) == 3
    assert Sharding(4, asked=5).count(images=12, batches=3) == 5


def test_the_name_on_a_server_changes_with_all_that_the_images_depend_on_and_with_nothing_else(tmp_path, comfyui):
    def name(**changes):
        return EvaluationWork.of(graph(**changes), "x", LocalFiles(comfyui)).name

    first = name()
    other_title = graph()
    other_title["1"]["_meta"] = {"title": "b"}
    other_title["4"]["inputs"].update(shard=1, shards=2)
    assert EvaluationWork.of(other_title, "x", LocalFiles(comfyui)).name == first == name(name="another")
    assert name(seed=1) != first
    (comfyui / "models" / "pdst" / "pets" / "cat" / "test" / "test-1.txt").write_text("a {} elsewhere\n" * CAPTIONS)
    assert name() != first


def header(job, entry="floor-cat", together=("floor-cat",), expected=48, **changes):
    found = {"evaluation": job.name.rpartition("/")[2], "entry": entry, "shard": [job.shard, job.shards], "expected": expected}
    return {**found, "together": [*together], "identity": {"model": "a", "token": "t"}, "encoders": {}, **changes}


def results_file(job, numbers, image=None, **changes):
    lines = [header(job, **changes), *({"number": number, "image": image} for number in numbers)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def file_of(job, entry="floor-cat"):
    return f"{entry}-shard-{job.shard}-of-{job.shards}.jsonl"


def test_a_shard_is_done_when_all_its_entries_and_their_images_are_there(tmp_path, comfyui):
    jobs = jobs_of(tmp_path, comfyui, graph(), asked=3)
    results = ResultFolder(tmp_path / "results")
    both = ("floor-cat", "token")
    results.put(file_of(jobs[0]), results_file(jobs[0], [0], together=both))
    results.put("images/a.png", b"png")
    for entry in both:
        results.put(file_of(jobs[1], entry), results_file(jobs[1], [1], "images/a.png", entry=entry, together=both))
        results.put(file_of(jobs[2], entry), results_file(jobs[2], [2], "images/b.png", entry=entry, together=both))
    left = jobs_of(tmp_path, comfyui, graph(), workers=7)  # three shards they were, and three they stay
    assert [(job.shard, job.shards) for job in left] == [(1, 3), (3, 3)]


def test_results_of_another_graph_are_refused(tmp_path, comfyui):
    jobs = jobs_of(tmp_path, comfyui, graph(), asked=2)
    ResultFolder(tmp_path / "results").put(file_of(jobs[0]), results_file(jobs[0], [0]))
    with pytest.raises(WrongUse, match="another graph, other settings or other files"):
        jobs_of(tmp_path, comfyui, graph(seed=5), asked=2)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "images/../../a.png", "C:\\a.png", "images//a.png", ""])
def test_a_worker_cannot_write_outside_the_results(tmp_path, name):
    with pytest.raises(Lost, match="names a file"):
        ResultFolder(tmp_path / "results").put(name, b"")
    assert not list(tmp_path.rglob("*.png"))


def test_missing_and_repeated_images_are_told(tmp_path, comfyui):
    jobs = jobs_of(tmp_path, comfyui, graph(), asked=2)
    results = ResultFolder(tmp_path / "results")
    results.put(file_of(jobs[0]), results_file(jobs[0], [0, 1], expected=4))
    results.put(file_of(jobs[1]), results_file(jobs[1], [1, 2], expected=4))
    assert results.problems() == ["floor-cat: 3 of 4 images are there, 1 of them twice"]


def test_workers_with_other_models_encoders_or_pack_are_told_apart(tmp_path, comfyui):
    job = jobs_of(tmp_path, comfyui, graph(), asked=1)[0]
    encoders, made_with = {"clip": {"weights": "1"}}, {"pack": "0.1.0 (aa)", "device": "cpu"}
    reference = Reference([])
    assert not reference.unlike(header(job, encoders=encoders, made_with=made_with), "a")
    assert not reference.unlike(header(job, encoders=encoders, made_with={**made_with, "device": "a GPU"}), "b")
    other_token = {"identity": {"model": "a", "token": "u"}, "entry": "token"}
    assert not reference.unlike(header(job, encoders=encoders, made_with=made_with, **other_token), "b")
    for changes, told in (
        ({"identity": {"model": "b"}}, "MODEL is another than that of a (b instead of a)"),
        ({"encoders": {"clip": {"weights": "2"}}}, "encoder clip is another than that of a"),
        ({"made_with": {"pack": "0.1.0 (bb)"}}, "pack is another than that of a (0.1.0 (bb) instead of 0.1.0 (aa))"),
    ):
        assert told in reference.unlike(header(job, **{"encoders": encoders, "made_with": made_with, **changes}), "c")


def test_a_grid_trains_each_cell_for_its_subject_and_evaluates_floors_at_once(tmp_path, comfyui):
    train = {
        "1": {
            "class_type": "AttractorTrain",
            "inputs": {"images": ["2", 1], "method": "neti", "steps": 9, "sample_prompt": "{}"},
        },
        "2": {"class_type": "AttractorLoadPDST", "inputs": {"folder": "pdst/pets", "subjects": "cat"}},
        "3": {"class_type": "AttractorSubjectMask", "inputs": {"phrase": "the {super_category}", "images": ["2", 1]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 1]}},
    }
    train["1"]["inputs"]["masks"] = ["3", 0]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "evaluate.json").write_text(json.dumps(graph(tokens=["3", 0])))
    plan = {"name": "grid", "train": "train.json", "evaluate": "evaluate.json", "subjects": ["cat", "dog"], "seeds": [0, 7]}
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "methods": {"neti": {"steps": 5}, "textual_inversion": {}}}))

    def grid():
        results = ResultFolder(tmp_path / "results")
        return Grid(tmp_path / "plan.json", LocalFiles(comfyui), lambda name: results, Sharding(1)).plan()

    whole = grid()
    trainings = [job for job in whole.jobs if job.kind == "train"]
    assert len(trainings) == whole.trainings == 8 and whole.images == (8 + 2) * PHOTOS * CAPTIONS * EACH
    job = next(job for job in trainings if job.title == "train dog-neti-seed-7")
    inputs = job.graph["1"]["inputs"]
    assert (inputs["method"], inputs["seed"], inputs["steps"], inputs["super_category"]) == ("neti", 7, 5, "dog")
    assert inputs["name"] == job.name and inputs["resume"] is True and inputs["sample_prompt"] == "{}"
    assert job.graph["3"]["inputs"]["phrase"] == "the dog" and "4" not in job.graph
    assert {job.title for job in whole.jobs if job.kind == "evaluate"} >= {"floor cat 1/4", "floor dog 1/4"}
    whole.results.put(job.place + job.wanted[-1], b"a token")
    follow = whole.after(job)
    assert [each.shard for each in follow] == [1, 2, 3, 4]
    evaluated = follow[0].graph["1"]["inputs"]
    assert evaluated["labels"] == "dog-neti-seed-7" and evaluated["include_floor"] is False
    assert grid().trainings == 7, "a token that is there is not trained again"


def test_a_grid_whose_subjects_would_share_their_photos_is_refused(tmp_path, comfyui):
    train = {
        "1": {"class_type": "AttractorTrain", "inputs": {"images": ["2", 0], "method": "neti", "super_category": "x"}},
        "2": {"class_type": "AttractorLoadSubjectImages", "inputs": {"folder": "attractor example"}},
    }
    plan = {
        "name": "grid",
        "train": "train.json",
        "evaluate": "evaluate.json",
        "subjects": ["cat"],
        "methods": ["neti"],
        "seeds": [0],
    }
    for name, content in (("train", train), ("evaluate", graph()), ("plan", plan)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(WrongUse, match="the same for every subject"):
        Grid(tmp_path / "plan.json", LocalFiles(comfyui), lambda name: ResultFolder(tmp_path / "results"), Sharding(1))


def cluster(*words):
    command = [sys.executable, str(ROOT / "scripts" / "cluster.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_dry_run_tells_images_and_files_and_makes_nothing(tmp_path, comfyui):
    (tmp_path / "graph.json").write_text(json.dumps(graph()))
    servers = ["--servers", "http://127.0.0.1:1", "http://127.0.0.1:2"]
    done = cluster("evaluate", tmp_path / "graph.json", *servers, "--files", comfyui, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "48 images in 8 shards\nworkers: http://127.0.0.1:1, http://127.0.0.1:2" in done.stdout
    assert "8 files" in done.stdout and not (comfyui / "output" / "pdst").exists()


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda g: g["2"]["inputs"].update(subjects="bird"), "no subject bird. It has: cat, dog."),
        (
            lambda g: g["3"]["inputs"].update(file="../../secret"),
            "the token '../../secret' is not in models/neti or output/neti",
        ),
        (lambda g: g["3"]["inputs"].update(file="/etc/passwd"), "the token '/etc/passwd' is not in"),
        (lambda g: g["3"]["inputs"].update(file="newest training"), "another one on every server: choose it by its name"),
        (lambda g: g["3"].update(class_type="AttractorTrain"), "a training in the same graph, which every server would repeat"),
        (lambda g: g.update({"9": g["1"]}), "has 2 nodes PDST Evaluate"),
        (lambda g: g["1"]["inputs"].update(images_per_caption=["2", 3]), "images_per_caption is wired"),
        (lambda g: g.update(nodes=[], links=[]), "a workflow of the page"),
    ],
)
def test_wrong_use_is_told_in_a_sentence_with_exit_code_2(tmp_path, comfyui, change, told):
    prompt = graph()
    change(prompt)
    (tmp_path / "graph.json").write_text(json.dumps(prompt))
    done = cluster("evaluate", tmp_path / "graph.json", "--servers", "http://127.0.0.1:1", "--files", comfyui, "--dry-run")
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
