"""Where a placeholder is found in a prompt, and what Apply Personalized Token refuses."""

import comfy.sd
import pytest
import torch
from in_process import apply, encode, neti_token, sample

from attractor.nodes.errors import UserError
from test_nodes.tiny_sd15 import tiny_model


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
