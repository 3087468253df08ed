"""Apply Personalized Token in process: what the host's U-Net and text encoder are really asked to do."""

import contextlib
import copy
import logging
from pathlib import Path

import comfy.hooks
import comfy.sd
import pytest
import torch
from in_process import encode, sample

import nodes as host_nodes
from attractor.nodes.errors import UserError
from attractor.nodes.host.conds import KEY
from attractor.nodes.host.payload import AppliedToken, Payload
from attractor.nodes.host.personalized_model import add_wrappers
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.nodes_tokens import ApplyPersonalizedToken
from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.conditioning import BYPASS_SCALE
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import save_embedding
from test_nodes.tiny_sd15 import tiny_model

PROMPT = "a photo of a <cat> on the beach"


def neti_token(seed=1, attractors=0, placeholder="<cat>", super_category="cat", width=768):
    mappers = [NeTIMapper(width, norm_scale=1.0, seed=seed + i).requires_grad_(False) for i in range(1 + attractors)]
    return PersonalizedToken(placeholder, super_category, "neti", width, mappers[0], tuple(mappers[1:]))


@torch.inference_mode()
def apply(model, clip, token=None, **options):
    return tuple(ApplyPersonalizedToken.execute(model, clip, token or neti_token(), **options).result)


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


def constant(kind):
    """A token of one vector: as a mapper that always gives it, or as an embedding, which the host encodes by itself."""
    vector = torch.randn(768, generator=torch.Generator().manual_seed(7)) * 0.05
    if kind == "textual_inversion":
        return PersonalizedToken("<cat>", "cat", kind, 768, Embedding(vector[None]))
    mapper = NeTIMapper(bypass=False, nested_dropout=0.0, seed=0).requires_grad_(False)
    mapper.output_layer.weight.zero_()
    mapper.output_layer.bias.copy_(vector)
    return PersonalizedToken("<cat>", "cat", kind, 768, mapper)


def with_embeddings_of(clip, folders):
    """As of a loader that knows other folders of stock embeddings."""
    other = clip.clone()
    other.tokenizer = copy.copy(other.tokenizer)
    other.tokenizer.clip_l = copy.copy(other.tokenizer.clip_l)
    other.tokenizer.clip_l.embedding_directory = folders
    return other


def contexts(positive, time=100):
    return positive[0][1]["model_conds"][KEY].payload.get(time, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, f"{'very ' * 80}{PROMPT}", "a (<cat>:1.4) in the (snow:0.3)", "(<cat>:0.5), <cat> beside embedding:beside"],
)
def test_every_layers_context_is_what_the_host_makes_of_the_vector(tiny_model, tiny_clip, prompt, tmp_path):
    save_embedding(torch.randn(2, 768, generator=torch.Generator().manual_seed(2)) * 0.05, tmp_path / "beside.safetensors")
    stock = with_embeddings_of(tiny_clip, [str(tmp_path)])
    (_, ours), (_, theirs) = (apply(tiny_model, stock, constant(kind)) for kind in ("neti", "textual_inversion"))
    expected, found = encode(theirs, prompt)[0][0], contexts(encode(ours, prompt))
    for layer in (0, 7, 15):
        for own in (found.k[layer], found.v[layer]):
            torch.testing.assert_close(own, expected[0].float(), rtol=1e-4, atol=1e-5)


def test_contexts_are_encoded_with_the_loras_of_their_own_clip(tiny_model, tiny_clip):
    """Clones share weights, into which the host puts the patches of whichever was used last."""
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    patched = tiny_clip.clone()
    shape = tiny_clip.patcher.model_state_dict()[key].shape
    patched.add_patches({key: ("diff", (0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(3)),))}, 1.0)
    clips = {
        kind: [apply(tiny_model, clip, constant(kind))[1] for clip in (tiny_clip, patched)]
        for kind in ("neti", "textual_inversion")
    }
    expected = [encode(clip, PROMPT)[0][0][0].float() for clip in clips["textual_inversion"]]
    assert relative(*expected) > 0.01
    encoded = [encode(clip, PROMPT) for clip in clips["neti"]]
    for time, order in ((100, (0, 1)), (200, (1, 0))):
        for which in order:
            found = contexts(encoded[which], time).k[5]
            torch.testing.assert_close(found, expected[which], rtol=1e-4, atol=1e-5)


