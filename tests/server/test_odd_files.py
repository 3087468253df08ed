"""Odd names, places and pictures through the running server: right, or an error that names the input, in seconds."""

import io
import os
import sys
import time

import numpy as np
import pytest
import torch
from graphs import add_evaluation, add_tiny, add_training
from PIL import Image, features

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.token_file import save_token
from comfy_client import ExecutionFailed, Graph, GraphRejected
from pdst_results import CORGI, write_entry
from pdst_set import picture, write_subject

pytestmark = pytest.mark.one_host
SECONDS = 5
linux = pytest.mark.skipif(sys.platform != "linux", reason="other disks have other limits, and names that are no bytes")


def refused(comfy, graph, *words):
    """The message of a graph that is refused before any work."""
    started = time.monotonic()
    with pytest.raises((ExecutionFailed, GraphRejected)) as failed:
        comfy.run(graph)
    assert time.monotonic() - started < SECONDS
    error = failed.value
    message = error.exception_message if isinstance(error, ExecutionFailed) else "\n".join(error.messages)
    for word in words:
        assert word in message, message
    return message


# --- names and places ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(comfy_server):
    """models/pdst with a data set of one subject, and the folder for others."""
    root = comfy_server.base / "models" / "pdst"
    write_subject(root / "odd", "cat")
    write_subject(root / "secret", "dog")
    return root


def captions(subject, folder="pdst/odd", **changes):
    graph = Graph()
    texts = graph.add("PrimitiveStringMultiline", value="a cat here\n\na cat there")[0]
    inputs = {"subject_words": "cat", "captions_per_photo": 1, "replace_edited": False, "texts": texts}
    graph.add("AttractorMakePDSTCaptions", folder=folder, subject=subject, **{**inputs, **changes})
    return graph


def test_captions_are_made_of_no_subject_outside_the_data_set(comfy, sets):
    """Nor looked at: a pipe in the place of captions would never answer."""
    for path in (sets / "secret" / "dog" / "test").glob("*.txt"):
        path.unlink()
        os.mkfifo(path) if sys.platform != "win32" else None
    for subject in (str(sets / "secret" / "dog"), "../secret/dog", "cat/../../secret/dog", ".", "x" * 5_000, "a\0b"):
        refused(comfy, captions(subject), "subject: odd has no subject", "It has: cat")
    for folder in ("pdst/.", "pdst/odd/..", "pdst/../neti", "input/..", "pdst/" + "x" * 5_000, "pdst/a\0b"):
        refused(comfy, captions("cat", folder), "folder: there is no data set")
        graph = Graph()
        graph.add("PreviewAny", source=graph.add("AttractorLoadPDST", folder=folder, subjects="all", captions_per_photo=0)[5])
        refused(comfy, graph, "folder: there is no data set")
    assert not list((sets / "secret").rglob("drafts.json"))


@linux
def test_a_pipe_in_place_of_captions_is_named(comfy, sets):
    folder = write_subject(sets / "odd-pipe", "piped")
    (folder / "test" / "test-1.txt").unlink()
    os.mkfifo(folder / "test" / "test-1.txt")
    refused(comfy, captions("piped", "pdst/odd-pipe"), "subject: piped/test/test-1.txt ", "a pipe")
    graph = Graph()
    graph.add(
        "PreviewAny", source=graph.add("AttractorLoadPDST", folder="pdst/odd-pipe", subjects="piped", captions_per_photo=0)[5]
    )
    refused(comfy, graph, "piped/test/test-1.txt ", "a pipe")


LONG = ["x" * 5_000, "x" * 256, "é" * 128, "狗" * 86, "a-file/below", "a/" * 2_100 + "a"]


def train(name, server):
    graph = Graph()
    grey = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=8421504)[0]
    add_training(graph, add_tiny(graph), grey, name=name, method="textual_inversion", batch_size=1, steps=1)
    return graph


def save(name, server):
    path = server.base / "models" / "neti" / "odd-names.safetensors"
    save_token(PersonalizedToken("<x>", "cat", "textual_inversion", 768, Embedding(torch.ones(1, 768))), path)
    graph = Graph()
    graph.add("AttractorSaveToken", token=graph.add("AttractorLoadNeTIMapper", file=path.name)[0], name=name)
    return graph


