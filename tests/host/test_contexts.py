"""What the text encoder makes of a prompt with a token, against what the host makes of the same vectors."""

import copy
import logging
from pathlib import Path

import comfy.hooks
import pytest
import torch
from in_process import apply, constant, encode, relative, sample

from attractor.nodes.host.conds import KEY
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.token_file import save_embedding

PROMPT = "a photo of a <cat> on the beach"


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


def test_textual_inversion_of_several_vectors_takes_the_stock_path(tiny_model, tiny_clip):
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