def test_a_clip_whose_loader_knew_no_folder_of_embeddings_takes_tokens_too(tiny_model, tiny_clip):
    stock = with_embeddings_of(tiny_clip, None)
    (_, bare), (_, usual) = (apply(tiny_model, clip, constant("neti")) for clip in (stock, tiny_clip))
    assert torch.equal(contexts(encode(bare, PROMPT)).k, contexts(encode(usual, PROMPT)).k)
    assert stock.tokenizer.clip_l.embedding_directory is None


def test_clip_hooks_with_a_schedule_leave_one_embedding_and_a_warning(tiny_model, tiny_clip, caplog):
    hook = comfy.hooks.WeightHook(strength_clip=1.0)
    hook.need_weight_init, hook.weights_clip = False, {}
    hook.hook_keyframe.add(comfy.hooks.HookKeyframe(0.5, 0.5))
    group = comfy.hooks.HookGroup()
    group.add(hook)
    _, clip = apply(tiny_model, tiny_clip)
    hooked = clip.clone()
    hooked.patcher.forced_hooks, hooked.use_clip_schedule = group, True
    with caplog.at_level(logging.WARNING):
        encode(hooked, PROMPT)
    assert "CLIP hooks with a schedule: the personalised token falls back to a single embedding" in caplog.text
    caplog.clear()
    encode(clip, PROMPT)
    assert "schedule" not in caplog.text


def test_strength_leans_between_the_plain_word_and_the_token(tiny_model, tiny_clip):
    def result(**options):
        model, clip = apply(tiny_model, tiny_clip, neti_token(), **options)
        return sample(model, encode(clip, PROMPT), encode(clip, ""))

    word = sample(tiny_model, encode(tiny_clip, PROMPT.replace("<cat>", "cat")), encode(tiny_clip, ""))
    assert relative(result(strength=0.0), word) < 1e-4
    assert relative(result(strength=1.0), word) > 1e-2
    assert torch.equal(result(strength=1.0), result())
    assert relative(result(strength=0.5), result()) > 1e-3


def relative(a, b):
    return ((a - b).abs().max() / b.std()).item()


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


@pytest.mark.parametrize(
    "token, options, words",
    [
        (neti_token(attractors=1), {"attractor": 3}, ("attractor is 3", "1 attractors", "Use 0")),
        (neti_token(width=1024), {}, ("token", "width 1024", "768", "Stable Diffusion 1.5")),
        (neti_token(), {"placeholder": "dog"}, ("placeholder 'dog'", "vocabulary", "<dog>")),
        (neti_token(super_category=""), {"strength": 0.5}, ("strength is 0.5", "no super-category", "Use 1")),
    ],
)
def test_bad_input_names_itself_and_the_remedy(tiny_model, tiny_clip, token, options, words):
    with pytest.raises(UserError) as error:
        apply(tiny_model, tiny_clip, token, **options)
    for word in words:
        assert word in str(error.value)


def test_a_placeholder_can_be_applied_once_only(tiny_model, tiny_clip):
    model, clip = apply(tiny_model, tiny_clip)
    with pytest.raises(UserError, match="<cat> is already applied"):
        apply(model, clip, neti_token(5))
    model, clip = apply(model, clip, neti_token(5), placeholder="<other>")
    assert torch.isfinite(sample(model, encode(clip, "<cat> and <other>"), encode(clip, ""))).all()


def test_an_unknown_placeholder_in_a_prompt_is_an_error(tiny_model, tiny_clip):
    _, clip = apply(tiny_model, tiny_clip)
    with pytest.raises(UserError, match="<cta> in the prompt is not an applied token. Known here: <cat>"):
        encode(clip, "a photo of a <cta>")


def tokens_in(clip, text):
    """How many of our tokens a prompt holds, and its other pieces as the tokenizer has them."""
    items = [item for item, *_ in clip.tokenize(text)["l"][0]]
    ours = sum(isinstance(item, dict) and "applied" in item for item in items)
    return ours, [item for item in items if isinstance(item, int) and item not in (49406, 49407)]


@pytest.mark.parametrize(
    "placeholder, text, count",
    [
        ("<my-cat>", "two <my-cat>s", 1),
        ("<my-cat>", "red<my-cat>", 1),
        ("<my-cat>", "一只<my-cat>在海滩", 1),
        ("<my-cat>", "(<my-cat>:1.2), <my-cat>.", 2),
        ("<my-cat>", "embedding:<my-cat>", 1),
        ("my-cat", "a my-cat, (my-cat:1.1)", 2),
        ("my-cat", "一只my-cat在海滩", 1),
        ("my-cat", "my-cat-v2, my-cats, not-my-cat", 0),
        ("my-cat", "embedding:my-cat", 0),
        ("my-cat", "(embedding:my-cat:1.2) my-cat", 1),
        ("my-cat", "embedding:my-cat-v2 and embedding:sub/my-cat", 0),
    ],
)
def test_a_placeholder_is_found_where_a_word_may_stand_and_not_in_the_name_of_an_embedding(
    tiny_model, tiny_clip, placeholder, text, count
):
    _, clip = apply(tiny_model, tiny_clip, placeholder=placeholder)
    assert tokens_in(clip, text)[0] == count
    assert encode(clip, text)


