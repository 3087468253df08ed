"""scripts/cluster.py on real servers: the results of a single run, whatever dies on the way.

CI runs the short form: two servers, one of whose actors is killed. ATTRACTOR_CLUSTER=1 in the environment is the long one, of
some minutes: a server, the driver and a machine are killed, weights differ, servers hang or answer 500, and a grid is trained.
"""

import http.server
import json
import os
import shutil
import subprocess
import threading
import time

import psutil
import pytest
import torch
from graphs import add_encoders, add_evaluation, add_tiny, add_training

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.token_file import save_token
from cluster_runs import PYTHON, ROOT, ClusterRun, rows, servers_below
from comfy_client import ComfyClient, Graph
from comfy_server import ComfyServer
from pdst_set import write_subject

pytestmark = [pytest.mark.one_host, pytest.mark.skipif(not PYTHON, reason="CLUSTER_PYTHON: no Python with Ray")]
long_form = pytest.mark.skipif(not os.environ.get("ATTRACTOR_CLUSTER"), reason="the long form: ATTRACTOR_CLUSTER=1")
PHOTOS, CAPTIONS, EACH = 2, 2, 6  # 24 images of the token and as many of the floor, in 4 shards of 12


def tiny(graph):
    return add_tiny(graph, text_width=768)


def evaluation(name, loader=tiny, each=EACH, **changes):
    """A graph that evaluates a token and the plain word, an image a batch."""
    graph = Graph()
    loaded = loader(graph)
    inputs = {
        "dataset": graph.add("AttractorLoadPDST", folder="pdst/cluster-pets", subjects="cat", captions_per_photo=CAPTIONS)[0],
        "tokens": graph.add("AttractorLoadNeTIMapper", file="cluster-token.safetensors")[0],
        "encoders": add_encoders(graph),
        "include_floor": True,
        "save_images": True,
        "images_per_caption": each,
        "seed": 4,
        "name": name,
        **changes,
    }
    wires = {"model": loaded[0], "clip": loaded[1], "vae": loaded[2]}
    node = add_evaluation(graph, **wires, **inputs, steps=1, width=64, height=64, batch_size=1)
    graph.add("AttractorPDSTReport", evaluations="", name="", results=node[0])  # which no shard can run
    return graph.prompt


@pytest.fixture(scope="module")
def files(comfy_server, server_encoders):
    """The session's server's folder: a data set and a token."""
    subject = Embedding(torch.randn(1, 768, generator=torch.Generator().manual_seed(1)) * 0.02)
    token = PersonalizedToken("<cluster>", "cat", "textual_inversion", 768, subject, record={})
    save_token(token, comfy_server.output / "neti" / "cluster-token.safetensors")
    write_subject(comfy_server.base / "models" / "pdst" / "cluster-pets", "cat", test=PHOTOS, captions=CAPTIONS, seed=170)
    return comfy_server.base


@pytest.fixture(scope="module")
def single(comfy_server, files):
    """Rows and pictures of a run on one server."""
    graph = {key: node for key, node in evaluation("cluster-single").items() if node["class_type"] != "AttractorPDSTReport"}
    ComfyClient(comfy_server.url).run(graph, timeout=300)
    return rows(comfy_server.output / "pdst" / "cluster-single")


@pytest.fixture
def start(files, tmp_path, host_root, server_packs):
    """Starts cluster.py with two servers of its own; ends it after the test."""
    started = []

    def begin(graph, *options, own=True, folder=tmp_path, **more):
        file = folder / "graph.json"
        file.write_text(json.dumps(graph))
        host = {"host": host_root, "packs": server_packs} if own else {}
        own_options = ("--workers", "2", "--shards", "4") if own else ("--shards", "4")
        started.append(ClusterRun(files, folder, file, *own_options, *options, **host, **more))
        return started[-1]

    yield begin
    for run in started:
        run.end()


