"""NeTI's mapper against the official code's golden outputs."""

import json

import pytest
import torch
from safetensors.torch import load_file

from attractor.trainer.mapper import NeTIMapper, draw_nested_dropout

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def pe(golden):
    return load_file(golden / "mapper_pe.safetensors")


@pytest.fixture(scope="module")
def basic(golden):
    return load_file(golden / "mapper_basic.safetensors")


@pytest.fixture(scope="module")
def norm_scale(golden):
    return json.loads((golden / "manifest.json").read_text())["files"]["mapper_pe.safetensors"]["norm_scale"]


def official(tensors, **options):
    """A mapper with the golden weights; the official `net` counts its input layer as net.0."""
    mapper = NeTIMapper(seed=0, **options)
    state = {}
    for key, value in tensors.items():
        if key.startswith("sd.net."):
            index, kind = key.removeprefix("sd.net.").split(".")
            state[f"net.{int(index) - 1}.{kind}"] = value
        elif key.startswith("sd."):
            state[key.removeprefix("sd.").replace("output_layer.0", "output_layer")] = value
    if "encoder.w" in tensors:
        state["encoder.w"] = tensors["encoder.w"]
    mapper.load_state_dict(state)
    return mapper.requires_grad_(False)


def whole(mapper, *args):
    """Embedding and bypass as the official code's one vector."""
    return torch.cat(mapper(*args), dim=1)


def test_encoding_agrees_with_the_official_one(pe):
    mapper = official(pe)
    encoded = mapper.encoder(pe["timesteps"][:16], pe["unet_layers"][:16])
    torch.testing.assert_close(encoded, pe["encoded_first16"], **TOLERANCE)


def test_encoding_stays_float32_under_autocast(pe):
    mapper = official(pe)
    with torch.autocast("cpu", torch.bfloat16):
        encoded = mapper.encoder(pe["timesteps"][:16], pe["unet_layers"][:16])
    torch.testing.assert_close(encoded, pe["encoded_first16"], **TOLERANCE)


def test_anchor_matrix_agrees_with_the_official_initialisation(pe):
    mapper = NeTIMapper(seed=1)
    mapper.encoder.w.copy_(pe["encoder.w"])
    times = torch.arange(0, 1000, 100).repeat_interleave(16)
    rows = mapper.encoder(times, torch.arange(16).repeat(10))
    torch.testing.assert_close(rows[[0, 17, 159]], pe["anchor_matrix_rows_0_17_159"], **TOLERANCE)


def test_a_fresh_input_layer_holds_the_anchors():
    mapper = NeTIMapper(seed=2)
    times = torch.arange(0, 1000, 100).repeat_interleave(16)
    torch.testing.assert_close(mapper.input_layer.weight.data, mapper.encoder(times, torch.arange(16).repeat(10)))


def test_hidden_state_and_outputs_agree_with_the_official_ones(pe, norm_scale):
    at = pe["timesteps"], pe["unet_layers"]
    mapper = official(pe)
    torch.testing.assert_close(mapper.hidden_state(*at), pe["hidden"], **TOLERANCE)
    torch.testing.assert_close(whole(mapper, *at), pe["out_nonorm"], **TOLERANCE)
    torch.testing.assert_close(whole(official(pe, norm_scale=norm_scale), *at), pe["out_norm"], **TOLERANCE)


@pytest.mark.parametrize("kept", [0, 1, 8, 64, 127, 128])
def test_truncation_agrees_with_the_official_one(pe, norm_scale, kept):
    mapper = official(pe, norm_scale=norm_scale)
    output = whole(mapper, pe["timesteps"][:16], pe["unet_layers"][:16], kept)
    torch.testing.assert_close(output, pe[f"out_norm_trunc{kept}"], **TOLERANCE)


def test_truncation_has_no_effect_on_a_mapper_trained_without_nested_dropout(pe, norm_scale):
    mapper = official(pe, norm_scale=norm_scale, nested_dropout=0.0)
    output = whole(mapper, pe["timesteps"], pe["unet_layers"], 8)
    torch.testing.assert_close(output, pe["out_norm"], **TOLERANCE)


@pytest.mark.parametrize("seed", range(4))
def test_nested_dropout_in_training_agrees_with_the_official_one(pe, norm_scale, seed):
    kept = pe[f"train_idx_seed{seed}"]
    kept = torch.where(kept < 0, 128, kept)
    mapper = official(pe, norm_scale=norm_scale)
    output = whole(mapper, pe["timesteps"][:8], pe["unet_layers"][:8], kept)
    torch.testing.assert_close(output, pe[f"train_out_seed{seed}"], **TOLERANCE)


def test_mapper_without_positional_encoding_agrees_with_the_official_one(basic, norm_scale):
    at = basic["timesteps"], basic["unet_layers"]
    mapper = official(basic, positional=False)
    torch.testing.assert_close(mapper.encoder(*at), basic["encoded"], **TOLERANCE)
    torch.testing.assert_close(mapper.hidden_state(*at), basic["hidden"], **TOLERANCE)
    scaled = official(basic, positional=False, norm_scale=norm_scale)
    torch.testing.assert_close(whole(scaled, *at), basic["out_norm"], **TOLERANCE)


def test_config_rebuilds_the_same_mapper():
    mapper = NeTIMapper(32, bypass=False, norm_scale=0.5, hidden=16, num_w=8, time_anchors=5, seed=3)
    again = NeTIMapper(**json.loads(json.dumps(mapper.config)))
    again.load_state_dict(mapper.state_dict())
    at = torch.tensor([3.0, 900.0]), torch.tensor([0.0, 15.0])
    assert torch.equal(again(*at)[0], mapper(*at)[0])
    assert mapper(*at)[1] is None


def test_a_seeded_mapper_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    NeTIMapper(32, hidden=16, num_w=8, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_nested_dropout_opens_one_gate_a_layer_and_draws_an_index_a_row():
    kept = draw_nested_dropout(64, 200, torch.Generator().manual_seed(0), 0.5, 128)
    open_gates = (kept < 128).any(1)
    assert (kept[open_gates] < 128).all() and (kept[~open_gates] == 128).all()
    assert 70 < open_gates.sum() < 130
    assert kept[open_gates].min() == 0 and kept[open_gates].max() == 127


def test_nested_dropout_draws_as_many_numbers_whatever_the_gates_say():
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    for generator, probability in zip(generators, (0.0, 1.0), strict=True):
        draw_nested_dropout(4, 16, generator, probability, 128)
    assert torch.equal(*(torch.rand(2, generator=g) for g in generators))
