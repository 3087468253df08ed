"""Every kind of bad input: the error names input and remedy before any long work, and nothing is half-written."""

import json
import os
import pickle
import sys
from contextlib import contextmanager

import pytest
import torch
from graphs import add_photos, add_tiny, add_training, encode
from safetensors import safe_open
from safetensors.torch import save_file

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.token_file import load_token, save_token
from comfy_client import ExecutionFailed, Graph, GraphRejected

FAST = {"method": "textual_inversion+", "steps": 1}


@pytest.fixture
def runs(comfy_server):
    """The folder of runs and saved tokens."""
    return comfy_server.output / "neti"


@pytest.fixture
def tokens(comfy_server):
    """models/neti, where a user puts files."""
    folder = comfy_server.base / "models" / "neti"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def contents(*folders):
    """Every file below, by path, with its bytes."""
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


@contextmanager
def unchanged(*folders):
    before = contents(*folders)
    yield
    assert contents(*folders) == before, "a failing graph left something behind"


def error_of(comfy, graph, timeout=120):
    with pytest.raises(ExecutionFailed) as failed:
        comfy.run(graph, timeout)
    return failed.value


def assert_said(error, node_type, *words):
    assert error.node_type == node_type
    for word in words:
        assert word in error.exception_message, f"{word!r} is not in: {error.exception_message}"
    assert "progress" not in error.exception_message


def plain_photos(graph, masks=(0.5, 0.5, 0.5), size=128, mask_size=128):
    """Grey images and flat masks: enough for what is checked before any work."""
    images = graph.add("EmptyImage", width=size, height=size, batch_size=3, color=8421504)[0]
    flat = [graph.add("SolidMask", value=value, width=mask_size, height=mask_size)[0] for value in masks]
    return images, graph.add("BatchMasksNode", **{f"masks.mask{i}": mask for i, mask in enumerate(flat)})[0]


def train(loader=None, photos=None, sampling=None, **changes):
    """A training graph with something wrong in it."""
    graph = Graph()
    tiny = add_tiny(graph, **(loader or {}))
    if sampling:
        tiny = [graph.add("ModelSamplingDiscrete", model=tiny[0], sampling=sampling, zsnr=False)[0], tiny[1], tiny[2]]
    images, masks = plain_photos(graph, **(photos or {}))
    add_training(graph, tiny, images, masks, **{**FAST, "name": "bad", **changes})
    return graph


TRAINING = {
    "an SDXL model": (train({"kind": "sdxl"}), ("model: ", "cross-attention blocks", "Load Checkpoint")),
    "a pruned model": (train({"kind": "pruned"}), ("model: ", "10 cross-attention blocks", "pruned", "Load Checkpoint")),
    "a v-prediction model": (train(sampling="v_prediction"), ("model: ", "predicts v", "eps")),
    "a quantised model": (train({"kind": "fp8"}), ("model: ", "quantised (float8_e4m3fn)", "Load the fp16")),
    "another model's VAE": (train({"vae_channels": 16}), ("vae: ", "16 latent channels", "same checkpoint")),
    "fewer masks than images": (train(photos={"masks": (0.5, 0.5)}), ("masks: ", "3 images and 2 masks", "one mask per")),
    "masks of another size": (train(photos={"mask_size": 64}), ("masks: ", "image 1 is 64 x 64", "128 x 128")),
    "an empty mask": (train(photos={"masks": (0.5, 0.0, 0.5)}), ("masks: ", "image 2 is empty", "Paint")),
    "a full mask": (train(photos={"masks": (0.5, 0.5, 1.0)}), ("masks: ", "image 3 covers the whole", "Mask the subject")),
    "no placeholder": (train(placeholder=" "), ("placeholder is empty", "<my-dog>")),
    "a placeholder that is a word": (train(placeholder="dog"), ("placeholder 'dog'", "vocabulary", "<dog>")),
    "a placeholder with a space": (train(placeholder="<my dog>"), ("placeholder '<my dog>'", "space", "<my-dog>")),
    "a sample prompt without the subject": (
        train(sample_every=1, sample_prompt="a photo of a dog"), ("sample_prompt", "{}", "<my-cat>")),
    "an unknown super-category": (train(super_category="flibbertigibbet"), ("super_category", "tokens", "must be one")),
    "no super-category": (train(super_category=""), ("super_category is empty", "such as dog")),
    "contrast in a batch of one": (train(batch_size=1), ("batch_size is 1", "contrast_weight to 0")),
    "a learning rate of zero": (
        train(learning_rate_preset="custom", learning_rate=0.0), ("learning_rate is 0", "above 0")),
    "a name that leads elsewhere": (train(name="../elsewhere"), ("name '../elsewhere'", "letters, digits")),
    "an absolute name": (train(name="/tmp/elsewhere"), ("name '/tmp/elsewhere'", "letters, digits")),
    "a Windows path": (train(name="..\\elsewhere"), ("name ", "letters, digits")),
    "no name": (train(name=" "), ("name is empty", "my-dog")),
    "much at once": (
        train({"kind": "pruned"}, {"masks": (0.5, 0.0, 0.5)}, placeholder="dog", batch_size=1, name="../x"),
        ("model: ", "masks: ", "placeholder 'dog'", "batch_size is 1", "name '../x'")),
}