def test_an_evaluation_is_that_of_a_single_server_although_an_actor_is_killed(start, single):
    run = start(evaluation("cluster-killed"))
    run.wait_for(lambda: run.images_on(1) >= 2)
    server = run.servers()[1]
    assert server.nice() == psutil.Process(run.process.pid).nice(), "beside other work it would hardly run"
    server.parent().kill()
    run.wait_for(lambda: not server.is_running())  # it dies with its actor
    assert run.wait() == 0, run.said
    assert rows(run.results) == single
    assert "worker 1 was lost" in run.said and "ActorDiedError" in run.said
    assert not servers_below(run.work)
    # of the actor's shard its server has kept all but the batch that it was at; the other may have taken that shard over
    made = run.images_on(1) + run.images_on(2)
    assert len(single[0]) <= made <= len(single[0]) + len(single[0]) // 4


@long_form
def test_of_a_killed_server_only_a_batch_is_made_again(start, single):
    run = start(evaluation("cluster-server"))
    run.wait_for(lambda: run.images_on(2) >= 2)
    run.servers()[2].kill()
    assert run.wait() == 0, run.said
    assert rows(run.results) == single
    assert "worker 2 was lost" in run.said
    assert run.images_on(1) + run.images_on(2) <= len(single[0]) + len(single[0]) // 4


