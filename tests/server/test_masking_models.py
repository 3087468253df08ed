"""Load Florence-2 and Load SAM2 through the server: what is listed, what is refused and in which words, downloads."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from comfy_client import ComfyClient, ExecutionFailed, Graph, GraphRejected, Interrupted
from comfy_server import ComfyServer, link
from local_hub import LocalHub

REPOSITORY = "facebook/sam2.1-hiera-tiny"
MODELS = ("florence2/tiny-blind", "florence2/tiny", "sam2/tiny", "sam2/tiny.pt", "sam2/tiny.yaml")


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((96, 64))


def add_loader(graph, model, download=False, **more):
    family = "SAM2" if "sam2" in model else "Florence2"
    return graph.add(f"AttractorLoad{family}", model=model, download_if_missing=download, **more)


def run(comfy, model, download=False, box="10, 10, 40, 30", **more):
    """Load a model and use it; the entry of the history, and the mask's pixels of a SAM2."""
    graph = Graph()
    loader = add_loader(graph, model, download, **more)
    photo = graph.add("LoadImage", image=comfy.upload_image(picture(), "masking-models.png"))
    choices = {"choose": "largest", "index": 0, "if_nothing_found": "empty"}
    if "sam2" in model:
        node = graph.add("AttractorMaskFromBoxes", images=photo[0], sam2=loader[0], typed_boxes=box, **choices)
    else:
        sam2 = add_loader(graph, "sam2/tiny")
        inputs = {"images": photo[0], "florence2": loader[0], "sam2": sam2[0], "phrase": "the dog"}
        node = graph.add("AttractorSubjectMask", **inputs, **choices)
    shown = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=node[0])[0])
    entry = comfy.run(graph)
    return entry, np.asarray(comfy.images(entry, shown)[0])


def refusal(comfy, model, download=False):
    """What the user reads."""
    with pytest.raises((GraphRejected, ExecutionFailed)) as refused:
        run(comfy, model, download)
    error = refused.value
    if isinstance(error, GraphRejected):
        return "\n".join(error.messages)
    assert error.exception_type.endswith("UserError"), error
    return error.exception_message


def cached_nodes(entry):
    return next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")


def options(comfy, node):
    return comfy.object_info(node)["input"]["required"]["model"][1]["options"]


@pytest.fixture(scope="module", autouse=True)
def models(comfy_server, vision_models):
    for name in MODELS:
        link(vision_models / name, comfy_server.base / "models" / name)


@pytest.mark.parametrize("model", ["sam2/tiny", "sam2/tiny.pt", "florence2/tiny"])
def test_two_runs_in_a_row_load_once(comfy, model):
    first, _ = run(comfy, model, dtype="float32")
    second, _ = run(comfy, model, dtype="float32", box="30, 10, 40, 30")
    assert "1" not in cached_nodes(first) and "1" in cached_nodes(second), "the loader ran again"


def test_lists_hold_local_models_of_the_kind_and_what_can_be_downloaded(comfy, comfy_server, vision_models):
    folder = comfy_server.base / "models"
    link(vision_models / "florence2/tiny", folder / "LLM" / "from another pack")
    (folder / "LLM" / "some-llm").mkdir(exist_ok=True)
    (folder / "LLM" / "some-llm" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "sam2" / ".incomplete-x").mkdir(exist_ok=True)
    (folder / "sam2" / "notes.txt").write_text("")
    assert options(comfy, "AttractorLoadFlorence2") == [
        "florence2/tiny",
        "florence2/tiny-blind",
        "LLM/from another pack",
        *(f"florence-community/Florence-2-{s}" for s in ("base", "base-ft", "large", "large-ft")),
    ]
    assert options(comfy, "AttractorLoadSAM2") == [
        "sam2/tiny",
        "sam2/tiny.pt",
        *(f"facebook/sam2.1-hiera-{s}" for s in ("tiny", "small", "base-plus", "large")),
    ]
    run(comfy, "LLM/from another pack")


@pytest.mark.parametrize(
    "model",
    ["sam2/absent", "sam2/../checkpoints", "/etc/sam2", "../sam2/tiny", "sam2/.incomplete-x", "LLM/../../florence2/tiny", ""],
)
def test_a_model_that_is_not_there_is_refused_before_the_graph_runs(comfy, model):
    with pytest.raises(GraphRejected) as refused:
        run(comfy, model)
    (message,) = refused.value.messages
    assert f"model: {model} is not in models/" in message and "press R" in message