@pytest.mark.parametrize("kind", TRAINING)
def test_training_refuses(comfy, comfy_server, kind):
    graph, words = TRAINING[kind]
    with unchanged(comfy_server.output, comfy_server.base / "models"):
        assert_said(error_of(comfy, graph), "AttractorTrain", *words)


def test_methods_with_attractor_need_masks(comfy, comfy_server):
    graph = Graph()
    images, _ = plain_photos(graph)
    add_training(graph, add_tiny(graph), images, **FAST)
    with unchanged(comfy_server.output):
        assert_said(error_of(comfy, graph), "AttractorTrain", "masks: ", "one mask per image", "'neti'")


def training(comfy, name, photos=3, loader=None, **changes):
    graph = Graph()
    images, masks = add_photos(graph, comfy, count=photos)
    settings = {"steps": 1, "method": "textual_inversion+", "resume": True, **changes}
    add_training(graph, add_tiny(graph, **(loader or {})), images, masks, name=name, **settings)
    return graph


def steps_done(folder):
    with safe_open(folder / "resume.state", "pt") as file:
        return json.loads(file.metadata()["attractor"])["step"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(comfy, runs):
    graph = training(comfy, "diverged", steps=5, checkpoint_every=1, learning_rate_preset="custom", learning_rate=1e30)
    error = error_of(comfy, graph)
    assert_said(error, "AttractorTrain", "step 2: the ", "loss is not a finite number", "Lower learning_rate",
                "checkpoint at step 1")
    assert steps_done(runs / "diverged") == 1
    token = load_token(runs / "diverged" / "diverged.safetensors")
    assert torch.isfinite(token.subject.vectors).all()


def test_resuming_something_else_says_what_differs(comfy, runs):
    comfy.run(training(comfy, "mismatch"))
    changed = {
        "settings": (training(comfy, "mismatch", steps=2, tau=0.5), ("tau was 0.07, is 0.5",)),
        "photos": (training(comfy, "mismatch", photos=2, steps=2), ("photos was ",)),
        "model": (training(comfy, "mismatch", loader={"seed": 9}, steps=2), ("base model was ",)),
        "fewer steps": (training(comfy, "mismatch", steps=2), None),
    }
    for graph, words in changed.values():
        if words is None:
            comfy.run(graph)
            graph, words = training(comfy, "mismatch", steps=1), ("2 steps are done already, steps is 1",)
        with unchanged(runs):
            assert_said(error_of(comfy, graph), "AttractorTrain", "name: ", "cannot be resumed", "turn resume off", *words)


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"garbage", lambda whole: b""])
def test_a_damaged_state_is_not_resumed(comfy, runs, damage):
    name = f"damaged{len(damage(bytes(64)))}"
    comfy.run(training(comfy, name))
    state = runs / name / "resume.state"
    state.write_bytes(damage(state.read_bytes()))
    with unchanged(runs):
        error = error_of(comfy, training(comfy, name, steps=2))
    assert_said(error, "AttractorTrain", "name: ", "resume.state is damaged", "turn resume off")
    comfy.run(training(comfy, name, steps=2, resume=False))
    assert steps_done(runs / name) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a running server's files")
def test_a_full_disk_leaves_the_last_files_whole(comfy, comfy_server, runs):
    import resource

    def limit(size):
        pid = comfy_server.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))

    comfy.run(training(comfy, "full", method="neti"))
    graph = training(comfy, "full", method="neti", steps=2)
    limit(700_000)  # bytes; less than a mapper takes, more than the server's log
    try:
        with unchanged(runs):
            error = error_of(comfy, graph)
    finally:
        limit(resource.RLIM_INFINITY)
    assert_said(error, "AttractorTrain", "could not be saved at step 2", "Free space", "queue again")
    comfy.run(graph)
    assert steps_done(runs / "full") == 2


# --- token files ------------------------------------------------------------------------------------


