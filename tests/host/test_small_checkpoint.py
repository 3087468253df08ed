"""The small models of the tests are what they pretend to be."""

import pytest


def cross_attention_blocks(model):
    """Ids of the blocks that hold a cross-attention, in the order of execution."""
    unet = model.model.diffusion_model
    found = []
    for kind, blocks in (
        ("input", unet.input_blocks),
        ("middle", [unet.middle_block]),
        ("output", unet.output_blocks),
    ):
        for number, block in enumerate(blocks):
            if any(type(layer).__name__ == "SpatialTransformer" for layer in block):
                found.append((kind, number))
    return found


SD15_BLOCKS = [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("middle", 0)] + [("output", n) for n in range(3, 12)]


@pytest.fixture(scope="module")
def load():
    import comfy.sd
    import torch

    def load(path):
        with torch.inference_mode():
            return comfy.sd.load_checkpoint_guess_config(str(path))[:3]

    return load


def test_stock_loader_recognises_the_small_checkpoint_as_sd15(load, small_checkpoint):
    model, clip, vae = load(small_checkpoint)
    assert type(model.model.model_config).__name__ == "SD15"
    assert cross_attention_blocks(model) == SD15_BLOCKS
    assert len(clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers) == 12
    assert type(vae.first_stage_model).__name__ == "TAESD"


def test_pruned_checkpoint_is_an_sd15_with_fewer_cross_attention_blocks(load, pruned_checkpoint):
    model, _, _ = load(pruned_checkpoint)
    assert type(model.model.model_config).__name__ == "SD15"
    assert len(cross_attention_blocks(model)) == 10


def test_tiny_model_has_the_blocks_of_sd15_and_no_checkpoint(tiny_model):
    assert cross_attention_blocks(tiny_model) == SD15_BLOCKS
    assert tiny_model.cached_patcher_init is None


def test_tiny_models_are_a_function_of_the_seed_alone(tiny_model, tiny_clip, tiny_vae):
    import torch

    from test_nodes import tiny_sd15

    def weights(seed):
        model, clip, vae = tiny_sd15.tiny_model(seed), tiny_sd15.tiny_clip(seed), tiny_sd15.tiny_vae(seed)
        return torch.cat(
            [
                p.flatten()
                for module in (model.model.diffusion_model, clip.cond_stage_model, vae.first_stage_model)
                for p in module.parameters()
            ]
        )

    first, again, other = weights(0), weights(0), weights(1)
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_prompts_change_what_the_tiny_model_predicts(tiny_model, tiny_clip):
    """A context that hardly mattered would hide every fault of conditioning."""
    import comfy.model_management
    import torch

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([tiny_model, tiny_clip.patcher], force_full_load=True)
        prompts = ("a dog on grass", "two red cars")
        contexts = [tiny_clip.encode_from_tokens(tiny_clip.tokenize(prompt)) for prompt in prompts]
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        noise = [latent - tiny_model.model.apply_model(latent, torch.ones(1), c_crossattn=context) for context in contexts]
    assert 0.2 < noise[0].std() < 5
    assert (noise[0] - noise[1]).std() > 0.01
