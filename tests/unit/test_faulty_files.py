"""Files that were read wrongly once, and files made to cost much: each is a token that works or is named in one sentence."""

import io
import json
import os
import pickle
import re
import struct
import sys
import time
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.reading import BadFile
from attractor.trainer.token_file import load_token, save_token
from source_files import ROOT

FAULTS = sorted((ROOT / "tests" / "faults").glob("*.*"))
TOKENS = [path for path in FAULTS if path.suffix in (".pt", ".bin", ".safetensors")]
SECONDS, MEGABYTES = 5, 500
# All others are refused.
GOOD_TOKENS = {"st_format-name-empty.safetensors"}  # it has no placeholder, so the file's name is one


def peak():
    """The most memory that this process ever had, in MB."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(autouse=True)
def bounded():
    """Every test here takes little memory."""
    before = peak()
    yield
    assert peak() - before < MEGABYTES


def refused(path):
    started = time.monotonic()
    with pytest.raises(BadFile) as error:
        load_token(path)
    assert time.monotonic() - started < SECONDS
    message = str(error.value)
    assert message.startswith(f"{path.name} ") and message.endswith(".") and len(message) < 700 and "\n" not in message
    return message


def test_the_faulty_files_are_here():
    assert len(TOKENS) > 40


@pytest.mark.parametrize("path", TOKENS, ids=lambda path: path.name)
def test_a_faulty_token_works_or_is_named(path):
    if path.name in GOOD_TOKENS:
        token = load_token(path)
        assert token.placeholder == f"<{path.stem}>" and torch.isfinite(token.subject.vectors).all()
    else:
        refused(path)


# --- too much -----------------------------------------------------------------------------------------


def archive(path, members, stored=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"x/{name}", content, zipfile.ZIP_STORED if name in stored else None)
    return path


def empty_pickle():
    return pickle.dumps({}, protocol=2)


def a_zip_bomb(path):
    archive(path, {"data.pkl": bytes(150 * 2**20)})
    assert path.stat().st_size < 2**20


def a_zip_bomb_of_numbers(path):
    archive(path, {"data.pkl": empty_pickle(), "data/0": bytes(150 * 2**20)})


def a_zip_of_many_parts(path):
    archive(path, {"data.pkl": empty_pickle(), **{f"data/{i}": b"" for i in range(20_000)}})


def an_archive_that_lies_about_its_size(path):
    archive(path, {"data.pkl": bytes(50 * 2**20)})
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 10)
    path.write_bytes(content)


def a_large_file(path):
    with open(path, "wb") as file:
        file.truncate(5 * 2**30)


def a_pickle_that_multiplies_a_list(path):
    """Ten thousand dictionaries of ten thousand pairs out of one list."""
    pair = b"K\x01K\x02\x86"
    parts = [b"\x80\x02", b"](", pair * 10_000, b"eq\x00", b"0]q\x01("]
    parts += [b"ccollections\nOrderedDict\nh\x00\x85R"] * 10_000
    archive(path, {"data.pkl": b"".join([*parts, b"e."])})


def a_pickle_of_a_million_steps(path):
    archive(path, {"data.pkl": b"\x80\x02" + b"N0" * 500_000 + b"N."})


def a_long_header(path):
    header = b"{" + b" " * 20 * 2**20 + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def many_names(path):
    header = json.dumps({f"{i:x}": {"shape": []} for i in range(100_001)}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def a_header_of_lists_in_lists(path):
    header = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def many_vectors(path):
    save_file({"clip_l": torch.ones(50_000, 768)}, path)


TOO_MUCH = {
    "bomb.pt": (a_zip_bomb, "unpacks to 150 MB, and .* at most 100 MB"),
    "numbers.pt": (a_zip_bomb_of_numbers, "unpacks to 150 MB"),
    "parts.pt": (a_zip_of_many_parts, "more than 10,000 parts"),
    "lies.pt": (an_archive_that_lies_about_its_size, "is damaged"),
    "large.pt": (a_large_file, "has 5,120 MB, and .* at most 100 MB"),
    "large.safetensors": (a_large_file, "is damaged"),
    "pairs.pt": (a_pickle_that_multiplies_a_list, "more parts than any token's file"),
    "steps.pt": (a_pickle_of_a_million_steps, "more parts than any token's file"),
    "header.safetensors": (a_long_header, "a header of 20 MB, and 16 MB is the most"),
    "names.safetensors": (many_names, "has 100,001 tensors"),
    "deep.safetensors": (a_header_of_lists_in_lists, "is damaged"),
    "vectors.safetensors": (many_vectors, r"the shape \[50000, 768\]"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much_is_refused_before_it_is_read(tmp_path, name):
    write, words = TOO_MUCH[name]
    write(tmp_path / name)
    assert re.search(words, refused(tmp_path / name))


@pytest.mark.parametrize("text", ["x" * 3_000, "\ud800", 7, None, ["<x>"]], ids=repr)
@pytest.mark.parametrize("field", ["placeholder", "super_category"])
def test_a_text_that_is_none_is_refused(tmp_path, field, text):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_token(PersonalizedToken("<x>", "cat", "textual_inversion", 8, Embedding(torch.ones(1, 8))), good)
    content = good.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    own = {**json.loads(header["__metadata__"]["attractor"]), field: text}
    save_file({"subject.vectors": torch.ones(1, 8)}, bad, {"attractor": json.dumps(own)})
    assert field in refused(bad)


def test_a_pipe_or_a_folder_is_no_file(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    assert "a folder, a pipe or a device" in refused(tmp_path / "folder.pt")
    if sys.platform == "win32":
        return
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "a folder, a pipe or a device" in refused(tmp_path / "pipe.safetensors")


# --- other tools' files -------------------------------------------------------------------------------


VECTORS = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))


def test_a_name_with_spaces_becomes_a_usable_placeholder(tmp_path):
    for name, placeholder in {
        "my dog (v2).pt": "<my-dog-v2>",
        "<dog>.safetensors": "<dog>",
        "  .SAFETENSORS": "<token>",
        "a:b, c.SFT": "<a-b-c>",
        "été.sft": "<été>",
    }.items():
        path = tmp_path / name
        save_file({"clip_l": VECTORS}, path) if path.suffix != ".pt" else torch.save({"emb_params": VECTORS}, path)
        token = load_token(path)
        assert token.placeholder == placeholder and torch.equal(token.subject.vectors, VECTORS)


class ParameterDict(torch.nn.Module):
    """As torch pickles its own."""

    def __init__(self, parameters):
        super().__init__()
        for name, value in parameters.items():
            self._parameters[name] = torch.nn.Parameter(value)


ParameterDict.__module__, ParameterDict.__qualname__ = "torch.nn.modules.container", "ParameterDict"
ParameterDict.__name__ = "ParameterDict"


def test_embeddings_of_other_tools_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.modules.container, "ParameterDict", ParameterDict)
    contents = {
        "onetrainer": {"emp_params": VECTORS},
        "ldm": {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": ParameterDict({"*": VECTORS})},
        "a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "inner", "step": 5},
        "half": {"<x>": VECTORS.half()},
        "parameter": {"<x>": torch.nn.Parameter(VECTORS)},
        "view": {"<x>": torch.cat([VECTORS, VECTORS]).t().contiguous().t()[:2]},
        "double": {"<x>": VECTORS.double()},
    }
    for name, content in contents.items():
        for layout in (True, False):
            path = tmp_path / f"{name}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=layout)
            token = load_token(path)
            assert token.placeholder == ("<x>" if "<x>" in content else f"<{name}>")
            torch.testing.assert_close(token.subject.vectors.data, VECTORS, rtol=0, atol=2e-3 if name == "half" else 0)
    assert load_token(tmp_path / "a1111.pt").record["name_in_file"] == "inner"
    torch.save({"string_to_param": {"*": VECTORS}, "name": "same"}, tmp_path / "same.pt")
    assert "name_in_file" not in load_token(tmp_path / "same.pt").record


LAYERS = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID", *(f"OUT{i:02d}" for i in range(3, 12))]
FOREIGN = {
    "sdxl": ({"clip_l": VECTORS, "clip_g": torch.ones(2, 1280)}, "for SDXL .*Stable Diffusion 1.5"),
    "sdxl second": ({"clip_g": torch.ones(2, 1280)}, "for SDXL"),
    "output": ({"emp_params": VECTORS, "emp_params_out": VECTORS}, "output embedding of OneTrainer"),
    "xti": ({name: VECTORS if name == "MID" else VECTORS[:1] for name in LAYERS}, "XTI .* same number of vectors"),
    "lora": ({"a.lora_up": VECTORS, "a.lora_down": VECTORS}, "holds no token"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_cannot_be_used_is_said_to_be_what_it_is(tmp_path, name):
    tensors, words = FOREIGN[name]
    save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pt")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pt"):
        with pytest.raises(BadFile, match=words):
            load_token(path)


def test_several_mappers_and_whole_models_are_said_to_be_what_they_are(tmp_path):
    torch.save({"cfg": {}, "mappers": {"<a>": {"state_dict": {}}}}, tmp_path / "view.pt")
    torch.save({"state_dict": {"w": VECTORS}, "epoch": 3}, tmp_path / "model.ckpt")
    assert "ViewNeTI" in refused(tmp_path / "view.pt")
    assert "a whole model" in refused(tmp_path / "model.ckpt")


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64, torch.uint8])
def test_numbers_that_are_no_floating_point_are_refused(tmp_path, kind):
    save_file({"clip_l": torch.ones(2, 768).to(kind)}, tmp_path / "x.safetensors")
    torch.save({"<x>": torch.ones(2, 768).to(kind)}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        assert str(kind).removeprefix("torch.") in refused(tmp_path / name)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_floating_point_numbers_of_any_kind_become_float32(tmp_path, kind):
    save_file({"clip_l": torch.ones(2, 768).to(kind)}, tmp_path / "x.safetensors")
    assert torch.equal(load_token(tmp_path / "x.safetensors").subject.vectors, torch.ones(2, 768))


@pytest.mark.parametrize("value", [0.0, 1e-30, 7e4, float("nan"), float("-inf")])
def test_vectors_that_do_nothing_or_break_images_are_refused(tmp_path, value):
    save_file({"clip_l": torch.full((2, 768), value)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors")


def test_a_pickle_is_read_as_torch_reads_it(golden):
    """The genuine files, against torch's own reader."""
    from attractor.trainer.official import CLASSES
    from attractor.trainer.torch_file import read_pickle

    path = golden / "official_ckpt" / "learned_embeds-steps-250.bin"
    mine, other = read_pickle(path), torch.load(path, weights_only=True)
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other)
    content = read_pickle(golden / "official_ckpt" / "mapper-steps-250.pt", CLASSES)
    buffer = io.BytesIO()
    plain = {"state_dict": content["state_dict"], "cfg": content["cfg"]}
    torch.save(plain, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=True)
    assert again["cfg"] == content["cfg"]
    assert all(torch.equal(again["state_dict"][key], value) for key, value in content["state_dict"].items())
