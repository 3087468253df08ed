"""A file of each faulty kind through the running server: an error in seconds that names the file, or a token that works."""

import json
import shutil
import time
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from attractor.trainer.token_file import load_token
from comfy_client import ExecutionFailed, Graph
from pdst_results import CORGI, write_entry
from source_files import ROOT

FAULTS = ROOT / "tests" / "faults"
SECONDS = 5


@pytest.fixture
def tokens(comfy_server):
    folder = comfy_server.base / "models" / "neti"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load(file):
    graph = Graph()
    loaded = graph.add("AttractorLoadNeTIMapper", file=file)
    graph.add("AttractorSaveToken", token=loaded[0], name="faulty-inputs", export_embedding=False)
    return graph


def refused(comfy, graph, *words):
    started = time.monotonic()
    with pytest.raises(ExecutionFailed) as failed:
        comfy.run(graph)
    assert time.monotonic() - started < SECONDS
    for word in words:
        assert word in failed.value.exception_message, failed.value.exception_message


def a_zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", bytes(150 * 2**20))


def for_sdxl(path):
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, path)


KINDS = {
    "a damaged pickle": ("archives-legacy_flip_21_at_91.bin.bin", "damaged", "Get it again"),
    "memory without bound": ("malicious-ops_bytearray_20GB_plain.pt", "builtins.bytearray", "Nothing of it was executed"),
    "odd content": ("off_content-state_dict_tensor.pt", "not an official NeTI mapper", "Choose another file"),
    "a wrong type": ("st_format-dtype-I64.safetensors", "damaged", "Get it again"),
    "not a number": ("st_weights-plain-one-nan.safetensors", "not finite", "Choose an earlier checkpoint"),
    "a zip bomb": (a_zip_bomb, "unpacks to 150 MB", "Choose another file"),
    "another tool's file": (for_sdxl, "for SDXL", "Stable Diffusion 1.5"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_faulty_token_is_named(comfy, comfy_server, tokens, kind):
    source, *words = KINDS[kind]
    if isinstance(source, str):
        name = source
        shutil.copy(FAULTS / source, tokens / name)
    else:
        name = f"{source.__name__}.{'pt' if source is a_zip_bomb else 'safetensors'}"
        source(tokens / name)
    refused(comfy, load(name), f"file: {name} ", *words)
    assert not (comfy_server.output / "neti" / "faulty-inputs.safetensors").exists()


@pytest.mark.parametrize("name", ["my dog (2).pt", "CUP.SAFETENSORS", "cup.sft"])
def test_a_file_named_otherwise_loads_under_a_usable_name(comfy, comfy_server, tokens, name):
    vectors = torch.ones(2, 768)
    if name.endswith(".pt"):
        torch.save({"string_to_param": {"*": vectors}, "name": "inner"}, tokens / name)
    else:
        save_file({"clip_l": vectors}, tokens / name)
    comfy.run(load(name))
    path = comfy_server.output / "neti" / "faulty-inputs.safetensors"
    token = load_token(path)
    path.unlink()
    assert token.placeholder == {"my": "<my-dog-2>", "CU": "<CUP>", "cu": "<cup>"}[name[:2]]
    assert token.record.get("name_in_file") == ("inner" if name.endswith(".pt") else None)


def test_results_edited_by_hand_are_named(comfy, comfy_server):
    folder = comfy_server.output / "pdst" / "edited"
    write_entry(folder, "corgi", CORGI, {"clip_t": 0.3, "dino": 0.5})
    path = folder / "corgi.jsonl"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps({**json.loads(first), "scores": {"dino": "high"}}), *rest]) + "\n")
    graph = Graph()
    graph.add("AttractorPDSTReport", evaluations="edited", name="", y_axis="dino", contact_sheet="best, median, worst")
    refused(comfy, graph, "corgi.jsonl is damaged at line 2 (scores)", "Restore it, or delete it")
