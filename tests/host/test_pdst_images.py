"""What makes the evaluation's images: an image depends on its prompt and seed only; another model is another identity."""

import copy
import dataclasses

import pytest
import torch

from attractor.nodes.evaluation.encoders import EvaluationEncoders, load_clip, load_dino
from attractor.nodes.evaluation.metrics import SCORES, references, score
from attractor.nodes.evaluation.pdst import read_dataset
from attractor.nodes.evaluation.quick import quick_scores, quick_shots
from attractor.nodes.host.identity import clip_identity, model_identity, token_identity, vae_identity
from attractor.nodes.host.private_models import private_models
from attractor.nodes.host.sampling import _BATCHED, SAMPLERS, Sampling, evaluation_maker, training_maker
from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from pdst_set import write_subject

SMALL = Sampling(steps=2, width=64, height=64, cfg=3.0)
WEIGHT = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_{}.weight"
PROMPT = "a photo of a <my-cat> on the beach"


def neti(seed=0):
    return PersonalizedToken("<my-cat>", "cat", "neti", 768, NeTIMapper(768, norm_scale=0.4, seed=seed))


def plain(seed=0):
    vectors = torch.randn(1, 768, generator=torch.Generator().manual_seed(seed)) * 0.02
    return PersonalizedToken("<my-cat>", "cat", "textual_inversion", 768, Embedding(vectors))


@pytest.fixture
def maker(tiny_model, tiny_clip, tiny_vae):
    def make(token=None, **changes):
        sampling = Sampling(**{**SMALL.to_dict(), **changes})
        made = evaluation_maker(tiny_model, tiny_clip, tiny_vae, token, sampling)

        def images(prompts, seeds):
            with torch.inference_mode():  # as the host runs nodes
                return made(prompts, seeds)

        return images

    return make


def close(one, other):
    return torch.allclose(one, other, atol=2e-4)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral", "uni_pc"])
def test_an_image_does_not_depend_on_its_neighbours(maker, sampler):
    make = maker(neti(), sampler=sampler)
    together = make([PROMPT] * 3, [5, 6, 7])
    assert together.shape == (3, 64, 64, 3) and together.dtype == torch.float32
    assert 0 <= together.min() and together.max() <= 1
    assert not close(together[0], together[1])
    for i, seed in ((2, 7), (0, 5)):
        assert close(make([PROMPT], [seed])[0], together[i])


def test_samplers_that_take_several_images_draw_nothing_of_their_own():
    """A look at every sampler of the host: what can be given a source of noise is not sampled in batches."""
    import inspect

    import comfy.samplers

    assert len(_BATCHED & set(SAMPLERS)) >= 15
    for name in _BATCHED & set(SAMPLERS):
        function = comfy.samplers.sampler_object(name).sampler_function
        assert "noise_sampler" not in inspect.signature(function).parameters, name
    assert "noise_sampler" in inspect.signature(comfy.samplers.sampler_object("euler_ancestral").sampler_function).parameters


def test_prompts_and_seeds_stay_in_order(maker):
    make = maker(plain())
    other = "a photo of a <my-cat> in the snow"
    mixed = make([PROMPT, PROMPT, other, PROMPT], [1, 2, 3, 4])
    for i, (prompt, seed) in enumerate([(PROMPT, 1), (PROMPT, 2), (other, 3), (PROMPT, 4)]):
        assert close(make([prompt], [seed])[0], mixed[i])
    assert not close(mixed[2], make([PROMPT], [3])[0])


def test_the_token_makes_a_difference_and_the_negative_prompt_too(maker):
    images = [
        maker(token, **changes)([PROMPT.replace("<my-cat>", name)], [1])
        for token, name, changes in (
            (None, "cat", {}),
            (neti(), "<my-cat>", {}),
            (neti(1), "<my-cat>", {}),
            (neti(), "<my-cat>", {"negative": "blurry"}),
        )
    ]
    for i, image in enumerate(images):
        assert not any(torch.equal(image, other) for other in images[:i])