@long_form
def test_a_killed_driver_leaves_no_server_and_goes_on_when_started_again(start, single):
    graph = evaluation("cluster-driver")
    run = start(graph)
    run.wait_for(lambda: list(run.results.glob("*shard*.jsonl")) and run.servers())
    made = run.wait_for(lambda: run.images_on(1) + run.images_on(2) > len(list(run.results.rglob("*.png"))) + 1)
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 60
    while (left := servers_below(run.work)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    made = run.images_on(1) + run.images_on(2)
    kept = {path: path.stat().st_mtime_ns for path in run.results.glob("*.jsonl")}
    assert not list(run.results.rglob("*.part"))
    again = start(graph)
    assert again.wait() == 0, again.said
    assert rows(run.results) == single
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "a whole shard was written again"
    assert run.images_on(1) + run.images_on(2) == len(single[0]), f"{made} were there, and some were made again"
    done = start(graph)  # there is nothing to do
    assert done.wait() == 0 and not done.servers()


@pytest.fixture(scope="module")
def other(host_root, server_packs, files, small_checkpoint, comfy_server, tmp_path_factory):
    """A second running server, whose checkpoint of the same name has one other weight; with the encoders of the first."""
    from safetensors.torch import load_file, save_file

    base = tmp_path_factory.mktemp("cluster-other")
    weights = load_file(small_checkpoint)
    name = next(name for name in weights if name.endswith("input_blocks.0.0.weight"))
    weights[name] = weights[name] + 1e-3
    (base / "weights").mkdir()
    save_file(weights, base / "weights" / small_checkpoint.name)
    (base / "models").mkdir()
    (base / "models" / "evaluation").symlink_to(comfy_server.base / "models" / "evaluation")
    checkpoints = [base / "weights" / small_checkpoint.name]
    with ComfyServer(host_root, base, server_packs, checkpoints, env={"HF_HUB_OFFLINE": "1"}) as server:
        yield server


@long_form
def test_a_server_with_other_weights_is_refused_by_name_and_its_images_are_not_used(
    start, comfy_server, other, small_checkpoint, files
):
    def loader(graph):
        return graph.add("CheckpointLoaderSimple", ckpt_name=small_checkpoint.name)

    graph = evaluation("cluster-weights", loader, each=2)
    first = start(graph, "--servers", comfy_server.url, own=False)
    assert first.wait() == 0, first.said
    whole = rows(first.results)
    for shard in first.results.glob("*-shard-[234]-of-4.jsonl"):
        shard.unlink()
    second = start(graph, "--servers", other.url, comfy_server.url, own=False)
    assert second.wait() == 0, second.said
    assert f"{other.url} is refused: MODEL is another than that of the results in the folder" in second.said
    assert rows(second.results) == whole


class _Stub(http.server.BaseHTTPRequestHandler):
    """Answers 500, or never."""

    hangs = False

    def do_GET(self):
        if self.hangs:
            time.sleep(300)
        self.send_error(500)

    do_POST = do_HEAD = do_GET

    def log_message(self, *_):
        pass


@long_form
@pytest.mark.parametrize("hangs", [False, True], ids=["answers 500", "hangs"])
def test_a_server_that_is_of_no_use_costs_a_time_out_and_no_more(start, single, comfy_server, hangs):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Stub", (_Stub,), {"hangs": hangs}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    run = start(evaluation("cluster-stub"), "--servers", url, comfy_server.url, own=False)
    assert run.wait() == 0, run.said
    server.shutdown()
    assert rows(run.results) == single
    assert f"{url} was lost" in run.said and ("no answer" if hangs else "it answers 500") in run.said


@pytest.fixture
def nodes():
    """Two machines of a Ray cluster in this one; a line removes the second."""
    script = ROOT / "tests" / "support" / "ray_nodes.py"
    process = subprocess.Popen([PYTHON, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.stdin.close()
    process.wait(60)


@long_form
def test_a_machine_that_is_taken_out_of_the_cluster_is_done_without(start, single, nodes):
    address = nodes.stdout.readline().strip()
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # as ray_nodes.py has it
    run = start(evaluation("cluster-nodes"), "--address", address, env=loopback)
    run.wait_for(lambda: run.images_on(1) >= 2 and run.images_on(2) >= 2)
    before = run.servers()
    print("remove", file=nodes.stdin, flush=True)
    assert nodes.stdout.readline().strip() == "removed"
    run.wait_for(lambda: not all(server.is_running() for server in before.values()))
    assert run.wait() == 0, run.said
    assert rows(run.results) == single
    assert "was lost with" in run.said


@long_form
def test_a_grid_is_trained_and_evaluated_and_a_second_start_makes_nothing_again(start, comfy_server, tmp_path):
    graph = Graph()
    loader = tiny(graph)
    photos = graph.add("AttractorLoadPDST", folder="pdst/cluster-pets", subjects="cat", captions_per_photo=CAPTIONS)[1]
    add_training(graph, loader, photos, None, name="{subject}", sample_prompt="a {super_category} {}", steps=1)
    (tmp_path / "train.json").write_text(json.dumps(graph.prompt))
    (tmp_path / "evaluate.json").write_text(json.dumps(evaluation("overwritten", each=2)))
    plan = {
        "name": "cluster-grid",
        "train": "train.json",
        "evaluate": "evaluate.json",
        "subjects": ["cat"],
        "methods": {"textual_inversion": {"steps": 2}, "neti": {"steps": 3}},
        "seeds": [0, 1],
    }
    run = start(plan, command="train-and-evaluate")
    assert run.wait(600) == 0, run.said
    found, _ = rows(run.results)
    labels = {f"cat-{method}-seed-{seed}" for method in plan["methods"] for seed in (0, 1)} | {"floor-cat"}
    images = PHOTOS * CAPTIONS * 2
    assert {entry for entry, _ in found} == labels and len(found) == len(labels) * images
    tokens = {path: path.stat().st_mtime_ns for path in run.results.rglob("*") if path.is_file()}
    assert len([path for path in tokens if path.suffix == ".safetensors"]) == 4
    again = start(plan, command="train-and-evaluate")
    assert again.wait() == 0, again.said
    assert {path: path.stat().st_mtime_ns for path in run.results.rglob("*") if path.is_file()} == tokens
    shutil.copytree(run.results, comfy_server.output / "pdst" / "cluster-grid")
    report = Graph()
    report.add("AttractorPDSTReport", evaluations="cluster-grid", name="", y_axis="dino", contact_sheet="best, median, worst")
    ComfyClient(comfy_server.url).run(report)
    page = (comfy_server.output / "pdst" / "cluster-grid" / "report" / "report.md").read_text()
    assert "cat-neti-seed-1" in page and "floor" in page


@long_form
def test_a_nodes_error_is_told_and_not_tried_again(start, comfy_server):
    run = start(evaluation("cluster-error", labels="one\ntwo"), "--servers", comfy_server.url, own=False)
    assert run.wait() == 1
    assert run.said.count("AttractorPDSTEvaluate: labels: there are 1 tokens") == 2, run.said  # then, and at the end
