"""Which models the method takes, and what it says of the others. Over HTTP: test_bad_input.py."""

import comfy.model_sampling
import pytest
import torch

from attractor.nodes.host.checks import clip_problems, model_problems, sampling_problems, vae_problems
from test_nodes import tiny_flux, tiny_sd15, tiny_sdxl, unfit_models

LOAD = "Load a Stable Diffusion 1.5 checkpoint"


@pytest.fixture(scope="module")
def no_clip_and_no_vae():
    return unfit_models.parts_of_a_unet_file()


@pytest.fixture(scope="module")
def flux():
    with torch.inference_mode():
        return tiny_flux.tiny_model(0)


def with_prediction(model, kind):
    """As ModelSamplingDiscrete does it."""
    sampling = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, kind), {})(model.model.model_config)
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched


def test_sd15_is_taken_for_all(tiny_model, tiny_clip, tiny_vae):
    assert model_problems(tiny_model) == model_problems(tiny_model, training=True) == []
    assert clip_problems(tiny_clip) == vae_problems(tiny_vae) == sampling_problems(tiny_model, tiny_clip, tiny_vae) == []


def test_other_families_are_called_by_their_names(flux):
    (problem,) = model_problems(flux, training=True)
    assert problem.startswith("model: this is Flux, and the method is for Stable Diffusion 1.5. " + LOAD)
    with torch.inference_mode():
        (problem,) = model_problems(tiny_sdxl.tiny_model(0))
        assert "this is SDXL: its U-Net has" in problem and "not the 16" in problem
        (problem,) = model_problems(tiny_sd15.tiny_model(kind="pruned"))
    assert "this is a pruned Stable Diffusion 1.5: its U-Net has" in problem and LOAD in problem


def test_what_can_be_sampled_with_but_not_trained_on(tiny_model):
    v = with_prediction(tiny_model, comfy.model_sampling.V_PREDICTION)
    assert model_problems(v) == []
    (problem,) = model_problems(v, training=True)
    assert "it predicts v or the image" in problem and "Use an eps checkpoint" in problem
    assert model_problems(with_prediction(tiny_model, comfy.model_sampling.EPS), training=True) == []
    with torch.inference_mode():
        inpainting, fp8 = unfit_models.inpainting_model(), tiny_sd15.tiny_model(kind="fp8")
    assert model_problems(inpainting) == model_problems(fp8) == []
    (problem,) = model_problems(inpainting, training=True)
    assert "its U-Net takes 9 channels (an inpainting or editing model)" in problem
    (problem,) = model_problems(fp8, training=True)
    assert "its weights are quantised (float8_e4m3fn)" in problem and "weight_dtype 'default'" in problem


def test_text_encoders(no_clip_and_no_vae):
    (problem,) = clip_problems(no_clip_and_no_vae[0])
    assert problem == f"clip: the loaded file contains no text encoder. {LOAD} with Load Checkpoint."
    (problem,) = clip_problems(unfit_models.sd2_clip())
    assert "not the text encoder of Stable Diffusion 1.5 but SD2ClipModel" in problem
    with torch.inference_mode():
        (problem,) = clip_problems(tiny_sdxl.tiny_clip(0))
    assert "but SDXL's (SDXLClipModel)" in problem


def test_vaes(no_clip_and_no_vae):
    (problem,) = vae_problems(no_clip_and_no_vae[1])
    assert problem.startswith("vae: the loaded file contains no VAE.")
    with torch.inference_mode():
        wide, film = tiny_sd15.tiny_vae(channels=16), tiny_sd15.tiny_vae()
    (problem,) = vae_problems(wide)
    assert "it has 16 latent channels, Stable Diffusion 1.5 has 4" in problem
    film.latent_dim = 3
    assert vae_problems(film), "of as many channels, and for films"


def test_what_images_can_be_sampled_with_of_any_family(tiny_model, tiny_clip, tiny_vae, flux, no_clip_and_no_vae):
    no_clip, no_vae = no_clip_and_no_vae
    with torch.inference_mode():
        wide = tiny_sd15.tiny_vae(channels=16)
    assert sampling_problems(flux, tiny_clip, wide) == [], "the text encoder is the host's business there"
    assert sampling_problems(tiny_model, no_clip, tiny_vae) == [
        "clip: the loaded file contains no text encoder. Wire the one that belongs to this model."
    ]
    assert sampling_problems(tiny_model, no_clip, no_vae)[1] == (
        "vae: the loaded file contains no VAE. Wire the one that belongs to this model."
    )
    (problem,) = sampling_problems(tiny_model, tiny_clip, wide)
    assert "it has 16 latent channels, and this model (SD15) has 4. Wire" in problem
    (problem,) = sampling_problems(flux, tiny_clip, tiny_vae)
    assert "it has 4 latent channels, and this model (Flux) has 16" in problem
    sound, film = tiny_model.clone(), tiny_model.clone()
    for model, dimensions in ((sound, 1), (film, 3)):
        latents = type("Latents", (type(tiny_model.get_model_object("latent_format")),), {"latent_dimensions": dimensions})
        model.add_object_patch("latent_format", latents())
    assert "this is SD15, which makes no images" in sampling_problems(sound, tiny_clip, tiny_vae)[0]
    assert sampling_problems(film, tiny_clip, wide) == [], "a film's channels are not compared with an image's"
