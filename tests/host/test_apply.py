"""Apply Personalized Token in process: what the host's U-Net and text encoder are really asked to do."""

import contextlib
import copy
import logging

import pytest
import torch
from in_process import apply, constant, encode, neti_token, relative, sample

import nodes as host_nodes
from attractor.nodes.host.conds import KEY
from attractor.nodes.host.payload import AppliedToken, Payload
from attractor.nodes.host.personalized_model import add_wrappers
from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.conditioning import BYPASS_SCALE
from attractor.trainer.mapper import NeTIMapper

PROMPT = "a photo of a <cat> on the beach"


@pytest.fixture
def unet_calls(tiny_model):
    """Batch sizes of the U-Net calls made while a test runs."""
    sizes = []
    hook = tiny_model.model.diffusion_model.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    yield sizes
    hook.remove()


@pytest.fixture
def text_rows(tiny_clip):
    """Sequences per text-encoder pass, counted at its last layer."""
    rows = []
    layer = tiny_clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[-1]
    hook = layer.layer_norm2.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    yield rows
    hook.remove()


@pytest.mark.parametrize("batch", [1, 2])
def test_cond_and_uncond_stay_one_unet_call(tiny_model, tiny_clip, unet_calls, batch):
    model, clip = apply(tiny_model, tiny_clip)
    sample(model, encode(clip, PROMPT), encode(clip, "blurry"), batch=batch)
    assert unet_calls == [2 * batch] * 2


def test_two_branches_do_not_leak_into_each_other_or_the_original(tiny_model, tiny_clip):
    def result(model, clip):
        return sample(model, encode(clip, "a photo of a cat"), encode(clip, ""))

    plain = result(tiny_model, tiny_clip)
    alone = {}
    for seed in (1, 5):
        model, clip = apply(tiny_model, tiny_clip, neti_token(seed))
        alone[seed] = sample(model, encode(clip, PROMPT), encode(clip, ""))
    first, second = (apply(tiny_model, tiny_clip, neti_token(seed)) for seed in (1, 5))
    prompts = [(encode(clip, PROMPT), encode(clip, "")) for _, clip in (first, second)]
    again = {5: sample(second[0], *prompts[1]), 1: sample(first[0], *prompts[0])}
    for seed in alone:
        assert torch.equal(again[seed], alone[seed])
    assert not torch.allclose(alone[1], alone[5], rtol=1e-3)
    assert torch.equal(result(tiny_model, tiny_clip), plain)
    assert torch.equal(result(*first), plain), "a prompt without the token is touched"
    # One branch's MODEL with the other's CLIP is the other's token: MODEL holds none of its own.
    assert torch.equal(sample(first[0], *prompts[1]), alone[5])


def test_patches_of_the_model_stay_and_see_the_tokens_contexts(tiny_model, tiny_clip):
    seen = []

    def patch(query, k, v, extra):
        seen.append(not torch.equal(k, v))  # the bypass is in V only
        return query, k, v

    patched = tiny_model.clone()
    patched.set_model_attn2_patch(patch)
    (model, clip), (plain, _) = apply(patched, tiny_clip), apply(tiny_model, tiny_clip)
    positive, negative = encode(clip, PROMPT), encode(clip, "")
    expected = sample(plain, positive, negative, steps=3)
    for _ in range(2):
        assert torch.equal(sample(model, positive, negative, steps=3), expected)
    assert len(seen) == 2 * 3 * 16 and all(seen)
    assert model.model_options["transformer_options"]["patches"] == {"attn2_patch": [patch]}


def single_embedding(tiny_model, tiny_clip):
    """What sampling gives with the plain embedding that a NeTI token falls back to: that of t = 500, the layers' mean
    direction at their mean norm."""
    vectors, _ = neti_token().subject(torch.full((16,), 500.0), torch.arange(16))
    embedding = Embedding(torch.nn.functional.normalize(vectors.mean(0, keepdim=True)) * vectors.norm(dim=-1).mean())
    model, clip = apply(tiny_model, tiny_clip, PersonalizedToken("<cat>", "cat", "textual_inversion", 768, embedding))
    return sample(model, encode(clip, PROMPT), encode(clip, ""))


def test_without_the_model_it_is_one_embedding_and_a_warning(tiny_model, tiny_clip, caplog):
    model, clip = apply(tiny_model, tiny_clip)
    positive, negative = encode(clip, PROMPT), encode(clip, "")
    with caplog.at_level(logging.WARNING):
        degraded = sample(tiny_model, positive, negative)
    assert "does not come through Apply Personalized Token" in caplog.text
    expected = single_embedding(tiny_model, tiny_clip)
    assert relative(degraded, expected) < 1e-4
    assert relative(sample(model, positive, negative), expected) > 1e-2


