"""Tokens damaged at random: each is read and works, or is named in one sentence, quickly. States: in test_checkpoint."""

import json
import random
import time
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attractor.trainer.concept import LAYERS, Embedding, LayeredEmbedding, Mixed, PersonalizedToken, represent
from attractor.trainer.custom_diffusion import ATTENTIONS
from attractor.trainer.embeddings import LAYER_NAMES
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.reading import BadFile
from attractor.trainer.token_file import load_token, save_embedding, save_token
from mutations import damaged, odd_tensor, odd_value, rounds

SECONDS = 5


def vectors(count=2, width=16):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def mapper(**changes):
    small = {"hidden": 4, "num_w": 3, "time_anchors": 2, "norm_scale": 0.4}
    return NeTIMapper(8, **{**small, **changes}, seed=0)


def ours_neti(path):
    save_token(PersonalizedToken("<x>", "cat", "neti", 8, mapper(), (mapper(bypass=False),), {"step": 3}), path)


def ours_plain(path):
    save_token(PersonalizedToken("<x>", "cat", "textual_inversion", 16, Embedding(vectors()), (Embedding(vectors()),)), path)


def ours_tuned(path):
    module = "diffusion_model.middle_block.1.proj_in"
    weights = {f"{module}.lora_up.weight": vectors(4, 2), f"{module}.lora_down.weight": vectors(2, 4)}
    weights |= {f"{module}.alpha": torch.tensor(2.0), "diffusion_model.out.2.diff_b": vectors(1, 4)[0]}
    token = PersonalizedToken("<x>", "cat", "textual_inversion", 16, Embedding(vectors()), phrase="{} cat", weights=weights)
    save_token(token, path)


def ours_mixed(path):
    layered = LayeredEmbedding(vectors(16, 8)[:, None])
    mix = Mixed(mapper(), Mixed(layered, mapper(), {1}, blend=0.5), {3, 4}, 600)
    save_token(PersonalizedToken("<x>", "cat", "mixed", 8, mix, (Embedding(vectors(1, 8)),)), path)


def xti(path):
    save_file({name: vectors(1) * (1 + number) for number, name in enumerate(LAYER_NAMES)}, path)


SAFETENSORS = {
    "neti": ours_neti,
    "plain": ours_plain,
    "tuned": ours_tuned,
    "stock": partial(save_embedding, vectors()),
    "mixed": ours_mixed,
    "xti": xti,
}
KEYS_VALUES = {f"{name}.to_{part}.weight": vectors(4, 16) for name in ATTENTIONS for part in "kv"}
PICKLES = {
    "numbered": {f"<x>-{layer}": vectors(1)[0] * (1 + layer) for layer in range(LAYERS)},
    "diffusers": {"<x>": vectors(1)[0]},
    "a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors()}, "name": "x", "step": 3},
    "onetrainer": {"emp_params": vectors()},
    "delta": {"unet": KEYS_VALUES, "modifier_token": {"<new1>": vectors(1)[0]}},
    "state": {"state_dict": {"w": vectors()}, "cfg": {"model": {"target_norm": 0.4}, "data": {}}, "encoder": None},
}


