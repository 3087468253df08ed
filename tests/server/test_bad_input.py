"""Every kind of bad input: the error names input and remedy before any long work, and nothing is half-written."""

import json
import os
import pickle
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch
from filelock import FileLock
from graphs import add_photos, add_tiny, add_training, encode
from safetensors import safe_open
from safetensors.torch import load_file, save_file

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


def unwired_options(**changes):
    graph = train(**changes)
    graph.prompt = {key: node for key, node in graph.prompt.items() if node["class_type"] != "AttractorTrainingOptions"}
    next(node for node in graph.prompt.values() if node["class_type"] == "AttractorTrain")["inputs"].pop("options")
    return graph


TRAINING = {
    "an SDXL model": (train({"kind": "sdxl"}), ("model: this is SDXL", "Load Checkpoint")),
    "a pruned model": (train({"kind": "pruned"}), ("model: ", "10 cross-attention blocks", "pruned", "Load Checkpoint")),
    "a v-prediction model": (train(sampling="v_prediction"), ("model: ", "predicts v", "eps")),
    "a quantised model": (train({"kind": "fp8"}), ("model: ", "quantised (float8_e4m3fn)", "Load the fp16")),
    "an inpainting model": (train({"kind": "inpainting"}), ("model: ", "9 channels", "Load Checkpoint")),
    "another model's text encoder": (
        train({"kind": "sd2 text encoder"}),
        ("clip: ", "SD2ClipModel", "Load a Stable Diffusion 1.5 checkpoint"),
    ),
    "a file without text encoder and VAE": (
        train({"kind": "U-Net only"}),
        ("clip: ", "no text encoder", "vae: ", "no VAE", "Load a Stable Diffusion 1.5"),
    ),
    "another model's VAE": (train({"vae_channels": 16}), ("vae: ", "16 latent channels", "same checkpoint")),
    "fewer masks than images": (train(photos={"masks": (0.5, 0.5)}), ("masks: ", "3 images and 2 masks", "one mask per")),
    "more masks than images": (train(photos={"masks": (0.5,) * 4}), ("masks: ", "3 images and 4 masks", "one mask per")),
    "masks of another size": (train(photos={"mask_size": 64}), ("masks: ", "image 1 is 64 x 64", "128 x 128")),
    "an empty mask": (train(photos={"masks": (0.5, 0.0, 0.5)}), ("masks: ", "image 2 is empty", "Paint")),
    "a full mask": (train(photos={"masks": (0.5, 0.5, 1.0)}), ("masks: ", "image 3 covers the whole", "Mask the subject")),
    "a placeholder that is a word": (train(placeholder="dog"), ("placeholder 'dog'", "vocabulary", "<dog>")),
    "a sample prompt without the subject": (
        train(sample_every=1, sample_prompt="a photo of a dog"),
        ("sample_prompt", "{}", "<my-cat>"),
    ),
    "a sentence for a super-category": (
        train(super_category="a small dog that barks at the postman every morning"),
        ("super_category 'a small dog that", "takes 11 tokens", "8 is the most", "such as dog"),
    ),
    "no super-category": (train(super_category=""), ("super_category is empty", "such as dog")),
    "contrast in a batch of one": (train(batch_size=1), ("batch_size is 1", "contrast_weight to 0")),
    "a learning rate of zero": (train(learning_rate_preset="custom", learning_rate=0.0), ("learning_rate is 0", "above 0")),
    "more files than the disk holds": (
        train({"text_width": 768}, method="neti+", steps=100_000, checkpoint_every=1),
        ("MB left", "100,000 step files of 9 MB", "a token of 9 MB", "checkpoint_every"),
    ),
    "much at once": (
        train({"kind": "pruned"}, {"masks": (0.5, 0.0, 0.5)}, placeholder="dog", batch_size=1),
        ("model: ", "masks: ", "placeholder 'dog'", "batch_size is 1"),
    ),
}


@pytest.mark.parametrize("kind", TRAINING)
def test_training_refuses(comfy, comfy_server, kind):
    graph, words = TRAINING[kind]
    with unchanged(comfy_server.output, comfy_server.base / "models"):
        assert_said(error_of(comfy, graph), "AttractorTrain", *words)
    assert not os.path.exists("/tmp/attractor-elsewhere")