def evaluate(name, server, folder="odd-names", token=None, labels=""):
    graph = Graph()
    loader = add_tiny(graph, text_width=768)
    dataset = graph.add("AttractorLoadPDST", folder=f"pdst/{folder}", subjects="all", captions_per_photo=0)
    inputs = {"images_per_caption": 3, "steps": 1, "width": 64, "height": 64, "seed": 5, "save_images": True}
    if token:
        inputs["tokens"] = graph.add("AttractorLoadNeTIMapper", file=token)[0]
    models = {"model": loader[0], "clip": loader[1], "vae": loader[2], "dataset": dataset[0]}
    add_evaluation(graph, **models, name=name, include_floor=not token, metrics=False, labels=labels, **inputs)
    return graph


def report(name, server):
    write_entry(server.output / "pdst" / "odd-report", "corgi", CORGI, {"clip_t": 0.3, "dino": 0.5})
    graph = Graph()
    graph.add("AttractorPDSTReport", evaluations="odd-report", name=name, y_axis="dino", contact_sheet="none")
    return graph


def split(name, server):
    folder = server.input / "odd-split"
    folder.mkdir(exist_ok=True)
    for i in range(6):
        picture(50 + i).save(folder / f"{i}.png")
    graph = Graph()
    inputs = {"super_category": "cat", "kind": "living", "train_photos": 3, "order": "by name", "seed": 0}
    dataset, _, subject = name.partition("/") if name.count("/") == 1 else (name, "", "")
    graph.add("AttractorSplitSubjectPhotos", photos="odd-split", dataset=dataset, subject=subject or "x", **inputs)
    return graph


@linux
@pytest.mark.parametrize("make", [train, save, evaluate, report, split])
def test_a_name_that_the_disk_does_not_take_is_named_before_any_work(comfy, comfy_server, sets, make):
    if not (sets / "odd-names").exists():
        write_subject(sets / "odd-names", "cat")
    written = [comfy_server.output / "neti", comfy_server.output / "pdst", sets]
    for root in written:
        root.mkdir(exist_ok=True)
        (root / "a-file").touch()
        (root / "a-file.safetensors").touch()
    graphs = [make(name, comfy_server) for name in LONG]
    before = [sorted(root.rglob("*")) for root in written]
    for name, graph in zip(LONG, graphs, strict=True):
        message = refused(comfy, graph, "dataset" if make is split else "name")
        expected = ("is too long", "is a file", "contains a /", "there is a folder")
        assert any(words in message for words in expected), (name[:20], message[:600])
        assert max(map(len, message.splitlines())) < 500  # where widgets are checked, the host says it of each of them
    assert [sorted(root.rglob("*")) for root in written] == before, "something was left behind"
    for root in written:
        (root / "a-file").unlink()
        (root / "a-file.safetensors").unlink()


@linux
def test_photo_and_label_names_too_long_for_an_evaluations_files_are_named_before_any_work(comfy, comfy_server, sets):
    folder = write_subject(sets / "odd-photos", "cat", test=1)
    (folder / "test" / "test-1.png").rename(folder / "test" / ("é" * 125 + ".png"))
    (folder / "test" / "test-1.txt").rename(folder / "test" / ("é" * 125 + ".txt"))
    refused(comfy, evaluate("odd-photos", comfy_server, "odd-photos"), "dataset: cat/test/", "too long for this disk")
    save("x", comfy_server)
    graph = evaluate("odd-labels", comfy_server, "odd", "odd-names.safetensors", "x" * 251)
    refused(comfy, graph, "labels: xxx", "too long for this disk")
    assert not (comfy_server.output / "pdst" / "odd-photos").exists()


# --- pictures --------------------------------------------------------------------------------------------


def load(folder, unreadable_files="leave out", **more):
    graph = Graph()
    loaded = graph.add(
        "AttractorLoadSubjectImages", folder=folder.name, alpha="ignored", unreadable_files=unreadable_files, **more
    )
    return graph, loaded, graph.add("PreviewImage", images=loaded[0])