def test_a_node_that_keeps_the_tensor_only_leaves_one_embedding(tiny_model, tiny_clip):
    model, clip = apply(tiny_model, tiny_clip)
    degraded = sample(model, [[encode(clip, PROMPT)[0][0], {}]], encode(clip, ""))
    assert relative(degraded, single_embedding(tiny_model, tiny_clip)) < 1e-4


def test_an_encode_without_extra_data_is_one_embedding_and_a_warning(tiny_model, tiny_clip, caplog):
    """As older custom nodes encode."""
    model, clip = apply(tiny_model, tiny_clip)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    assert "drops extra data" in caplog.text
    degraded = sample(model, [[context, {"pooled_output": pooled}]], encode(clip, ""))
    assert relative(degraded, single_embedding(tiny_model, tiny_clip)) < 1e-4


def test_tokens_in_both_prompts_and_in_the_only_one(tiny_model, tiny_clip, caplog):
    """At CFG 1 the host samples without the negative prompt."""
    varying, same = (apply(tiny_model, tiny_clip, token) for token in (neti_token(), constant("neti")))
    stock = apply(tiny_model, tiny_clip, constant("textual_inversion"))

    def result(model, clip, negative, cfg):
        return sample(model, encode(clip, PROMPT), encode(clip, negative), cfg=cfg)

    for negative, cfg in (("a blurry <cat>", 7.0), ("", 1.0)):
        assert relative(result(*same, negative, cfg), result(*stock, negative, cfg)) < 1e-4
        fallen_back = result(tiny_model, varying[1], negative, cfg)
        assert "does not come through Apply Personalized Token" in caplog.text
        caplog.clear()
        assert relative(result(*varying, negative, cfg), fallen_back) > 1e-2
        assert not caplog.text


def test_wrappers_are_put_on_a_model_once(tiny_model):
    patcher = tiny_model.clone()
    add_wrappers(patcher)
    once = {kind: len(patcher.get_all_wrappers(kind)) for kind in patcher.wrappers}
    add_wrappers(patcher)
    assert once and {kind: len(patcher.get_all_wrappers(kind)) for kind in patcher.wrappers} == once


def test_a_node_that_regroups_the_batch_leaves_one_embedding_and_a_warning(tiny_model, tiny_clip, caplog):
    """As nodes that run the U-Net row by row do."""

    def row_by_row(unet, given):
        def row(value, i):
            return value[i : i + 1] if torch.is_tensor(value) and len(value) == len(given["input"]) else value

        rows = range(len(given["input"]))
        calls = [
            (row(given["input"], i), row(given["timestep"], i), {k: row(v, i) for k, v in given["c"].items()}) for i in rows
        ]
        return torch.cat([unet(x, t, **c) for x, t, c in calls])

    model, clip = apply(tiny_model, tiny_clip)
    regrouped = model.clone()
    regrouped.set_model_unet_function_wrapper(row_by_row)
    with caplog.at_level(logging.WARNING):
        degraded = sample(regrouped, encode(clip, PROMPT), encode(clip, ""))
    assert "A node regrouped the U-Net's batch: NeTI tokens fall back to a single embedding." in caplog.text
    assert relative(degraded, single_embedding(tiny_model, tiny_clip)) < 1e-4


@pytest.mark.parametrize("change", ["average", "zero out"])
def test_arithmetic_on_a_conditioning_falls_back_with_a_warning(tiny_model, tiny_clip, caplog, change):
    model, clip = apply(tiny_model, tiny_clip)
    prompt, other = encode(clip, PROMPT), encode(clip, "a red hat")
    with torch.inference_mode():
        if change == "average":
            changed = host_nodes.ConditioningAverage().addWeighted(prompt, other, 0.5)[0]
        else:
            changed = host_nodes.ConditioningZeroOut().zero_out(prompt)[0]
    plain = [[changed[0][0], {}]]
    with caplog.at_level(logging.WARNING):
        fallen_back = sample(model, changed, encode(clip, ""))
    assert "changed the conditioning" in caplog.text
    assert torch.equal(fallen_back, sample(model, plain, encode(clip, "")))


def test_a_schedule_is_encoded_once(tiny_model, tiny_clip, text_rows):
    model, clip = apply(tiny_model, tiny_clip)
    positive, negative = encode(clip, PROMPT), encode(clip, "")
    text_rows.clear()
    first = sample(model, positive, negative, steps=3)
    assert sum(text_rows) == 1 + 3 * 16, "what stands before the token once, each step and layer once, whatever the guidance"
    assert max(text_rows) > 16, "not step by step"
    text_rows.clear()
    assert torch.equal(sample(model, positive, negative, steps=3), first)
    assert text_rows == [], "the second image encodes nothing"