# What the widgets alone show, said when the graph is queued.
WIDGETS = {
    "no placeholder": (train(placeholder=" "), ("placeholder is empty", "<my-dog>")),
    "a placeholder with a space": (train(placeholder="<my dog>"), ("placeholder '<my dog>'", "space", "<my-dog>")),
    "a placeholder that prompts would read otherwise": (
        train(placeholder="(my-dog:1.2)"),
        ("placeholder '(my-dog:1.2)'", "( ) [ ]", "<my-dog>"),
    ),
    "a name that leads elsewhere": (train(name="../elsewhere"), ("name '../elsewhere'", "letters, digits")),
    "an absolute name": (train(name="/tmp/attractor-elsewhere"), ("name '/tmp/attractor-elsewhere'", "letters, digits")),
    "a Windows path": (train(name="..\\elsewhere"), ("name ", "letters, digits")),
    "no name": (train(name=" "), ("name is empty", "my-dog")),
    "an unknown method": (train(method="magic"), ("method is 'magic'", "neti+")),
    "a batch that is too large": (train(batch_size=65), ("batch_size is 65", "1 to 64")),
    "contrast in a batch of one, by the options' defaults": (
        unwired_options(batch_size=1),
        ("batch_size is 1", "use 2 or more"),
    ),
}


@pytest.mark.parametrize("kind", WIDGETS)
def test_what_the_widgets_show_is_refused_before_anything_is_loaded(comfy, comfy_server, kind):
    graph, words = WIDGETS[kind]
    with unchanged(comfy_server.output, comfy_server.base / "models"), pytest.raises(GraphRejected) as rejected:
        comfy.run(graph)
    said = "\n".join(rejected.value.messages)
    assert said.startswith("AttractorTrain: ") and all(word in said for word in words)
    assert not os.path.exists("/tmp/attractor-elsewhere")


@pytest.mark.parametrize("changes", [{"steps": 0}, {"learning_rate_preset": "magic"}, {"batch_size": "many"}])
def test_values_out_of_range_are_refused_before_anything_runs(comfy, comfy_server, changes):
    with unchanged(comfy_server.output), pytest.raises(GraphRejected) as rejected:
        comfy.run(train(**changes))
    (message,) = rejected.value.messages
    assert message.startswith("AttractorTrain: ") and next(iter(changes)) in message


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
    assert_said(
        error,
        "AttractorTrain",
        "step 2: the ",
        "loss is not a finite number",
        "Lower learning_rate",
        "another name",
        "checkpoint at step 1",
    )
    assert steps_done(runs / "diverged") == 1
    names = {path.name for path in (runs / "diverged").iterdir()}
    tokens = {"diverged.safetensors", "diverged-step-000001.safetensors"}
    assert names == tokens | {"resume.state", "curves.json", "chart.png", "run.json", "photo.png"}
    kept = load_file(runs / "diverged" / "diverged.safetensors")  # finite, but no token that anyone could load
    assert torch.isfinite(kept["subject.vectors"]).all()
    with pytest.raises(ValueError, match="beyond 10,000"):
        load_token(runs / "diverged" / "diverged.safetensors")


def test_a_first_checkpoint_that_never_came_is_not_promised(comfy, runs):
    graph = training(comfy, "diverged-early", steps=5, learning_rate_preset="custom", learning_rate=1e30)
    with unchanged(runs):
        assert_said(error_of(comfy, graph), "AttractorTrain", "step 2: the ", "none was saved yet")


@pytest.mark.one_host
def test_resuming_something_else_says_what_differs(comfy, runs):
    comfy.run(training(comfy, "mismatch"))
    changed = {
        "settings": (training(comfy, "mismatch", steps=2, tau=0.5), ("tau was 0.07, is 0.5",)),
        "photos": (training(comfy, "mismatch", photos=2, steps=2), ("there were 3 photos, and are 2", "masks")),
        "size": (training(comfy, "mismatch", steps=2, resolution=192), ("size in training was 128 x 128", "is 192 x 192")),
        "model": (training(comfy, "mismatch", loader={"seed": 9}, steps=2), ("the base model is another one",)),
        "fewer steps": (training(comfy, "mismatch", steps=2), None),
    }
    for graph, words in changed.values():
        if words is None:
            comfy.run(graph)
            graph, words = training(comfy, "mismatch", steps=1), ("2 steps are done already, steps is 1",)
        with unchanged(runs):
            assert_said(error_of(comfy, graph), "AttractorTrain", "name: ", "cannot be resumed", "turn resume off", *words)


@pytest.mark.one_host
def test_a_damaged_state_is_not_resumed(comfy, runs):
    comfy.run(training(comfy, "damaged"))
    graph = training(comfy, "damaged", steps=2)
    state = runs / "damaged" / "resume.state"
    whole = state.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"garbage", b""):
        state.write_bytes(damaged)
        with unchanged(runs):
            error = error_of(comfy, graph)
        assert_said(error, "AttractorTrain", "name: ", "resume.state is damaged", "turn resume off")
    comfy.run(training(comfy, "damaged", steps=2, resume=False))
    assert steps_done(runs / "damaged") == 2


@contextmanager
def file_size_limit(server, size):
    """No file of the running server may grow beyond `size` bytes: to it, a full disk."""
    import resource

    before = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a running server's files")