def test_a_model_of_another_kind_is_called_by_it(comfy, comfy_server):
    folder = comfy_server.base / "models" / "sam2"
    for name, config in {"clip": '{"model_type": "clip"}', "torn": '{"model_ty', "bare": None}.items():
        (folder / name).mkdir(exist_ok=True)
        if config:
            (folder / name / "config.json").write_text(config)
    (folder / "sam2.onnx").write_bytes(b"")
    assert "sam2/clip is not a SAM2 model but of the kind clip" in refusal(comfy, "sam2/clip")
    assert "of the kind .onnx file" in refusal(comfy, "sam2/sam2.onnx")
    for name in ("torn", "bare"):
        assert "a folder without a readable config.json" in refusal(comfy, f"sam2/{name}")
    for name in ("clip", "torn", "bare"):
        shutil.rmtree(folder / name)
    (folder / "sam2.onnx").unlink()


def test_a_corrupt_file_is_named_and_a_good_one_in_its_place_is_read(comfy, comfy_server, vision_models):
    path = comfy_server.base / "models" / "sam2" / "mine.pt"
    whole = (vision_models / "sam2" / "tiny.pt").read_bytes()
    path.write_bytes(whole[:9999])
    link(vision_models / "sam2" / "tiny.yaml", path.with_suffix(".yaml"))
    message = refusal(comfy, "sam2/mine.pt")
    assert "mine.pt cannot be read as plain tensors" in message and "Download it again" in message
    path.write_bytes(whole)
    _, mask = run(comfy, "sam2/mine.pt")
    _, same = run(comfy, "sam2/tiny.pt")
    assert mask.any() and np.array_equal(mask, same)
    path.unlink()
    path.with_suffix(".yaml").unlink()


def test_one_safetensors_file_is_listed_and_masks_as_the_pt_does(comfy, comfy_server, vision_models):
    path = comfy_server.base / "models" / "sam2" / "one file.safetensors"
    save_file(torch.load(vision_models / "sam2" / "tiny.pt", weights_only=True)["model"], path)
    link(vision_models / "sam2" / "tiny.yaml", path.with_suffix(".yaml"))
    assert "sam2/one file.safetensors" in options(comfy, "AttractorLoadSAM2")
    _, mask = run(comfy, "sam2/one file.safetensors")
    _, same = run(comfy, "sam2/tiny.pt")
    assert mask.any() and np.array_equal(mask, same)
    save_file({"lora_unet.down.weight": torch.zeros(1)}, path)  # in its place, something else
    assert "one file.safetensors is not a SAM2 checkpoint" in refusal(comfy, "sam2/one file.safetensors")
    path.unlink()
    path.with_suffix(".yaml").unlink()