def test_a_sample_while_training_is_the_evaluations_image(tiny_model, tiny_clip, tiny_vae, maker):
    token = neti()
    with torch.inference_mode(False), private_models(tiny_model, tiny_clip) as (unet, text):
        sample, again = (training_maker(unet, text.patcher, tiny_clip, tiny_vae, token, SMALL)([PROMPT], [3]) for _ in "12")
    assert torch.equal(sample, again)
    assert close(maker(token)([PROMPT], [3]), sample)


def test_a_tokens_phrase_is_part_of_the_prompt(tiny_model, tiny_clip, tiny_vae, maker):
    """DreamBooth's and Custom Diffusion's are learnt with the class's word behind them."""
    alone, own = neti(), dataclasses.replace(neti(), phrase="{} cat")
    written_out = maker(alone)([PROMPT.replace("<my-cat>", "<my-cat> cat")], [3])
    assert close(maker(own)([PROMPT], [3]), written_out) and not close(maker(alone)([PROMPT], [3]), written_out)
    with torch.inference_mode(False), private_models(tiny_model, tiny_clip) as (unet, text):
        sample = training_maker(unet, text.patcher, tiny_clip, tiny_vae, own, SMALL)([PROMPT], [3])
    assert close(sample, written_out)


def test_the_quick_scores_are_the_means_of_the_scorer(maker, tmp_path, small_encoders):
    write_subject(tmp_path / "set", "cat")
    (subject,) = read_dataset(tmp_path / "set", captions=2).subjects
    folder = small_encoders / "evaluation"
    encoders = EvaluationEncoders(load_clip(folder / "clip-tiny"), load_dino(folder / "dino-tiny"))
    real, make = references(subject, encoders), maker(plain())
    found = quick_scores(make, "<my-cat>", subject, real, encoders, 3, 0)
    assert tuple(found) == SCORES
    shots = quick_shots(subject, 3, 0)
    images = torch.cat([make([shot.text.replace("{}", "<my-cat>")], [shot.seed]) for shot in shots])
    wanted = score(images, [shot.text.replace("{}", "cat") for shot in shots], real, [s.photo for s in shots], encoders)
    for name in SCORES:
        assert found[name] == pytest.approx(sum(wanted[name]) / 3, abs=1e-6)
    assert quick_scores(make, "<my-cat>", subject, real, encoders, 3, 0) == found