@pytest.mark.one_host
def test_a_full_disk_leaves_the_last_files_whole(comfy, comfy_server, runs):
    folder = runs / "full"
    comfy.run(training(comfy, "full", method="neti"))
    graph = training(comfy, "full", method="neti", steps=2)
    sizes = [(folder / name).stat().st_size for name in ("full.safetensors", "resume.state")]
    assert 700_000 < sizes[0] < sizes[1] - 1, "the limits below would hit something else"

    with unchanged(runs), file_size_limit(comfy_server, 700_000):  # the server's log is smaller
        error = error_of(comfy, graph)
    assert_said(error, "AttractorTrain", "could not be saved at step 2", "Free space", "queue again")

    state = (folder / "resume.state").read_bytes()
    with file_size_limit(comfy_server, sizes[1] - 1):  # the token fits, the state does not
        error = error_of(comfy, graph)
    assert_said(error, "AttractorTrain", "could not be saved at step 2", "Free space", "queue again")
    assert (folder / "resume.state").read_bytes() == state
    assert load_token(folder / "full.safetensors").record["step"] == 2
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]

    comfy.run(graph)
    assert steps_done(folder) == 2


def test_a_sample_that_fails_does_not_stop_the_training_and_is_made_later(comfy, runs):
    """Neither one that cannot be written, nor one whose prompt names an unknown token."""
    small = {"sample_every": 1, "sample_steps": 1, "sample_cfg": 1.0, "method": "textual_inversion+"}
    for name, prompt, words in (
        ("no-room", "a photo of a {}", "the sample of step 2 could not be made ("),
        ("no-hat", "a {} with a <hat>", "<hat> in the prompt is not an applied token"),
    ):
        (runs / name).mkdir(parents=True)
        if name == "no-room":
            (runs / name / "samples").write_text("where a folder should be")
        with comfy.listen() as listener:
            comfy.run(training(comfy, name, steps=2, **{**small, "sample_prompt": prompt}))
        assert any(words in message["text"] for message in listener.of_type("text"))
        assert steps_done(runs / name) == 2
        assert not list((runs / name).glob("samples/*"))
        if name == "no-room":
            (runs / name / "samples").unlink()
        small["sample_prompt"] = "a drawing of a {}"  # another graph, or the host would not run it again
        comfy.run(training(comfy, name, steps=2, **small))  # what is due at a step is made on resume
        assert [path.name for path in (runs / name / "samples").iterdir()] == ["step-000002.png"]


def test_a_run_that_another_comfyui_writes_is_left_alone(comfy, runs):
    folder = runs / "taken"
    folder.mkdir(parents=True)
    (folder / ".in-use.json").write_text(json.dumps({"process": 4711, "machine": "desk", "since": "12:30"}))
    with FileLock(folder / ".lock"), unchanged(folder):
        error = error_of(comfy, training(comfy, "taken"))
        assert_said(error, "AttractorTrain", "name: the run 'taken' is being written by another", "process 4711 on desk")
    comfy.run(training(comfy, "taken", method="textual_inversion+"))
    assert steps_done(folder)


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
    assert_said(
        error,
        "AttractorLoadNeTIMapper",
        "file: ",
        path.name,
        "Nothing of it was executed",
        "safetensors",
        *(["mkdir"] if form == "zip" else []),
    )
    assert not trace.exists()


def half_a_token(path):
    save_token(PersonalizedToken("<x>", "cat", "textual_inversion", 768, Embedding(torch.zeros(4, 768))), path)
    path.write_bytes(path.read_bytes()[:-1000])


def a_mapper_without_its_network(path):
    torch.save({"state_dict": {}, "cfg": {"model": {"use_positional_encoding": False}}, "encoder": None}, path)


def half_a_mapper(path):
    a_mapper_without_its_network(path)
    path.write_bytes(path.read_bytes()[:-100])


def a_lora(path):
    save_file({"unet.up": torch.zeros(3, 4), "unet.down": torch.zeros(4, 3)}, path)


def other_numbers(path):
    torch.save({"step": 3}, path)