def official():
    """An official mapper without positional encoding, which needs no class of its own."""
    own = mapper(positional=False).state_dict()
    places = {"net.0": "net.1", "net.1": "net.2", "net.3": "net.4", "net.4": "net.5", "output_layer": "output_layer.0"}
    model = {
        "use_positional_encoding": False,
        "output_bypass": True,
        "use_nested_dropout": True,
        "nested_dropout_prob": 0.5,
        "target_norm": 0.4,
        "num_pe_time_anchors": 10,
        "pe_sigmas": {"sigma_t": 0.03, "sigma_l": 2.0},
        "pretrained_model_name_or_path": "x",
    }
    state = {f"{places[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in own.items()}
    data = {"placeholder_token": "<x>", "super_category_token": "cat"}
    return {"state_dict": state, "cfg": {"model": model, "data": data}, "encoder": None}


PICKLES["official"] = official()


def works_or_is_named(path, what):
    """Read a file; whether it is a token."""
    started = time.monotonic()
    try:
        token = load_token(path)
    except BadFile as error:
        message = str(error)
        assert message.startswith(f"{path.name} ") and "\n" not in message and len(message) < 700, (what, message)
        token = None
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} instead of a sentence") from error
    assert time.monotonic() - started < SECONDS, what
    if token is None:
        return False
    assert all(torch.isfinite(value).all() for value in token.weights.values()) and token.phrase.count("{}") == 1, what
    for text in (token.placeholder, token.super_category, token.phrase, json.dumps(token.record)):
        text.encode()
    moments = torch.tensor([0.0, 123.4, 999.0]).repeat_interleave(LAYERS), torch.arange(LAYERS).repeat(3)
    for concept in (token.subject, *token.attractors):
        for values in represent(concept, *moments)[:2]:
            if values is not None:
                assert torch.isfinite(values.half()).all() and values.abs().sum() > 0, what
    return True


def swept(path, write, count, seed):
    """So many damaged files, written by `write(path, draw)`; some must be good and some not, or nothing was tried."""
    good = []
    for number in rounds(count):
        write(path, random.Random(f"{seed} {number}"))
        good.append(works_or_is_named(path, f"{seed} {number}"))
    return good


@pytest.mark.parametrize("name", SAFETENSORS)
def test_bytes_of_a_safetensors_file(tmp_path, name):
    SAFETENSORS[name](tmp_path / "good.safetensors")
    content = (tmp_path / "good.safetensors").read_bytes()
    assert works_or_is_named(tmp_path / "good.safetensors", name)
    good = swept(tmp_path / "x.safetensors", lambda path, draw: path.write_bytes(damaged(content, draw)), 300, name)
    assert not all(good)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_values_of_a_safetensors_file(tmp_path, name):
    SAFETENSORS[name](tmp_path / "good.safetensors")
    tensors = load_file(tmp_path / "good.safetensors")
    with safe_open(tmp_path / "good.safetensors", "pt") as file:
        metadata = file.metadata()

    def write(path, draw):
        found, own = dict(tensors), dict(metadata or {})
        if own and draw.random() < 0.5:
            own["attractor"] = json.dumps(odd_value(json.loads(own["attractor"]), draw))
        else:
            key = draw.choice(list(found))
            found[key] = odd_tensor(found[key], draw).contiguous()
        save_file(found, path, own or None)

    good = swept(tmp_path / "x.safetensors", write, 300, name)
    assert any(good) and not all(good)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
@pytest.mark.parametrize("name", PICKLES)
def test_bytes_of_a_pytorch_file(tmp_path, name, zipped):
    good = tmp_path / "good.pt"
    torch.save(PICKLES[name], good, _use_new_zipfile_serialization=zipped)
    assert works_or_is_named(good, name) == (name != "state")
    content = good.read_bytes()
    assert not all(swept(tmp_path / "x.pt", lambda path, draw: path.write_bytes(damaged(content, draw)), 150, (name, zipped)))


def test_bytes_of_the_genuine_mapper(tmp_path, golden):
    content = (golden / "official_ckpt" / "mapper-steps-250.pt").read_bytes()
    assert not all(swept(tmp_path / "x.pt", lambda path, draw: path.write_bytes(damaged(content, draw)), 30, "genuine"))


@pytest.mark.parametrize("name", PICKLES)
def test_values_of_a_pytorch_file(tmp_path, name):
    def write(path, draw):
        zipped = draw.random() < 0.5
        torch.save(odd_value(PICKLES[name], draw), path, _use_new_zipfile_serialization=zipped, pickle_protocol=2)

    good = swept(tmp_path / "x.pt", write, 150, name)
    assert any(good) == (name != "state") and not all(good)