class Malicious:
    """Creates a file when it is unpickled by a reader that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def load(file, **inputs):
    graph = Graph()
    loaded = graph.add("AttractorLoadNeTIMapper", file=file, **inputs)
    graph.add("AttractorSaveToken", token=loaded[0], name="loaded")
    return graph


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
@pytest.mark.parametrize("form", ["zip", "plain pickle"])
def test_a_malicious_pickle_runs_nothing(comfy, comfy_server, tokens, tmp_path, suffix, form):
    trace, path = tmp_path / "executed", tokens / f"malicious-{form[:3]}{suffix}"
    content = {"state_dict": {}, "cfg": {}, "encoder": Malicious(trace)}
    if form == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with unchanged(comfy_server.output):
        error = error_of(comfy, load(path.name))
    assert_said(error, "AttractorLoadNeTIMapper", "file: ", path.name, "Nothing of it was executed", "safetensors",
                *(["mkdir"] if form == "zip" else []))
    assert not trace.exists()


FILES = {
    "garbage.safetensors": (b"garbage" * 100, ("garbage.safetensors",)),
    "empty.safetensors": (b"", ("empty.safetensors",)),
    "garbage.pt": (b"garbage" * 100, ("garbage.pt",)),
    "empty.bin": (b"", ("empty.bin",)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_tokens(comfy, comfy_server, tokens, name):
    content, words = FILES[name]
    (tokens / name).write_bytes(content)
    with unchanged(comfy_server.output):
        assert_said(error_of(comfy, load(name)), "AttractorLoadNeTIMapper", "file: ", *words)


def test_a_model_of_another_sort_is_no_token(comfy, tokens):
    save_file({"unet.up": torch.zeros(3, 4), "unet.down": torch.zeros(4, 3)}, tokens / "lora.safetensors")
    assert_said(error_of(comfy, load("lora.safetensors")), "AttractorLoadNeTIMapper", "file: lora.safetensors holds no token")


def test_half_a_token_is_no_token(comfy, tokens):
    save_token(PersonalizedToken("<x>", "cat", "textual_inversion", 768, Embedding(torch.zeros(4, 768))), tokens / "half.tmp")
    whole = (tokens / "half.tmp").read_bytes()
    (tokens / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert_said(error_of(comfy, load("half.safetensors")), "AttractorLoadNeTIMapper", "file: ", "half.safetensors")


@pytest.mark.parametrize("file", ["../../../secret.safetensors", "/etc/passwd", "embeddings/../../x.pt", "absent.safetensors"])
def test_only_listed_files_are_loaded(comfy, file):
    with pytest.raises((GraphRejected, ExecutionFailed)) as failed:
        comfy.run(load(file))
    assert "file" in str(failed.value)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..", "a\\b", " ", "a//b", "con\0trol"])
def test_saving_stays_in_its_folder(comfy, comfy_server, tokens, name):
    save_token(PersonalizedToken("<x>", "cat", "textual_inversion", 768, Embedding(torch.ones(1, 768))),
               tokens / "good.safetensors")
    graph = load("good.safetensors")
    graph.prompt["2"]["inputs"]["name"] = name
    with unchanged(comfy_server.output, comfy_server.base / "models"):
        assert_said(error_of(comfy, graph), "AttractorSaveToken", "name")


def test_a_token_of_another_width_is_refused(comfy, tokens):
    token = PersonalizedToken("<wide>", "cat", "textual_inversion", 1024, Embedding(torch.ones(1, 1024)))
    save_token(token, tokens / "wide.safetensors")
    graph = Graph()
    tiny = add_tiny(graph)
    loaded = graph.add("AttractorLoadNeTIMapper", file="wide.safetensors")
    applied = graph.add("AttractorApplyToken", model=tiny[0], clip=tiny[1], token=loaded[0])
    graph.add("PreviewAny", source=encode(graph, applied[1], "<wide>"))
    assert_said(error_of(comfy, graph), "AttractorApplyToken", "token: <wide> has width 1024", "768", "Stable Diffusion 1.5")


def test_an_unknown_placeholder_in_a_prompt_is_loud(comfy, tokens):
    token = PersonalizedToken("<cat>", "cat", "textual_inversion", 768, Embedding(torch.ones(1, 768)))
    save_token(token, tokens / "cat.safetensors")
    graph = Graph()
    tiny = add_tiny(graph)
    loaded = graph.add("AttractorLoadNeTIMapper", file="cat.safetensors")
    applied = graph.add("AttractorApplyToken", model=tiny[0], clip=tiny[1], token=loaded[0])
    graph.add("PreviewAny", source=encode(graph, applied[1], "a photo of <cta>"))
    assert_said(error_of(comfy, graph), "CLIPTextEncode", "text: <cta>", "Known here: <cat>", "Correct the name")