def test_a_microsoft_copy_is_refused_with_the_one_to_use(comfy, comfy_server, vision_models):
    folder = comfy_server.base / "models" / "LLM" / "Florence-2-large"
    shutil.copytree(vision_models / "florence2" / "tiny", folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_florence2.py").write_text(f"open({str(comfy_server.base / 'ran')!r}, 'w')")
    message = refusal(comfy, "LLM/Florence-2-large")
    assert "never runs" in message and "florence-community/Florence-2-" in message and "download_if_missing" in message
    assert not (comfy_server.base / "ran").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize("model", [REPOSITORY, "florence-community/Florence-2-base"])
def test_nothing_is_downloaded_unasked_and_without_network_that_is_said(comfy, comfy_server, model):
    message = refusal(comfy, model)
    assert f"{model} is not on this machine" in message and "Turn on download_if_missing" in message
    message = refusal(comfy, model, download=True)
    assert f"{model} could not be downloaded" in message and "Check the network" in message and "offline" in message.lower()
    short = model.split("/")[1]
    assert "by hand" in message and not list((comfy_server.base / "models").rglob(f"{short}"))


# --- a server without the sam2 package, and with a hub of its own ------------------------------------


@pytest.fixture(scope="module")
def hub(vision_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "model"
    shutil.copytree(vision_models / "sam2" / "tiny-converted", folder)
    weights = load_file(folder / "model.safetensors")
    weights["memory_padding"] = torch.zeros(30 * 2**18)  # 30 MB: some pieces, even of the client's own 10 MB
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    hub = LocalHub(REPOSITORY, folder)
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def bare_server(host_root, tmp_path_factory, server_packs, vision_models, hub):
    """The sam2 package cannot be imported, and the hub is ours."""
    base = tmp_path_factory.mktemp("bare")
    (base / "hidden").mkdir()
    (base / "hidden" / "sam2.py").write_text("raise ModuleNotFoundError(\"No module named 'sam2'\", name='sam2')")
    for name in MODELS:
        link(vision_models / name, base / "models" / name)
    env = {"PYTHONPATH": str(base / "hidden"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    with ComfyServer(host_root, base, server_packs, env=env) as server:
        yield server


@pytest.fixture
def bare(bare_server):
    return ComfyClient(bare_server.url)


@pytest.mark.one_host
def test_without_the_sam2_package_the_pack_loads_and_masks(bare):
    _, mask = run(bare, "sam2/tiny")
    assert 0 < mask.mean() < 255


@pytest.mark.one_host
def test_without_the_sam2_package_an_official_checkpoint_says_what_to_do(bare):
    message = refusal(bare, "sam2/tiny.pt")
    for words in ("tiny.pt is an official checkpoint", "need the sam2 package", REPOSITORY, "SAM2_BUILD_CUDA=0"):
        assert words in message


@pytest.mark.one_host
def test_a_download_can_be_cancelled_and_goes_on_where_it_stopped(bare, bare_server, hub):
    """On a slow line: 2.5 MB a second, 12 s in all."""
    folder = bare_server.base / "models" / "sam2"
    weights = len(hub.files["model.safetensors"])
    hub.pause = 0.1
    graph = Graph()
    loader = add_loader(graph, REPOSITORY, download=True, dtype="bfloat16")  # no other test's: the host would not run it again
    photo = graph.add("LoadImage", image=bare.upload_image(picture(), "masking-models.png"))
    choices = {"choose": "largest", "index": 0, "if_nothing_found": "empty"}
    node = graph.add("AttractorMaskFromBoxes", images=photo[0], sam2=loader[0], typed_boxes="10, 10, 40, 30", **choices)
    graph.add("PreviewImage", images=node[1])
    with bare.listen() as listener:
        prompt_id = bare.queue(graph)
        listener.wait_for("progress", lambda event: event["value"] > 3e6)
        started = time.monotonic()
        bare.interrupt(prompt_id)
        with pytest.raises(Interrupted):
            bare.wait(prompt_id)
    assert time.monotonic() - started < 5, "cancelled at the next megabyte, not at the next ten"
    assert hub.sent < weights / 2
    (part,) = (folder / ".incomplete-sam2.1-hiera-tiny").glob("model.safetensors.*")
    kept = part.stat().st_size
    assert kept > 2e6 and part.read_bytes() == hub.files["model.safetensors"][:kept]
    assert not (folder / "sam2.1-hiera-tiny").exists(), "half a model can be chosen"
    hub.mend()
    before = len(hub.requests)
    _, mask = run(bare, REPOSITORY, download=True, dtype="bfloat16")
    (span,) = [span for method, path, span in hub.requests[before:] if method == "GET" and path == "/cdn/model.safetensors"]
    assert span == f"bytes={kept}-", "it began anew"
    assert (folder / "sam2.1-hiera-tiny" / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not (folder / ".incomplete-sam2.1-hiera-tiny").exists() and 0 < mask.mean() < 255
    shutil.rmtree(folder / "sam2.1-hiera-tiny")


@pytest.mark.one_host
def test_a_download_breaks_off_goes_on_where_it_stopped_and_is_not_repeated(bare, bare_server, hub):
    folder = bare_server.base / "models" / "sam2"
    weights = len(hub.files["model.safetensors"])
    hub.break_after = 25 * 2**20
    with bare.listen() as listener:
        message = refusal(bare, REPOSITORY, download=True)
        assert "could not be downloaded" in message and "continue where it stopped" in message
        assert not (folder / "sam2.1-hiera-tiny").exists(), "half a model can be chosen"
        assert options(bare, "AttractorLoadSAM2")[:3] == ["sam2/tiny", "sam2/tiny.pt", REPOSITORY]
        hub.mend()
        before = len(hub.requests)
        _, mask = run(bare, REPOSITORY, download=True)
        lines = [data["text"] for data in listener.of_type("text")]
    resumed = [span for method, path, span in hub.requests[before:] if method == "GET" and path.endswith("model.safetensors")]
    assert resumed and all(span and int(span.removeprefix("bytes=").split("-")[0]) >= 10**7 for span in resumed)
    assert any(f"downloading {REPOSITORY}" in line and "MB" in line for line in lines)
    assert 0 < mask.mean() < 255
    assert (folder / "sam2.1-hiera-tiny" / "model.safetensors").stat().st_size == weights
    asked = len(hub.requests)
    run(bare, REPOSITORY, download=True, dtype="float32")  # another setting loads anew
    _, same = run(bare, "sam2/sam2.1-hiera-tiny", dtype="float32")
    assert len(hub.requests) == asked, "the hub was asked for what is here"
    assert np.array_equal(mask, same)
    assert {"sam2/sam2.1-hiera-tiny", REPOSITORY} <= set(options(bare, "AttractorLoadSAM2"))
