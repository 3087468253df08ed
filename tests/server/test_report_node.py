"""Load Evaluation Encoders and PDST Report through the server: what is listed, refused, downloaded and written."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from graphs import add_evaluation, add_tiny
from safetensors.torch import load_file

from comfy_client import ComfyClient, ExecutionFailed, Graph, GraphRejected
from comfy_server import ComfyServer, link
from local_hub import LocalHub
from pdst_results import CORGI, SUBJECTS, write_checkpoints, write_demonstration, write_entry
from pdst_set import write_subject

CLIP, DINO = "openai/clip-vit-base-patch32", "facebook/dino-vits16"
MEANS = {"clip_t": 0.3, "clip_i": 0.7, "dino": 0.5, "clip_i_train": 0.75, "dino_train": 0.6}


@pytest.fixture(scope="module", autouse=True)
def models(comfy_server, server_encoders, small_encoders):
    link(small_encoders / "evaluation" / "clip-tiny", comfy_server.base / "models" / "clip_vision" / "another-clip")
    write_subject(comfy_server.base / "models" / "pdst" / "report-pets", "cat")


def evaluate(comfy, name, clip="evaluation/clip-tiny", dino="evaluation/dino-tiny", download=False, report=False, **more):
    """The floor of a subject, evaluated, and reported if wanted. The history's outputs of both nodes."""
    graph = Graph()
    model = add_tiny(graph)
    encoders = graph.add("AttractorLoadEvaluationEncoders", clip=clip, dino=dino, download_if_missing=download)
    dataset = graph.add("AttractorLoadPDST", folder="pdst/report-pets", subjects="all", captions_per_photo=2)
    node = add_evaluation(
        graph,
        model=model[0],
        clip=model[1],
        vae=model[2],
        dataset=dataset[0],
        encoders=encoders[0],
        name=name,
        images_per_caption=1,
        sampler="euler",
        scheduler="normal",
        steps=1,
        cfg=1.0,
        width=64,
        height=64,
        batch_size=2,
        seed=0,
        save_images=True,
        include_floor=True,
        max_photos=1,
        start_over=True,
    )
    shown = add_report(graph, results=node[0], **more) if report else None
    outputs = comfy.run(graph, timeout=300)["outputs"]
    return outputs[node.id], outputs[shown.id] if shown else None


def add_report(graph, evaluations="", name="", y_axis="dino", contact_sheet="best, median, worst", **more):
    inputs = {"evaluations": evaluations, "name": name, "y_axis": y_axis, "contact_sheet": contact_sheet}
    return graph.add("AttractorPDSTReport", **inputs, **more)


def report(comfy, *evaluations, **more):
    """The report's entry in the history, and its node."""
    graph = Graph()
    node = add_report(graph, "\n".join(evaluations), **more)
    return comfy.run(graph), node


def refusal(comfy, function, *arguments, **more):
    with pytest.raises((GraphRejected, ExecutionFailed)) as refused:
        function(comfy, *arguments, **more)
    error = refused.value
    if isinstance(error, GraphRejected):
        return "\n".join(error.messages)
    assert error.exception_type.endswith("UserError"), error
    return error.exception_message


def header(server, name):
    return json.loads(lines_of(server, name)[0])


def lines_of(server, name):
    """The only results file of an evaluation."""
    (path,) = (server.output / "pdst" / name).glob("*.jsonl")
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def made(comfy_server):
    """Evaluations with known scores in the output folder."""
    folder = comfy_server.output / "pdst"
    write_demonstration(folder / "made-methods", pictures=False)
    write_checkpoints(folder / "made-run", pictures=True)
    return folder


# --- encoders ----------------------------------------------------------------------------------------


def test_lists_hold_what_is_here_of_the_kind_what_can_be_had_and_none(comfy):
    inputs = comfy.object_info("AttractorLoadEvaluationEncoders")["input"]["required"]
    clip, dino = (inputs[name][1] for name in ("clip", "dino"))
    assert clip["options"][:2] == ["evaluation/clip-tiny", "clip_vision/another-clip"] and clip["options"][-1] == "none"
    assert dino["options"][:2] == ["evaluation/dino-tiny", "evaluation/dinov2-tiny"] and dino["options"][-1] == "none"
    assert CLIP in clip["options"] and DINO in dino["options"] and "evaluation/dino-tiny" not in clip["options"]
    assert (clip["default"], dino["default"]) == (CLIP, DINO), "the protocol's"