FILES = {
    "garbage.safetensors": (lambda path: path.write_bytes(b"garbage" * 100), "not a readable safetensors file", "Get it again"),
    "empty.safetensors": (lambda path: path.touch(), "not a readable safetensors file", "Get it again"),
    "garbage.pt": (lambda path: path.write_bytes(b"garbage" * 100), "damaged", "Get it again"),
    "empty.bin": (lambda path: path.touch(), "damaged", "Get it again"),
    "half-a-token.safetensors": (half_a_token, "not a readable safetensors file", "Get it again"),
    "half-a-mapper.pt": (half_a_mapper, "damaged", "Get it again"),
    "hollow-mapper.pt": (a_mapper_without_its_network, "not an official NeTI mapper", "Choose another file"),
    "lora.safetensors": (a_lora, "holds no token", "Choose"),
    "numbers.pt": (other_numbers, "holds no embedding", "Choose"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_tokens(comfy, comfy_server, tokens, name):
    write, *words = FILES[name]
    write(tokens / name)
    with unchanged(comfy_server.output, tokens):
        assert_said(error_of(comfy, load(name)), "AttractorLoadNeTIMapper", f"file: {name} ", *words)


def test_an_official_mapper_alone_has_a_name_and_its_companion_points_to_it(comfy, comfy_server, tokens, golden):
    """`learned_embeds` only names the token: taken for an embedding, it would be the super-category's word."""
    shutil.copy(golden / "official_ckpt" / "mapper-steps-250.pt", tokens / "mapper-steps-250.pt")
    comfy.run(load("mapper-steps-250.pt"))
    assert load_token(comfy_server.output / "neti" / "loaded.safetensors").placeholder == "<concept-name>"
    shutil.copy(golden / "official_ckpt" / "learned_embeds-steps-250.bin", tokens / "learned_embeds-steps-250.bin")
    with unchanged(comfy_server.output, tokens):
        assert_said(
            error_of(comfy, load("learned_embeds-steps-250.bin")),
            "AttractorLoadNeTIMapper",
            "file: learned_embeds-steps-250.bin ",
            "Choose mapper-steps-250.pt",
        )


@pytest.mark.parametrize("file", ["../../../secret.safetensors", "/etc/passwd", "embeddings/../../x.pt", "absent.safetensors"])
def test_only_listed_files_are_loaded(comfy, comfy_server, file):
    with unchanged(comfy_server.output), pytest.raises(GraphRejected) as rejected:
        comfy.run(load(file))
    (message,) = rejected.value.messages
    assert message.startswith("AttractorLoadNeTIMapper: ") and f"file: {file!r} is not in models/neti" in message


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..", "a\\b", " ", "a//b", "con\0trol"])
def test_saving_stays_in_its_folder(comfy, comfy_server, tokens, name):
    save_token(
        PersonalizedToken("<x>", "cat", "textual_inversion", 768, Embedding(torch.ones(1, 768))), tokens / "good.safetensors"
    )
    graph = load("good.safetensors")
    graph.prompt["2"]["inputs"]["name"] = name
    with unchanged(comfy_server.output, comfy_server.base / "models"):
        assert_said(
            error_of(comfy, graph), "AttractorSaveToken", "name ", "use letters, digits" if name.strip() else "type a name"
        )


def apply(tokens, prompt, width=768, **loader):
    """Load a token <cat>, apply it and encode a prompt."""
    token = PersonalizedToken("<cat>", "cat", "textual_inversion", width, Embedding(torch.ones(1, width)))
    save_token(token, tokens / "cat.safetensors")
    graph = Graph()
    tiny = add_tiny(graph, text_width=768, **loader)
    loaded = graph.add("AttractorLoadNeTIMapper", file="cat.safetensors")
    applied = graph.add("AttractorApplyToken", model=tiny[0], clip=tiny[1], token=loaded[0])
    graph.add("PreviewAny", source=encode(graph, applied[1], prompt))
    return graph


@pytest.mark.parametrize(
    "loader, words",
    [
        ({"kind": "sdxl"}, ("model: this is SDXL",)),
        ({"kind": "pruned"}, ("model: ", "10 cross-attention blocks")),
        ({"kind": "sd2 text encoder"}, ("clip: ", "SD2ClipModel")),
        ({"kind": "U-Net only"}, ("clip: ", "no text encoder")),
    ],
)
def test_applying_refuses(comfy, tokens, loader, words):
    error = error_of(comfy, apply(tokens, "<cat>", **loader))
    assert_said(error, "AttractorApplyToken", *words, "Load a Stable Diffusion 1.5 checkpoint")


def test_a_token_of_another_width_is_refused(comfy, tokens):
    error = error_of(comfy, apply(tokens, "<cat>", width=1024))
    assert_said(error, "AttractorApplyToken", "token: <cat> has width 1024", "768", "Stable Diffusion 1.5")


def test_an_unknown_placeholder_in_a_prompt_is_loud(comfy, tokens):
    error = error_of(comfy, apply(tokens, "a photo of <cta>"))
    assert_said(error, "CLIPTextEncode", "text: <cta>", "Known here: <cat>", "Correct the name")


def test_a_placeholder_that_lacks_its_brackets_is_warned_of_on_the_node_that_reads_it(comfy, tokens):
    with comfy.listen() as listener:
        comfy.run(apply(tokens, "a photo of a cat"))
        comfy.run(apply(tokens, "a photo of a <cat>"))
    said = [message["text"] for message in listener.of_type("text")]
    assert "cat is in this prompt without its brackets" in said[0] and "Write <cat>" in said[0]
    assert said[1:] == ["The warning that was here no longer holds."]
