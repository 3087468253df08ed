"""Official NeTI checkpoints and foreign embeddings: read exactly, and never run."""

import os
import pickle
import shutil
import sys
import types
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from attractor.trainer.official import load_official_mapper
from attractor.trainer.pickled import UnsafeCheckpoint
from attractor.trainer.token_file import load_token


@pytest.fixture
def mapper_file(golden):
    return golden / "official_ckpt" / "mapper-steps-250.pt"


class Encoder(torch.nn.Module):
    """Pickled under the official encoder's name."""


Encoder.__module__, Encoder.__qualname__ = "models.positional_encoding", "NeTIPositionalEncoding"


def rewritten(mapper_file, path, change):
    """A copy of the official file with its content changed by `change(content)`."""
    with torch.serialization.safe_globals([Encoder]):
        content = torch.load(mapper_file, weights_only=True)
    change(content)
    # Pickle looks the class up under the name it writes.
    modules = {name: types.ModuleType(name) for name in ("models", "models.positional_encoding")}
    modules["models.positional_encoding"].NeTIPositionalEncoding = Encoder
    sys.modules.update(modules)
    try:
        torch.save(content, path)
    finally:
        for name in modules:
            del sys.modules[name]
    return path


class Bomb:
    """Would leave a file behind if it were ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_official_pair_gives_the_golden_outputs(golden, mapper_file):
    expected = load_file(golden / "mapper_pe.safetensors")
    mapper, info = load_official_mapper(mapper_file)
    output = torch.cat(mapper(expected["timesteps"], expected["unet_layers"]), dim=1)
    torch.testing.assert_close(output, expected["out_norm"], rtol=0, atol=1e-5)
    assert info == {"placeholder": "<concept-name>", "super_category": "cat", "base_model": "CompVis/stable-diffusion-v1-4"}
    token = load_token(mapper_file)
    assert (token.placeholder, token.super_category, token.kind, token.width) == ("<concept-name>", "cat", "neti", 768)


def test_placeholder_comes_from_the_learned_embeds_beside_the_mapper(mapper_file, tmp_path):
    shutil.copy(mapper_file, tmp_path / "mapper-steps-250.pt")
    shutil.copy(mapper_file, tmp_path / "teapot.pt")
    assert load_token(tmp_path / "teapot.pt").kind == "neti", "a mapper is known by its content, not its name"
    torch.save({"<renamed>": torch.zeros(768)}, tmp_path / "learned_embeds-steps-250.bin")
    assert load_token(tmp_path / "mapper-steps-250.pt").placeholder == "<renamed>"
    shutil.copy(mapper_file, tmp_path / "teapot.bin")
    for name in ("teapot.bin", "teapot.pt"):
        assert load_token(tmp_path / name).placeholder == "<concept-name>", "nothing lies beside a renamed mapper"


@pytest.mark.parametrize("place", ["state_dict", "_parameters"])
def test_frequencies_are_found_where_resumed_trainings_leave_them(golden, mapper_file, tmp_path, place):
    def move(content):
        w = content["encoder"].__dict__.pop("w")
        if place == "state_dict":
            content["state_dict"]["encoder.w"] = w
        else:
            content["encoder"].__dict__["_parameters"]["w"] = w

    expected = load_file(golden / "mapper_pe.safetensors")
    mapper, _ = load_official_mapper(rewritten(mapper_file, tmp_path / "mapper.pt", move))
    output = torch.cat(mapper(expected["timesteps"], expected["unet_layers"]), dim=1)
    torch.testing.assert_close(output, expected["out_norm"], rtol=0, atol=1e-5)


def test_a_mapper_with_code_in_it_is_refused_and_nothing_runs(mapper_file, tmp_path):
    trace = tmp_path / "executed"
    for place in ("cfg", "encoder", "state_dict"):
        path = rewritten(mapper_file, tmp_path / "mapper.pt", lambda c, place=place: c.update({place: Bomb(trace)}))
        with pytest.raises(UnsafeCheckpoint, match="mapper.pt was not loaded.*mkdir.*Nothing of it was executed"):
            load_token(path)
        assert not trace.exists()


def test_an_embedding_with_code_in_it_is_refused_and_nothing_runs(tmp_path):
    trace = tmp_path / "executed"
    for protocol in (2, 4):
        path = tmp_path / "style.pt"
        path.write_bytes(pickle.dumps({"x": Bomb(trace)}, protocol=protocol))
        with pytest.raises(ValueError, match="style.pt"):
            load_token(path)
        torch.save({"x": Bomb(trace)}, path, pickle_protocol=protocol)
        with pytest.raises(ValueError, match="Nothing of it was executed"):
            load_token(path)
        assert not trace.exists()


def test_a_class_that_poses_as_the_encoder_cannot_smuggle_calls(mapper_file, tmp_path):
    """Attributes named like hooks are only held, never called."""
    path = rewritten(mapper_file, tmp_path / "mapper.pt", lambda c: c["encoder"].__dict__.update(__setstate__="x"))
    mapper, _ = load_official_mapper(path)
    assert mapper.width == 768


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 not a zip"])
def test_files_that_are_no_checkpoint_are_named(tmp_path, content):
    for name in ("mapper-1.pt", "style.bin", "token.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_token(path)


def test_a_truncated_mapper_is_named(mapper_file, tmp_path):
    path = tmp_path / "mapper.pt"
    path.write_bytes(mapper_file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="mapper.pt is damaged"):
        load_token(path)


def test_a_mapper_that_diverged_or_lacks_parts_is_refused(mapper_file, tmp_path):
    path = rewritten(mapper_file, tmp_path / "mapper.pt", lambda c: c["state_dict"]["net.1.bias"].fill_(float("nan")))
    with pytest.raises(ValueError, match="not finite"):
        load_token(path)
    path = rewritten(mapper_file, tmp_path / "mapper.pt", lambda c: c["state_dict"].pop("net.4.weight"))
    with pytest.raises(ValueError, match="net.4.weight"):
        load_token(path)


def test_embeddings_of_every_common_layout_are_read(tmp_path):
    vectors = torch.randn(3, 768)
    torch.save({"<style>": vectors[0]}, tmp_path / "a.bin")
    torch.save({"string_to_param": {"*": vectors}, "name": "style"}, tmp_path / "b.pt")
    save_file({"emb_params": vectors}, tmp_path / "c.safetensors")
    save_file({"clip_l": vectors}, tmp_path / "d.safetensors")
    found = {name: load_token(tmp_path / name) for name in ("a.bin", "b.pt", "c.safetensors", "d.safetensors")}
    assert torch.equal(found["a.bin"].subject.vectors, vectors[:1])
    assert all(torch.equal(found[name].subject.vectors, vectors) for name in ("b.pt", "c.safetensors", "d.safetensors"))
    assert [t.placeholder for t in found.values()] == ["<style>", "<b>", "<c>", "<d>"]
    assert found["b.pt"].record["name_in_file"] == "style", "its file's name is what people write in prompts"
    assert {t.kind for t in found.values()} == {"textual_inversion"}


def test_learned_embeds_without_tensors_are_refused(tmp_path):
    torch.save({"step": 3}, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="no embedding"):
        load_token(tmp_path / "x.bin")


def test_official_file_is_still_a_zip_of_plain_tensors(mapper_file):
    """The golden file is the genuine one, with the encoder as a pickled object: what the reader is for."""
    with zipfile.ZipFile(mapper_file) as archive:
        data = next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    assert b"models.positional_encoding" in data