def test_an_evaluation_names_its_encoders_and_its_report_shows_them(comfy, comfy_server):
    _, shown = evaluate(comfy, "wired", report=True)
    found = header(comfy_server, "wired")["encoders"]
    assert found["clip"]["backbone"] == "clip-tiny" and found["clip"]["weights"].startswith("sha256:")
    assert len(shown["images"]) == 4
    page = (comfy_server.output / "pdst" / "wired" / "report" / "report.html").read_text()
    assert found["clip"]["weights"] in page and found["dino"]["weights"] in page and 'src="data:image/jpeg' in page
    assert "floor" in shown["text"][0] and "report.html" in shown["text"][0]


def test_one_encoder_gives_its_scores_only(comfy, comfy_server):
    evaluate(comfy, "dino-only", clip="none", dino="evaluation/dinov2-tiny", report=True)
    rows = list(csv.DictReader(open(comfy_server.output / "pdst" / "dino-only" / "report" / "scores.csv")))
    assert {row["column"] for row in rows if row["table"] == "overall"} == {"DINO", "Images"}
    assert header(comfy_server, "dino-only")["encoders"]["dino"]["backbone"] == "dinov2-tiny"


@pytest.mark.parametrize(
    "clip, dino, words",
    [
        ("none", "none", "clip and dino are both none"),
        ("evaluation/absent", "none", "clip: evaluation/absent is not in models/"),
        ("evaluation/dino-tiny", "none", "clip: evaluation/dino-tiny is not a CLIP model but of the kind vit"),
        ("none", "evaluation/clip-tiny", "dino: evaluation/clip-tiny is not a DINO model but of the kind clip"),
        ("none", "../models", r"dino: ../models is not in models/evaluation"),
    ],
)
def test_what_is_no_encoder_is_refused_before_the_graph_runs(comfy, clip, dino, words):
    assert words in refusal(comfy, evaluate, "x", clip=clip, dino=dino)


def test_both_missing_models_are_said_at_once(comfy):
    message = refusal(comfy, evaluate, "x", clip=CLIP, dino=DINO)
    assert f"clip: {CLIP} is not on this machine" in message and f"dino: {DINO} is not on this machine" in message
    assert "Turn on download_if_missing" in message


def test_damaged_folders_are_named(comfy, comfy_server, small_encoders):
    folder = comfy_server.base / "models" / "evaluation"
    for name, change in {
        "cut": lambda p: (p / "model.safetensors").write_bytes(b"x" * 99),
        "wordless": lambda p: [f.unlink() for f in p.iterdir() if f.name.startswith(("tok", "voc", "mer"))],
        "unweighted": lambda p: (p / "model.safetensors").unlink(),
    }.items():
        change(shutil.copytree(small_encoders / "evaluation" / "clip-tiny", folder / name))
        message = refusal(comfy, evaluate, "x", clip=f"evaluation/{name}")
        assert f"clip: {name} is damaged or not a CLIP model" in message, message
        shutil.rmtree(folder / name)


