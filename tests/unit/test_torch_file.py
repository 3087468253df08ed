"""PyTorch's files, the archive and the older kind: read as torch reads them, and whatever is amiss is said."""

import io
import pickle
import struct
import zipfile

import pytest
import torch

from attractor.trainer.embeddings import LAYER_NAMES, choose_vectors, embedding_token, layer_keys, layered_token, tensors_of
from attractor.trainer.official import CLASSES
from attractor.trainer.reading import BadFile
from attractor.trainer.torch_file import read_pickle

VECTORS = {"<x>": torch.arange(16.0).reshape(2, 8), "<y>": torch.ones(3, 8)}


def older(content):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(BadFile) as error:
        read_pickle(path, CLASSES)
    return str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_kinds_are_read_with_their_shared_storages(tmp_path, zipped):
    content = {**VECTORS, "part": VECTORS["<x>"][1]}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = read_pickle(tmp_path / "x.pt", CLASSES)
    assert all(torch.equal(found[name], value) for name, value in content.items())


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    assert "empty" in refused(tmp_path / "x.pt", b"")


def header(magic=0x1950A86A20F9469CFC6C, protocol=1001, little=True):
    parts = magic, protocol, {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}
    return b"".join(pickle.dumps(part, 2) for part in parts)


def test_an_older_file_begins_as_one_and_is_of_this_byte_order(tmp_path):
    whole = older(VECTORS)
    rest = whole[len(header()) :]
    start = whole.index(b"\x80\x02}", 30)  # of what follows the header, whatever torch writes into that
    assert rest
    for change in ({"magic": 1}, {"protocol": 1}):
        assert "does not begin as one" in refused(tmp_path / "x.pt", header(**change) + whole[start:])
    assert "another byte order" in refused(tmp_path / "x.pt", header(little=False) + whole[start:])


def test_an_older_file_that_is_cut_short_is_refused_at_every_place(tmp_path):
    whole = older(VECTORS)
    for length in range(1, len(whole), 7):
        refused(tmp_path / "x.pt", whole[:length])
    assert "cut short" in refused(tmp_path / "x.pt", whole[:-1])


def test_an_older_file_without_the_numbers_of_a_tensor_is_refused(tmp_path):
    whole = older(VECTORS)
    keys = whole.rindex(b"\x80\x02]")  # the list of storages: made empty
    assert "numbers are missing" in refused(tmp_path / "x.pt", whole[:keys] + pickle.dumps([], 2))


def test_an_older_file_asks_for_no_more_memory_than_it_has_bytes(tmp_path):
    whole = older({"<x>": torch.ones(64, 8)})
    size = struct.pack("<H", 512)
    assert whole.count(b"M" + size) >= 1, "the storage's size is not where it was"
    assert "cut short" in refused(tmp_path / "x.pt", whole.replace(b"M" + size, b"J" + struct.pack("<i", 2**28), 1))


def archive(**members):
    file, whole = io.BytesIO(), io.BytesIO()
    torch.save(VECTORS, whole)
    compression = members.pop("compression", zipfile.ZIP_STORED)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, members.get(name.rpartition("/")[2], source.read(name)))
    return file.getvalue()


def test_an_archive_of_another_byte_order_or_packing_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(archive(compression=zipfile.ZIP_DEFLATED))
    assert torch.equal(read_pickle(tmp_path / "x.pt", CLASSES)["<y>"], VECTORS["<y>"])
    assert "another byte order" in refused(tmp_path / "x.pt", archive(byteorder=b"big"))
    assert "does not use" in refused(tmp_path / "x.pt", archive(compression=zipfile.ZIP_BZIP2))


# --- which of the tensors are the token's -------------------------------------------------------------


@pytest.mark.parametrize(
    "keys, words",
    [
        (("clip_l", "clip_g"), "SDXL .of clip_l and clip_g"),
        (("clip_g",), "SDXL .of clip_g, its second text encoder"),
        (("emp_params", "emp_params_out"), "output embedding of OneTrainer"),
        (("clip_l", "clip_l_out"), "output embedding of OneTrainer"),
        (("b", "a"), "2 tensors such as a"),
        ((), "0 tensors such as none"),
    ],
)
def test_tensors_that_are_no_token_of_this_pack(keys, words):
    with pytest.raises(BadFile, match=words):
        choose_vectors("x", dict.fromkeys(keys, (1, 8)))


@pytest.mark.parametrize("keys, chosen", [(("a", "clip_l"), "clip_l"), (("emb_params", "b"), "emb_params"), (("<x>",), "<x>")])
def test_the_tensor_that_is_the_tokens(keys, chosen):
    assert choose_vectors("x", dict.fromkeys(keys, (1, 8))) == chosen


def test_layers_are_those_that_kohya_and_prompt_plus_name():
    assert LAYER_NAMES == (
        *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"),
        *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
    )
    numbered = [f"<x>-{layer}" for layer in range(16)]
    assert layer_keys(reversed(LAYER_NAMES)) == list(LAYER_NAMES) and layer_keys(reversed(numbered)) == numbered
    for keys in (LAYER_NAMES[:-1], [*LAYER_NAMES, "more"], numbered[:-1], [*numbered[:-1], "<y>-15"]):
        assert layer_keys(keys) is None


def test_what_an_xti_file_says_of_itself(tmp_path):
    tensors = {f"<x>-{layer}": torch.full((2, 8), layer + 1.0) for layer in range(16)}
    token = layered_token(tmp_path / "file.pt", list(tensors), tensors)
    assert (token.placeholder, token.kind, token.width, token.super_category) == ("<x>", "xti", 8, "")
    assert token.record == {"source": "XTI (P+) embedding"}
    same = layered_token(tmp_path / "file.pt", list(LAYER_NAMES), dict.fromkeys(LAYER_NAMES, torch.ones(2, 8)))
    assert (same.placeholder, same.kind, same.record) == ("<file>", "textual_inversion", {"source": "XTI (P+) embedding"})
    assert torch.equal(same.subject.vectors, torch.ones(2, 8))
    for odd in (torch.ones(3, 8), torch.ones(2, 9)):
        with pytest.raises(BadFile, match="the same number of vectors for each layer"):
            layered_token(tmp_path / "file.pt", list(tensors), {**tensors, "<x>-7": odd})


KEYS = {"<x>": "<x>", "clip_l": "<file>", "two words": "<file>", "a,b": "<file>", "": "<file>"}


@pytest.mark.parametrize("key, placeholder", KEYS.items())
def test_the_placeholder_is_the_files_key_where_a_prompt_can_hold_it(tmp_path, key, placeholder):
    token = embedding_token(tmp_path / "file.pt", key, torch.ones(1, 8), inner="other")
    assert (token.placeholder, token.record["name_in_file"]) == (placeholder, "other")
    assert "name_in_file" not in embedding_token(tmp_path / "file.pt", key, torch.ones(1, 8), inner="file").record


def test_a_file_of_a1111_with_one_vector_set_and_with_several():
    vectors = torch.ones(1, 8)
    found, inner = tensors_of("x", {"string_to_param": {"*": vectors}, "name": "n"})
    assert torch.equal(found.pop("emb_params"), vectors) and not found and inner == "n"
    found, inner = tensors_of("x", {"string_to_param": {"a": vectors, "b": vectors}, "name": 3})
    assert set(found) == {"a", "b"} and inner is None
    for content in ({}, [], {"string_to_param": 3}, {1: vectors}):
        with pytest.raises(BadFile, match="holds no embedding"):
            tensors_of("x", content)