@linux
def test_a_folder_as_people_have_it_is_loaded(comfy, comfy_server):
    """Photos of every kind and name; what systems and trainers leave beside them; and what cannot be read, which is told."""
    folder = comfy_server.input / "odd-folder"
    for below in ("__MACOSX", "@eaDir", ".thumbnails"):
        (folder / below).mkdir(parents=True)
        picture(9).save(folder / below / "1.png")
    kinds = ["1.jfif", "2.jp2", "3.avif", "4.webp", "10.bmp", "²", "①.jpg"]
    for i, name in enumerate(kinds):
        picture(i).save(folder / name, format={".jfif": "JPEG", ".jp2": "JPEG2000", "": "PNG"}.get(os.path.splitext(name)[1]))
    picture(7).save(os.fsencode(folder) + b"/caf\xe9.png")
    Image.fromarray(np.linspace(0, 1, 72 * 96, dtype=np.float32).reshape(72, 96)).save(folder / "5.tiff")
    for name in ("._1.png", ".hidden.png", "1-masklabel.png", "Thumbs.db", "1.txt", "1.json"):
        (folder / name).write_bytes(b"of no use")
    (folder / "6.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (folder / "7.psd").write_bytes(b"8BPS\0\x01" + bytes(100))
    content = io.BytesIO()
    picture(1).save(content, "AVIF" if features.check("avif") else "PNG")
    (folder / "8.avif").write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    os.mkfifo(folder / "9.png")
    graph, loaded, shown = load(folder)
    names = graph.add("PreviewAny", source=loaded[2])
    entry = comfy.run(graph)
    (text,) = entry["outputs"][loaded.id]["text"]
    assert [line.split(" ")[1] for line in text.splitlines()[:9]] == [
        f"{name}:" for name in ("1.jfif", "2.jp2", "3.avif", "4.webp", "5.tiff", "10.bmp", "caf\\xe9.png", "²", "①.jpg")
    ]
    assert [line[:17] for line in text.splitlines()[9:]] == ["left out: 6.heic:", "left out: 7.psd: ", "left out: 8.avif:"]
    assert "convert it to JPEG or PNG" in text
    images = [np.asarray(image.convert("RGB")) for image in comfy.images(entry, shown)]
    assert all(image.shape == (72, 96, 3) and 50 < image.mean() < 200 for image in images)
    assert "caf" in str(entry["outputs"][names.id])
    stop, _, _ = load(folder, "stop")
    message = refused(comfy, stop, "6.heic", "7.psd", "8.avif", "save them again as JPEG or PNG")
    assert not any(name in message for name in ("hidden", "masklabel", "9.png", "Thumbs", "1.txt"))
    listed = comfy.object_info("AttractorLoadSubjectImages")["input"]["required"]["folder"]
    listed = listed[1]["options"] if len(listed) > 1 and "options" in listed[1] else listed[0]
    assert "odd-folder" in listed and not [name for name in listed if "odd-folder/" in name]


def test_a_set_that_was_split_is_loaded_whatever_kinds_of_photos_it_has(comfy, comfy_server, sets):
    folder = comfy_server.input / "odd-kinds"
    folder.mkdir()
    kinds = ["a.avif" if features.check("avif") else "a.png", "b.jfif", "c.jp2" if features.check("jpg_2000") else "c.png"]
    for i, name in enumerate([*kinds, "d.webp", "e.tif", "f²"]):
        formats = {".jfif": "JPEG", ".jp2": "JPEG2000", "": "PNG"}
        picture(80 + i).save(folder / name, format=formats.get(os.path.splitext(name)[1]))
    graph = Graph()
    inputs = {"super_category": "cat", "kind": "living", "train_photos": 3, "order": "by name", "seed": 0}
    graph.add("AttractorSplitSubjectPhotos", photos="odd-kinds", dataset="odd-kinds", subject="cat", **inputs)
    comfy.run(graph)
    for path in (sets / "odd-kinds" / "cat" / "test").iterdir():
        path.with_suffix(".txt").write_text("a {}\n")
    graph = Graph()
    loaded = graph.add("AttractorLoadPDST", folder="pdst/odd-kinds", subjects="all", captions_per_photo=1)
    shown = [graph.add("PreviewImage", images=loaded[slot]) for slot in (1, 3)]
    entry = comfy.run(graph)
    assert [len(comfy.images(entry, node)) for node in shown] == [3, 3]
    if sys.platform == "linux":
        picture(99).save(os.fsencode(sets / "odd-kinds" / "cat" / "train") + b"/caf\xe9.png")
        refused(comfy, graph, "cat/train/caf\\xe9.png has a name in bytes that are no UTF-8: rename it")


def test_large_photos_are_scaled_down_unless_they_are_wanted_whole(comfy, comfy_server):
    folder = comfy_server.input / "odd-large"
    folder.mkdir()
    picture(1, (3000, 2000)).save(folder / "1.jpg")
    picture(2, (1000, 2500)).save(folder / "2.png")
    sizes = {}
    for side in (None, 0, 512):
        graph, _, shown = load(folder, **({} if side is None else {"longest_side": side}))
        sizes[side] = [image.size for image in comfy.images(comfy.run(graph), shown)]
    assert sizes == {
        None: [(2048, 1365), (819, 2048)],
        0: [(3000, 2000), (1000, 2500)],
        512: [(512, 341), (205, 512)],
    }