@pytest.mark.parametrize("short, long", [("my-cat", "my-cat-v2"), ("猫", "猫二")])
def test_of_two_placeholders_the_longer_one_is_taken(tiny_model, tiny_clip, short, long):
    model, clip = apply(tiny_model, tiny_clip, placeholder=short)
    _, clip = apply(model, clip, neti_token(5), placeholder=long)
    items = clip.tokenize(f"{long} beside {short}")["l"][0]
    assert [item["applied"].placeholder for item, *_ in items if isinstance(item, dict)] == [long, short]


def test_tags_in_angle_brackets_are_not_taken_for_placeholders(tiny_model, tiny_clip):
    _, clip = apply(tiny_model, tiny_clip)
    assert encode(clip, "<o>_<o>, >_<, <3, |>_<|, <lora:name:1>, a <cat>")


@pytest.mark.parametrize("kind, words", [("pruned", "a pruned Stable"), ("sdxl", "SDXL: its U-Net")])
def test_another_unet_is_refused(tiny_clip, kind, words):
    with torch.inference_mode():
        other = tiny_model(kind=kind)
    with pytest.raises(UserError, match=f"model: this is {words}.* not the 16 .* Load Checkpoint"):
        apply(other, tiny_clip)


def test_a_pruned_checkpoint_of_the_stock_loader_is_refused(pruned_checkpoint):
    with torch.inference_mode():
        model, clip = comfy.sd.load_checkpoint_guess_config(str(pruned_checkpoint), output_vae=False)[:2]
    with pytest.raises(UserError, match="10 cross-attention blocks, not the 16"):
        apply(model, clip)


def test_textual_inversion_of_several_vectors_takes_the_stock_path(tiny_model, tiny_clip, text_rows):
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(2)) * 0.05
    token = PersonalizedToken("<cat>", "cat", "textual_inversion", 768, Embedding(vectors))
    model, clip = apply(tiny_model, tiny_clip, token)
    tokens = clip.tokenize(PROMPT)["l"][0]
    assert sum(isinstance(item, dict) or torch.is_tensor(item) for item, *_ in tokens) == 3
    positive = encode(clip, PROMPT)
    assert KEY not in positive[0][1].get("model_conds", {})
    assert torch.isfinite(sample(model, positive, encode(clip, ""))).all()


@pytest.mark.parametrize("skip", [None, -1, -2])
def test_text_encoder_agrees_with_the_hosts(tiny_clip, skip):
    clip = tiny_clip.clone()
    if skip is not None:
        clip.clip_layer(skip)
    text = HostTextEncoder(clip)
    for prompt in ("", "a photo of a cat", "an oil painting of a very small robot, detailed"):
        expected = encode(clip, prompt)[0][0]
        ids = [text.bos, *text.tokenize(prompt)]
        ids += [text.eos] * (text.length - len(ids))
        with torch.inference_mode():
            found = text.final_layer_norm(text.hidden_states(text.embed(torch.tensor([ids]))))
        assert (found.cpu() - expected.cpu()).abs().max() < 1e-5


@pytest.mark.parametrize("count", [1, 3])
def test_an_exported_embedding_is_the_same_to_the_text_encoder_without_this_pack(tiny_model, tiny_clip, host_base, count):
    vectors = torch.randn(count, 768, generator=torch.Generator().manual_seed(2)) * 0.05
    folder = Path(host_base) / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    save_embedding(vectors, folder / f"exported-{count}.safetensors")
    token = PersonalizedToken("<cat>", "cat", "textual_inversion", 768, Embedding(vectors))
    _, clip = apply(tiny_model, tiny_clip, token)
    stock = with_embeddings_of(tiny_clip, [str(folder)])
    ours, theirs = encode(clip, PROMPT), encode(stock, PROMPT.replace("<cat>", f"embedding:exported-{count}"))
    assert torch.equal(ours[0][0], theirs[0][0])
    assert torch.equal(ours[0][1]["pooled_output"], theirs[0][1]["pooled_output"])