@pytest.fixture(scope="module")
def hub_server(host_root, tmp_path_factory, server_packs, small_encoders):
    """A server whose hub is ours: it has the CLIP as OpenAI's own repository is, with weights in the older format."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    shutil.copytree(small_encoders / "evaluation" / "clip-tiny", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "tf_model.h5").write_bytes(b"of no use")
    hub = LocalHub(CLIP, folder)
    base = tmp_path_factory.mktemp("hub-server")
    link(small_encoders / "evaluation" / "dino-tiny", base / "models" / "evaluation" / "dino-tiny")
    write_subject(base / "models" / "pdst" / "report-pets", "cat")
    env = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    with ComfyServer(host_root, base, server_packs, env=env) as server:
        server.hub = hub
        yield server
    hub.close()


@pytest.mark.one_host
def test_openais_clip_is_downloaded_in_the_older_format_and_gives_the_same_scores(hub_server, comfy, comfy_server):
    downloading = ComfyClient(hub_server.url)
    evaluate(downloading, "loaded", clip=CLIP, download=True)
    kept = hub_server.base / "models" / "evaluation" / "clip-vit-base-patch32"
    assert (kept / "pytorch_model.bin").exists() and not (kept / "tf_model.h5").exists()
    asked = len(hub_server.hub.requests)
    evaluate(downloading, "loaded", clip="evaluation/clip-vit-base-patch32")
    assert len(hub_server.hub.requests) == asked
    evaluate(comfy, "wired")

    def scores(server, name):
        return [list(json.loads(line)["scores"].values()) for line in lines_of(server, name)[1:]]

    assert np.allclose(scores(hub_server, "loaded"), scores(comfy_server, "wired"), atol=1e-6)
    assert header(hub_server, "loaded")["encoders"]["clip"]["weights"].startswith("sha256:")


# --- report ------------------------------------------------------------------------------------------


def test_a_report_of_named_evaluations_is_four_pictures_and_four_files(comfy, made):
    entry, node = report(comfy, "made-methods", "made-run", name="all-of-it")
    pictures = comfy.images(entry, node)
    assert len(pictures) == 4 and [picture.width > 640 for picture in pictures] == [True] * 4
    folder = made / "all-of-it" / "report"
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "scores.csv", "images.jsonl"}
    assert str(folder / "report.html") in entry["outputs"][node.id]["text"][0]
    assert "<title>all-of-it" in (folder / "report.html").read_text()
    assert len((folder / "images.jsonl").read_text().splitlines()) == 240 + 96


def test_a_report_lies_beside_its_only_evaluation_and_is_not_taken_for_results(comfy, made):
    for _ in range(2):
        report(comfy, "made-run", contact_sheet="none")
        assert (made / "made-run" / "report" / "report.html").exists()


def cached(entry, node):
    return node.id in next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")


def test_a_report_is_made_anew_when_results_have_changed_and_only_then(comfy, made):
    write_entry(made / "growing", "first", CORGI, MEANS)
    entry, node = report(comfy, "growing")
    assert not cached(entry, node)
    assert cached(*report(comfy, "growing"))
    write_entry(made / "growing", "second", CORGI, MEANS, method="neti")
    entry, node = report(comfy, "growing")
    assert not cached(entry, node) and "second" in entry["outputs"][node.id]["text"][0]


@pytest.mark.parametrize(
    "arguments, inputs, words",
    [
        ((), {}, "results: none are wired and evaluations is empty"),
        (("absent",), {}, "no folder absent in output/pdst"),
        (("../neti",), {}, "evaluations: "),
        (("made-run",), {"name": "../../x"}, "name"),
        (("made-run",), {"baseline": "nobody"}, "baseline: there is no system 'nobody'. Give one of: my-dog-neti-step-100"),
        (("empty",), {}, "no results in empty"),
    ],
)
def test_what_cannot_be_reported_is_said(comfy, made, arguments, inputs, words):
    (made / "empty").mkdir(exist_ok=True)
    assert words in refusal(comfy, report, *arguments, **inputs)


def test_settings_reach_the_report(comfy, made):
    report(comfy, "made-methods", name="set", baseline="NeTI+", group_by="method", resamples=100, seed=3, y_axis="clip_i")
    rows = list(csv.DictReader(open(made / "set" / "report" / "scores.csv")))
    pairs = {row["row"] for row in rows if row["table"] == "differences"}
    assert pairs == {f"{name} − NeTI+" for name in ("NeTI", "TI", "TI+", "floor")}
    assert "Fig. 5: CLIP-T against CLIP-I</text>" in (made / "set" / "report" / "report.html").read_text()
    report(comfy, "made-methods", name="set", group_by="token")
    rows = list(csv.DictReader(open(made / "set" / "report" / "scores.csv")))
    assert len({row["row"] for row in rows if row["table"] == "overall"}) == 4 * len(SUBJECTS) + 2
    assert "Fig. 5: CLIP-T against DINO</text>" in (made / "set" / "report" / "report.html").read_text()
