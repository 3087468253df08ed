"""What is learnt of a U-Net's weights: where it starts, how much it is, and the names in files."""

import pytest
import torch
from safetensors.torch import save_file

from attractor.trainer.custom_diffusion import ATTENTIONS, TOKEN_FILE, is_custom_diffusion, load_custom_diffusion
from attractor.trainer.lora_names import in_kohyas_names
from attractor.trainer.reading import BadFile
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.tuned import PREFIX, LowRank, WholeTensors, build_tuned, learnt_numbers

BASE = {"a.to_q.weight": torch.arange(12.0).reshape(3, 4), "b.to_k.weight": torch.ones(5, 400)}


@pytest.mark.parametrize("method, kind", [("dreambooth", WholeTensors), ("dreambooth_lora", LowRank)])
def test_the_numbers_that_are_learnt_are_counted_without_making_them(method, kind):
    settings = TrainingSettings(method=method, rank=2)
    tuned = build_tuned(settings, BASE)
    assert type(tuned) is kind
    assert learnt_numbers(settings, BASE) == sum(value.numel() for value in tuned.parameters.values())


def test_low_rank_starts_at_nothing_with_down_uniform():
    """As in kohya's scripts: within 1 / sqrt(in) of 0."""
    tuned = LowRank(BASE, 64, seed=0)
    assert all(torch.equal(tuned.tensors(BASE)[name], weight) for name, weight in BASE.items())
    down = tuned.parameters[f"{PREFIX}b.to_k.lora_down.weight"].detach()
    bound = 400**-0.5
    assert down.abs().max() <= bound and down.max() > 0.99 * bound and down.min() < -0.99 * bound
    assert abs(down.mean()) < 0.02 * bound and down.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    up = tuned.parameters[f"{PREFIX}a.to_q.lora_up.weight"]
    with torch.no_grad():
        up.fill_(1.0)
    expected = BASE["a.to_q.weight"] + up @ tuned.parameters[f"{PREFIX}a.to_q.lora_down.weight"]
    assert torch.equal(tuned.tensors(BASE)["a.to_q.weight"], expected)
    assert tuned.patch()[f"{PREFIX}a.to_q.alpha"] == 64


def test_a_difference_is_to_what_was_there_though_the_model_changes():
    base = {name: weight.clone() for name, weight in BASE.items()}
    tuned = WholeTensors(base)
    with torch.no_grad():
        tuned.parameters["a.to_q.weight"].add_(0.5)
        base["a.to_q.weight"].zero_()
    patch = tuned.patch()
    assert torch.equal(patch[f"{PREFIX}a.to_q.diff"], torch.full((3, 4), 0.5)) and not patch[f"{PREFIX}b.to_k.diff"].any()


def test_kohyas_names_where_there_are_any():
    ours, theirs = "input_blocks.1.1.transformer_blocks.0", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    names = {
        f"{PREFIX}{ours}.attn1.to_out.0.lora_up.weight": f"{theirs}_attn1_to_out_0.lora_up.weight",
        f"{PREFIX}{ours}.attn2.to_k.alpha": f"{theirs}_attn2_to_k.alpha",
    }
    without = f"{ours}.attn1.to_q.diff", "input_blocks.3.1.transformer_blocks.0.attn1.to_q.alpha", "out.2.lora_down.weight"
    names |= {PREFIX + name: PREFIX + name for name in without}
    assert list(in_kohyas_names(dict.fromkeys(names, torch.ones(1)))) == list(names.values())


# --- Custom Diffusion's files -------------------------------------------------------------------------


def weights():
    return {f"{name}.processor.to_{part}_custom_diffusion.weight": torch.ones(2, 8) for name in ATTENTIONS for part in "kv"}


def test_the_places_are_those_of_sd15():
    assert len(ATTENTIONS) == 16
    for theirs, ours in {
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.2.attentions.1": "input_blocks.8.1",
        "mid_block.attentions.0": "middle_block.1",
        "up_blocks.1.attentions.0": "output_blocks.3.1",
        "up_blocks.3.attentions.2": "output_blocks.11.1",
    }.items():
        assert ATTENTIONS[f"{theirs}.transformer_blocks.0.attn2"] == f"{ours}.transformer_blocks.0.attn2"


def test_a_file_with_the_token_beside_it(tmp_path):
    assert is_custom_diffusion(weights()) and is_custom_diffusion({"unet": 1, "modifier_token": 2})
    assert not is_custom_diffusion({"unet": 1}) and not is_custom_diffusion({3: 1}) and not is_custom_diffusion(7)
    path = tmp_path / "weights.safetensors"
    path.touch()
    for name in ("<other.bin", "other>.bin", "new1.bin"):
        torch.save({"<no>": torch.ones(8)}, tmp_path / name)
    torch.save({"<new1>": torch.ones(8), "step": 3}, tmp_path / "<new1>.bin")
    token = load_custom_diffusion(path, weights())
    assert (token.placeholder, len(token.weights), token.width, token.super_category) == ("<new1>", 32, 8, "")
    assert token.record["settings"] == {"method": "custom_diffusion"}
    save_file({"<new2>": torch.ones(8)}, tmp_path / TOKEN_FILE)
    with pytest.raises(BadFile, match="needs one token beside it.*<new1>, <new2>"):
        load_custom_diffusion(path, weights())
    (tmp_path / "<new1>.bin").unlink()
    assert load_custom_diffusion(path, weights()).placeholder == "<new2>"


@pytest.mark.parametrize(
    "tokens, there", [({}, "none"), (3, "none"), ({"<a>": torch.ones(8), "<b>": torch.ones(8)}, "<a>, <b>")]
)
def test_a_delta_needs_one_token(tmp_path, tokens, there):
    with pytest.raises(BadFile, match=f"there are: {there}"):
        load_custom_diffusion(tmp_path / "delta.bin", {"unet": weights(), "modifier_token": tokens})


def test_a_word_that_can_be_no_placeholder_is_called_as_usual(tmp_path):
    content = {"unet": weights(), "modifier_token": {"two words": torch.ones(8)}}
    assert load_custom_diffusion(tmp_path / "delta.bin", content).placeholder == "<new1>"


def test_keys_and_values_that_are_missing_are_counted(tmp_path):
    missing = dict(list(weights().items())[1:])
    for unet, count in ((missing, 31), ({}, 0), (3, 0), ({5: torch.ones(1)}, 0)):
        with pytest.raises(BadFile, match=f"has {count} of the 32 keys and values"):
            load_custom_diffusion(tmp_path / "delta.bin", {"unet": unet, "modifier_token": {"<a>": torch.ones(8)}})


def test_a_large_file_beside_it_is_not_read(tmp_path):
    torch.save({"<new1>": torch.ones(300_000)}, tmp_path / "<new1>.bin")
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(BadFile, match="<new1>.bin"):
        load_custom_diffusion(tmp_path / "weights.safetensors", weights())
