"""Text encoder, cross-attention and layer order against the official NeTI code's golden outputs.

The weights are the golden ones, inside the host's own modules, run by the pack's own code.
"""

import json

import comfy.utils
import pytest
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention
from safetensors.torch import load_file

from attractor.nodes.host.injection import BLOCKS, context_patch, cross_attention_blocks
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.trainer.concept import LAYERS
from attractor.trainer.conditioning import TokenRows, encode_layers, encode_rows
from attractor.trainer.mapper import NeTIMapper
from test_nodes.tiny_sd15 import tiny_clip

CLOSE = {"rtol": 0, "atol": 1e-5}
PLACEHOLDER, SPARE = 1000, 999


@pytest.fixture(scope="module")
def manifest(golden):
    return json.loads((golden / "manifest.json").read_text())["files"]


@pytest.fixture(scope="module")
def tensors(golden):
    return load_file(golden / "text_small.safetensors")


@pytest.fixture(scope="module")
def text(tensors, manifest):
    """The host's CLIP with the golden weights, opened as the trainer's text encoder."""
    config = manifest["text_small.safetensors"]["config"]
    clip = tiny_clip(layers=2, **{key: config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")})
    model = clip.cond_stage_model.clip_l.transformer
    weights = {key.removeprefix("te."): value for key, value in tensors.items() if key.startswith("te.")}
    # The host's vocabulary has another size, and no entry of its own for a learnt token.
    table = model.text_model.embeddings.token_embedding
    table.weight = torch.nn.Parameter(weights.pop("text_model.embeddings.token_embedding.weight"))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("text_projection" in key or "token_embedding" in key for key in missing)
    model.requires_grad_(False)
    return HostTextEncoder(clip)


def mapper_of(tensors, manifest):
    about = manifest["text_small.safetensors"]["mapper"]
    mapper = NeTIMapper(about["output_dim"], norm_scale=about["norm_scale"], seed=0)
    state = {}
    for key, value in tensors.items():
        if key.startswith("mapper."):
            state[own_name(key.removeprefix("mapper."))] = value
    mapper.load_state_dict(state)
    return mapper.eval()


def own_name(key):
    """Our name of an official parameter: the official `net` counts its input layer as net.0."""
    if key.startswith("net."):
        _, index, kind = key.split(".")
        return f"net.{int(index) - 1}.{kind}"
    return key.replace("output_layer.0", "output_layer")


def token_rows(ids, mapper, timesteps, layers, truncation=None):
    """The mapper's output at every placeholder of (R, S) ids."""
    rows, positions = (ids == PLACEHOLDER).nonzero(as_tuple=True)
    vectors, bypass = mapper(timesteps.float(), layers.float(), truncation)
    return TokenRows(rows, positions, vectors[rows], bypass[rows])


@pytest.mark.parametrize("case, truncation", [("c0", None), ("c1_trunc16", 16)])
def test_contexts_agree(text, tensors, manifest, case, truncation):
    ids, mapper = tensors["ids"], mapper_of(tensors, manifest)
    tokens = token_rows(ids, mapper, tensors[f"{case}.t"], tensors[f"{case}.l"], truncation)
    with torch.no_grad():
        embeddings = text.embed(ids.clamp(max=SPARE))
        filled = embeddings.index_put((tokens.rows, tokens.positions), tokens.vectors)
        torch.testing.assert_close(text.hidden_states(filled), tensors[f"{case}.pre_final_ln"], **CLOSE)
        k, v = encode_rows(text, embeddings, [tokens])
    torch.testing.assert_close(k, tensors[f"{case}.K"], **CLOSE)
    torch.testing.assert_close(v, tensors[f"{case}.V"], **CLOSE)
    assert not torch.allclose(k, v), "the bypass would not show"


def test_a_token_twice_in_a_prompt_agrees(text, tensors, manifest):
    ids = tensors["ids_2ph"]
    rows, positions = (ids == PLACEHOLDER).nonzero(as_tuple=True)
    assert len(rows) == 2
    with torch.no_grad():
        # The golden files do not say which time and layer: found by search, nothing else comes near.
        vectors, bypass = mapper_of(tensors, manifest)(torch.tensor([500.0]), torch.tensor([3.0]))
        tokens = TokenRows(rows, positions, vectors[rows], bypass[rows])
        k, v = encode_rows(text, text.embed(ids.clamp(max=SPARE)), [tokens])
    torch.testing.assert_close(k, tensors["2ph.K"], **CLOSE)
    torch.testing.assert_close(v, tensors["2ph.V"], **CLOSE)


def test_a_prompt_without_token_is_plain_clip(text, tensors):
    empty = torch.full((1, text.length), SPARE)
    empty[0, 0] = SPARE - 1  # the golden vocabulary's start token
    for ids, *expected in ((tensors["ids_noph"], "noph.K", "noph.V"), (empty, "neg.K", "neg.K")):
        with torch.no_grad():
            contexts = encode_rows(text, text.embed(ids), [])
        for found, name in zip(contexts, expected, strict=True):
            torch.testing.assert_close(found, tensors[name], **CLOSE)


def test_all_layers_in_one_pass_agree_with_the_official_loop(text, tensors, manifest):
    """`encode_layers` against 16 official calls, with the mapper's gradients."""
    mapper = mapper_of(tensors, manifest)
    ids, times = tensors["ids"][:2], tensors["loop.t"]
    count = len(ids)
    every_time, every_layer = times.repeat(LAYERS), torch.arange(LAYERS).repeat_interleave(count)
    tokens = token_rows(ids.repeat(LAYERS, 1), mapper, every_time, every_layer)
    k, v = encode_layers(text, text.embed(ids.clamp(max=SPARE)), LAYERS, [tokens], chunk=7)
    torch.testing.assert_close(k, tensors["loop.K"], **CLOSE)
    rows, positions = (ids == PLACEHOLDER).nonzero(as_tuple=True)
    torch.testing.assert_close(v[:, rows, positions], tensors["loop.V_placeholder_rows"], **CLOSE)

    generator = torch.Generator().manual_seed(9)
    weight_k, weight_v = (torch.randn(k.shape, generator=generator) for _ in range(2))
    loss = (k * weight_k).sum() + (v * weight_v).sum()
    torch.testing.assert_close(loss[None], tensors["loop.loss"], rtol=1e-5, atol=0)
    loss.backward()
    gradients = dict(mapper.named_parameters())
    compared = [key for key in tensors if key.startswith("loop.grad.")]
    assert len(compared) == len([p for p in gradients.values() if p.grad is not None])
    for key in compared:
        found, expected = gradients[own_name(key.removeprefix("loop.grad."))].grad, tensors[key]
        assert (found - expected).norm() < 1e-5 * expected.norm(), key


@pytest.mark.parametrize("case", ["small", "sd_ctx768"])
def test_cross_attention_with_two_contexts_agrees(golden, manifest, case):
    """The host's transformer block with `context_patch`, whose cross-attention holds the golden weights."""
    tensors = {
        key.removeprefix(f"{case}."): value
        for key, value in load_file(golden / "xti_attn.safetensors").items()
        if key.startswith(f"{case}.")
    }
    shape = manifest["xti_attn.safetensors"]["cases"][case]
    attention = CrossAttention(tensors["q"].shape[-1], tensors["ctx_k"].shape[-1], shape["heads"], shape["dim_head"])
    attention.load_state_dict({key.removeprefix("w."): value for key, value in tensors.items() if key.startswith("w.")})
    block = BasicTransformerBlock(
        tensors["q"].shape[-1], shape["heads"], shape["dim_head"], context_dim=tensors["ctx_k"].shape[-1]
    )
    # Nothing but the cross-attention adds to the residual stream; its input is the golden query as it is.
    block.attn1 = _Zero()
    block.ff = _Zero()
    block.norm2 = torch.nn.Identity()
    for norm in (block.norm1, block.norm3):
        torch.nn.init.ones_(norm.weight), torch.nn.init.zeros_(norm.bias)
    block.attn2 = attention
    layer = 9
    asked = []

    def contexts(index, context):
        asked.append(index)
        return tensors["ctx_k"], tensors["ctx_v"]

    options = {"patches": {"attn2_patch": [context_patch(contexts)]}, "block": BLOCKS[layer], "block_index": 0}
    with torch.no_grad():
        out = block(tensors["q"], context=tensors["ctx_k"], transformer_options=options) - tensors["q"]
        plain = block(tensors["q"], context=tensors["ctx_k"]) - tensors["q"]
    torch.testing.assert_close(out, tensors["out_dict_bypass"], **CLOSE)
    torch.testing.assert_close(plain, tensors["out_tensor"], **CLOSE)
    assert not torch.allclose(out, plain, atol=1e-3), "the second context would not show"
    assert asked == [layer]


class _Zero(torch.nn.Module):
    def forward(self, x, *_args, **_kwargs):
        return torch.zeros_like(x)


def test_layer_order_is_the_official_one(golden, tiny_model):
    """Index by index: NeTI's names, diffusers' modules, and the order in which the host's U-Net runs its blocks."""
    official = json.loads((golden / "unet_layer_order.json").read_text())
    letters = {"input": "IN", "middle": "MID", "output": "OUT"}
    names = [letters[kind] + ("" if kind == "middle" else f"{number:02d}") for kind, number in BLOCKS]
    assert names == [entry["name"] for entry in official]

    ran = []

    def record(query, context, value, extra_options):
        ran.append(extra_options["block"])
        return query, context, value

    unet = tiny_model.model.diffusion_model
    with torch.inference_mode():
        unet(
            torch.zeros(1, 4, 16, 16),
            timesteps=torch.zeros(1),
            context=torch.zeros(1, 77, 768),
            transformer_options={"patches": {"attn2_patch": [record]}},
        )
    assert tuple(ran) == BLOCKS == tuple(cross_attention_blocks(unet))

    keys = comfy.utils.unet_to_diffusers(tiny_model.model.model_config.unet_config)
    for (kind, number), entry in zip(BLOCKS, official, strict=True):
        place = {"input": f"input_blocks.{number}", "middle": "middle_block", "output": f"output_blocks.{number}"}[kind]
        assert keys[f"{entry['module']}.to_k.weight"].startswith(f"{place}.1.transformer_blocks.0.attn2")