@pytest.mark.parametrize("fails", [False, True])
def test_contexts_leave_the_gpu_after_sampling(tiny_model, tiny_clip, monkeypatch, fails):
    """Seen by the call, as there is no GPU here; also when sampling fails."""
    resting = []
    monkeypatch.setattr(Payload, "rest", lambda self: resting.append(self))
    model, clip = apply(tiny_model, tiny_clip)
    positive, negative = encode(clip, PROMPT), encode(clip, "")

    def step(module, args):
        assert not resting
        if fails:
            raise RuntimeError("in the U-Net")

    hook = tiny_model.model.diffusion_model.register_forward_pre_hook(step)
    try:
        with pytest.raises(RuntimeError, match="in the U-Net") if fails else contextlib.nullcontext():
            sample(model, positive, negative)
    finally:
        hook.remove()
    assert resting == [positive[0][1]["model_conds"][KEY].payload]


def test_conditioning_survives_a_deep_copy(tiny_model, tiny_clip):
    model, clip = apply(tiny_model, tiny_clip)
    positive, negative = encode(clip, PROMPT), encode(clip, "")
    expected = sample(model, positive, negative)
    assert torch.equal(sample(model, copy.deepcopy(positive), copy.deepcopy(negative)), expected)


def test_strength_is_a_share_of_vectors_and_bypass():
    concept, anchor = NeTIMapper(8, norm_scale=1.0, hidden=4, num_w=4, seed=1), torch.arange(8.0)
    times, layers = torch.tensor([0.0, 999.0]), torch.tensor([0.0, 15.0])
    whole = AppliedToken("<x>", concept).at(times, layers)
    quarter = AppliedToken("<x>", concept, strength=0.25, anchor=anchor)
    torch.testing.assert_close(quarter.at(times, layers).vectors, 0.75 * anchor + 0.25 * whole.vectors)
    assert quarter.bypass_scale(None) == BYPASS_SCALE * 0.25
    assert torch.equal(quarter.bypass_scale(torch.tensor([1.0, 0.5])), BYPASS_SCALE * torch.tensor([0.25, 0.125]))


def test_contexts_of_the_time_that_was_asked_for_longest_ago_are_let_go(tiny_model, tiny_clip, monkeypatch):
    monkeypatch.setattr("attractor.nodes.host.payload.CACHED_TIMES", 2)
    _, clip = apply(tiny_model, tiny_clip)
    payload = encode(clip, PROMPT)[0][1]["model_conds"][KEY].payload
    for time in (1, 2, 1, 3):
        payload.get(time, torch.device("cpu"), torch.float32)
    assert set(payload._cache) == {1, 3}


def test_strength_leans_between_the_plain_word_and_the_token(tiny_model, tiny_clip):
    def result(**options):
        model, clip = apply(tiny_model, tiny_clip, neti_token(), **options)
        return sample(model, encode(clip, PROMPT), encode(clip, ""))

    word = sample(tiny_model, encode(tiny_clip, PROMPT.replace("<cat>", "cat")), encode(tiny_clip, ""))
    assert relative(result(strength=0.0), word) < 1e-4
    assert relative(result(strength=1.0), word) > 1e-2
    assert torch.equal(result(strength=1.0), result())
    assert relative(result(strength=0.5), result()) > 1e-3


def test_truncation_keeps_fewer_units(tiny_model, tiny_clip):
    def result(truncation):
        model, clip = apply(tiny_model, tiny_clip, neti_token(), truncation=truncation)
        return sample(model, encode(clip, PROMPT), encode(clip, ""))

    assert torch.equal(result(0), result(128))
    assert relative(result(8), result(0)) > 1e-3


def test_attractor_takes_the_subjects_place(tiny_model, tiny_clip):
    token = neti_token(attractors=2)
    assert not torch.equal(token.attractors[1].output_layer.weight, token.subject.output_layer.weight)
    model, clip = apply(tiny_model, tiny_clip, token, attractor=2)
    alone = PersonalizedToken("<cat>", "cat", "neti", 768, token.attractors[1])
    expected = apply(tiny_model, tiny_clip, alone)
    assert torch.equal(
        sample(model, encode(clip, PROMPT), encode(clip, "")),
        sample(expected[0], encode(expected[1], PROMPT), encode(expected[1], "")),
    )