def test_another_model_or_patch_is_another_identity_and_the_same_anew_is_not(tiny_model, tiny_clip, tiny_vae):
    import comfy.hooks
    from comfy.weight_adapter.lora import LoRAAdapter
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, RescaleCFG

    from test_nodes import tiny_sd15

    def lora(strength, part="k"):
        patched = tiny_model.clone()
        key = WEIGHT.format(part)
        shape = tiny_model.model_state_dict()[key].shape
        patched.add_patches({key: ("diff", (torch.ones(shape),))}, strength)
        return patched

    def low_rank(seed):
        """As Load LoRA does it."""
        patched, key = tiny_model.clone(), WEIGHT.format("k")
        rows, columns = tiny_model.model_state_dict()[key].shape
        random = torch.Generator().manual_seed(seed)
        parts = torch.randn(rows, 2, generator=random), torch.randn(2, columns, generator=random)
        patched.add_patches({key: LoRAAdapter(set(), (*parts, 2.0, None, None, None))}, 1.0)
        return patched

    def of_another_prediction():
        """A checkpoint of the same weights, which its configuration says to predict v."""
        model = tiny_sd15.tiny_model()
        model.model.model_sampling = patched(ModelSamplingDiscrete, "v_prediction", False).object_patches["model_sampling"]
        return model

    def patched(node, *settings):
        node = node()
        return (node.execute if hasattr(node, "execute") else node.patch)(tiny_model, *settings)[0]

    def hooked(strength, later):
        """As Set CLIP Hooks does, with a LoRA whose strength changes half-way."""
        key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
        hook = comfy.hooks.WeightHook(strength_clip=strength)
        hook.need_weight_init, hook.weights_clip = False, {key: ("diff", (torch.ones(1),))}
        hook.hook_keyframe.add(comfy.hooks.HookKeyframe(later, 0.5))
        group, clip = comfy.hooks.HookGroup(), tiny_clip.clone()
        group.add(hook)
        clip.patcher.forced_hooks = group.clone()
        clip.patcher.register_all_hook_patches(group, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Clip))
        assert clip.patcher.hook_patches and next(iter(clip.patcher.hook_patches.values()))
        return clip

    with torch.inference_mode():
        models = {
            "plain": tiny_model,
            "other": tiny_sd15.tiny_model(1),
            "lora": lora(1.0),
            "weaker": lora(0.5),
            "elsewhere": lora(1.0, "q"),
            "low rank": low_rank(0),
            "low rank too": low_rank(1),
            "v checkpoint": of_another_prediction(),
            "freeu": patched(FreeU_V2, 1.3, 1.4, 0.9, 0.2),
            "freeu2": patched(FreeU_V2, 1.2, 1.4, 0.9, 0.2),
            "v": patched(ModelSamplingDiscrete, "v_prediction", True),
            "zsnr": patched(ModelSamplingDiscrete, "eps", True),
            "cfg": patched(RescaleCFG, 0.7),
            "cfg2": patched(RescaleCFG, 0.5),
        }
        found = {name: model_identity(model) for name, model in models.items()}
        assert len(set(found.values())) == len(found), found
        assert model_identity(tiny_sd15.tiny_model()) == model_identity(tiny_model.clone()) == found["plain"]
        assert model_identity(lora(1.0)) == found["lora"]
        skipped = tiny_clip.clone()
        skipped.clip_layer(-2)
        clips = [clip_identity(clip) for clip in (tiny_clip, skipped, tiny_sd15.tiny_clip(1))]
        assert len(set(clips)) == 3
        skipped.tokenizer_options = {"min_length": 5}
        clips += [clip_identity(skipped), *(clip_identity(hooked(*s)) for s in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5)))]
        assert len(set(clips)) == 7 and clip_identity(hooked(1.0, 1.0)) == clips[4]
        assert clip_identity(tiny_sd15.tiny_clip()) == clips[0]
        assert vae_identity(tiny_vae) == vae_identity(tiny_sd15.tiny_vae()) != vae_identity(tiny_sd15.tiny_vae(1))


def test_sampling_with_a_patched_clone_leaves_the_identity(tiny_model, tiny_clip, tiny_vae):
    """The host puts patches into the weights that clones share, and takes them out again."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    key = WEIGHT.format("k")
    with torch.inference_mode():
        before = model_identity(tiny_model)
        node = ModelSamplingDiscrete()
        zsnr = (node.execute if hasattr(node, "execute") else node.patch)(tiny_model, "eps", True)[0]
        zsnr.add_patches({key: ("diff", (torch.ones(tiny_model.model_state_dict()[key].shape),))}, 1.0)
        own = model_identity(zsnr)
        evaluation_maker(zsnr, tiny_clip, tiny_vae, None, SMALL)(["a cat"], [0])
        assert model_identity(tiny_model) == before and model_identity(zsnr) == own
        evaluation_maker(tiny_model, tiny_clip, tiny_vae, None, SMALL)(["a cat"], [0])
        assert model_identity(tiny_model) == before and model_identity(zsnr) == own


def test_a_token_is_told_by_what_it_does():
    token = neti()
    assert token_identity(token) == token_identity(neti()) != token_identity(neti(1))
    assert token_identity(plain()) != token_identity(plain(1))
    changed = copy.deepcopy(token)
    with torch.no_grad():
        next(changed.subject.parameters()).view(-1)[3] += 1e-3
    assert token_identity(changed) != token_identity(token)
