"""Checks that the wired models are what the method needs, before any work starts."""

from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor

from .injection import BLOCKS, cross_attention_blocks

_TRAINABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FAMILIES = {"SDXLRefiner": "the SDXL refiner", "SDXL": "SDXL", "SD20": "Stable Diffusion 2", "SD3": "Stable Diffusion 3"}
_SD15 = "Load a Stable Diffusion 1.5 checkpoint with Load Checkpoint."


def model_problems(model: ModelPatcher, training: bool = False) -> list[str]:
    """Why a MODEL cannot take (or train) a token; empty if it can."""
    unet = model.model.diffusion_model
    kind = _family(model)
    if not hasattr(unet, "input_blocks"):
        return [f"model: this is {kind}, and the method is for Stable Diffusion 1.5. {_SD15}"]
    blocks = cross_attention_blocks(unet)
    found = []
    if tuple(blocks) != BLOCKS:
        what = "a pruned Stable Diffusion 1.5" if kind == "SD15" else kind
        found.append(
            f"model: this is {what}: its U-Net has {len(blocks)} cross-attention blocks, not the 16 of Stable Diffusion 1.5. "
            f"{_SD15}"
        )
    if training:
        sampling = model.get_model_object("model_sampling")
        if not _predicts_noise(sampling.calculate_denoised):
            found.append(
                "model: it predicts v or the image, and the losses need a model that predicts the noise. Use an eps "
                "checkpoint, without a ModelSampling node before training."
            )
        channels = unet.input_blocks[0][0].weight.shape[1]
        if channels != 4:
            found.append(f"model: its U-Net takes {channels} channels (an inpainting or editing model). {_SD15}")
        dtypes = {p.dtype for p in unet.parameters()} - set(_TRAINABLE_DTYPES)
        if dtypes:
            names = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
            found.append(
                f"model: its weights are quantised ({names}), so they give no exact gradient. Load the fp16 or "
                "fp32 checkpoint with weight_dtype 'default'."
            )
    return found


def _family(model: ModelPatcher) -> str:
    """The model's name among people, as far as the host tells it."""
    names = [kind.__name__ for kind in type(model.model.model_config).__mro__]
    return next((said for name, said in _FAMILIES.items() if name in names), names[0])


def _predicts_noise(calculate_denoised: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Finds out by trying, not from a class name: eps models subtract sigma times the output from the input."""
    one, two = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    denoised = calculate_denoised(torch.ones(1), one, two)
    return bool(torch.isclose(denoised, torch.ones_like(denoised)).all())


def clip_problems(clip: CLIP | None) -> list[str]:
    """Why a CLIP cannot take a token; empty if it can."""
    if clip is None:
        return [f"clip: the loaded file contains no text encoder. {_SD15}"]
    stage = clip.cond_stage_model
    if getattr(stage, "clip", None) != "clip_l" or not hasattr(getattr(stage, "clip_l", None), "transformer"):
        name = type(stage).__name__
        what = f"SDXL's ({name})" if name.startswith("SDXL") else name
        return [f"clip: this is not the text encoder of Stable Diffusion 1.5 but {what}. {_SD15}"]
    return []


def vae_problems(vae: VAE) -> list[str]:
    """Why a VAE cannot encode for SD1.5; empty if it can."""
    if getattr(vae, "first_stage_model", None) is None:  # what the host makes of a file without a VAE
        return [f"vae: the loaded file contains no VAE. {_SD15}"]
    if vae.latent_channels != 4 or getattr(vae, "latent_dim", 2) != 2:
        return [
            f"vae: it has {vae.latent_channels} latent channels, Stable Diffusion 1.5 has 4. Wire the VAE of the "
            "same checkpoint."
        ]
    return []


def sampling_problems(model: ModelPatcher, clip: CLIP | None, vae: VAE) -> list[str]:
    """Why no images can be sampled with these, of whatever family; empty if nothing speaks against it."""
    remedy = "Wire the one that belongs to this model."
    found = [] if clip is not None else [f"clip: the loaded file contains no text encoder. {remedy}"]
    latents = model.get_model_object("latent_format")
    if latents.latent_dimensions == 1:
        found.append(f"model: this is {_family(model)}, which makes no images. Wire one that does.")
    if getattr(vae, "first_stage_model", None) is None:
        found.append(f"vae: the loaded file contains no VAE. {remedy}")
        return found
    flat = (latents.latent_dimensions, getattr(vae, "latent_dim", 2)) == (2, 2)
    if flat and latents.latent_channels != vae.latent_channels:
        found.append(
            f"vae: it has {vae.latent_channels} latent channels, and this model ({_family(model)}) has "
            f"{latents.latent_channels}. {remedy}"
        )
    return found
