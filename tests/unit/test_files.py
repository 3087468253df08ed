"""Token files, and files that are whole or absent."""

import json
import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attractor.trainer.concept import Embedding, PersonalizedToken, placeholder_problem, represent
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.storage import replacing
from attractor.trainer.token_file import load_token, save_embedding, save_token


@pytest.fixture
def neti():
    mappers = [NeTIMapper(norm_scale=0.4, seed=seed) for seed in range(3)]
    return PersonalizedToken("<dog>", "dog", "neti", 768, mappers[0], tuple(mappers[1:]), {"step": 7, "losses": [0.5]})


@pytest.fixture
def plain():
    vectors = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    return PersonalizedToken("<cup>", "cup", "textual_inversion", 768, Embedding(vectors), (Embedding(vectors + 1),))


@pytest.mark.parametrize("kind", ["neti", "plain"])
def test_a_token_comes_back_as_it_was(tmp_path, request, kind):
    token = request.getfixturevalue(kind)
    save_token(token, tmp_path / "t.safetensors")
    loaded = load_token(tmp_path / "t.safetensors")
    for name in ("placeholder", "super_category", "kind", "width", "record"):
        assert getattr(loaded, name) == getattr(token, name)
    times, layers = torch.tensor([3.0, 800.0]), torch.tensor([0, 15])
    pairs = zip((token.subject, *token.attractors), (loaded.subject, *loaded.attractors), strict=True)
    for one, two in pairs:
        before, after = represent(one.eval(), times, layers), represent(two.eval(), times, layers)
        assert torch.equal(before[0], after[0])
        assert before[1] is None and after[1] is None or torch.equal(before[1], after[1])


def test_the_file_is_plain_safetensors_with_a_json_header(tmp_path, neti):
    save_token(neti, tmp_path / "t.safetensors")
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        header = json.loads(file.metadata()["attractor"])
    assert (header["format"], header["version"], header["placeholder"]) == ("attractor-token", 1, "<dog>")
    assert {key.split(".")[0] for key in load_file(tmp_path / "t.safetensors")} == {"subject", "attractor_0", "attractor_1"}


def test_an_exported_embedding_is_the_stock_kind(tmp_path, plain):
    save_embedding(plain.subject.vectors, tmp_path / "cup.safetensors")
    assert list(load_file(tmp_path / "cup.safetensors")) == ["clip_l"]
    loaded = load_token(tmp_path / "cup.safetensors")
    assert loaded.placeholder == "<cup>" and torch.equal(loaded.subject.vectors, plain.subject.vectors)


def test_a_newer_format_is_refused_by_number(tmp_path):
    header = json.dumps({"format": "attractor-token", "version": 9})
    save_file({"x": torch.zeros(1)}, tmp_path / "t.safetensors", metadata={"attractor": header})
    with pytest.raises(ValueError, match="version 9.*update the pack"):
        load_token(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda header: header.pop("representations"),
        lambda header: header["representations"]["subject"].update(hidden=4),
        lambda header: header["representations"].update(attractor_0={"vectors": 1}),
    ],
)
def test_a_header_that_does_not_fit_its_tensors_is_refused(tmp_path, neti, spoil):
    save_token(PersonalizedToken("<dog>", "dog", "neti", 768, neti.subject), tmp_path / "t.safetensors")
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        header = json.loads(file.metadata()["attractor"])
    spoil(header)
    save_file(load_file(tmp_path / "t.safetensors"), tmp_path / "bad.safetensors", {"attractor": json.dumps(header)})
    with pytest.raises(ValueError, match="bad.safetensors is damaged"):
        load_token(tmp_path / "bad.safetensors")


def test_a_missing_file_is_said():
    with pytest.raises(FileNotFoundError, match="no token file nowhere.pt"):
        load_token("nowhere.pt")


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of tw")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_allows(tmp_path, plain, umask, mode):
    before = os.umask(umask)
    try:
        save_token(plain, tmp_path / "t.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "t.safetensors").stat().st_mode) == mode


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_folder_after(tmp_path, monkeypatch):
    done = []

    def fsync(handle, sync=os.fsync):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replace(source, target, move=os.replace):
        done.append("replace")
        move(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("x")
    assert done == ["file", "replace", *([] if os.name == "nt" else ["folder"])]


def test_placeholders_that_prompts_could_not_hold():
    def problem(name):
        return placeholder_problem(name, lambda text: text == "dog")

    assert problem("<my-dog>") is None
    for name in ("", " ", "my dog", "a:b", "(x)", "{}", "dog", "a,b", "back\\slash"):
        assert problem(name), name
    for name in ("<" + "x" * 300 + ">", "<\ud800>"):
        assert "240 is the most" in problem(name)
