"""The host's own encoding and sampling in this process, as its nodes do it."""

import comfy.model_management as mm
import comfy.sample
import torch

import nodes as host_nodes
from test_nodes.tiny_sd15 import NARROW, tiny_clip, tiny_model


def narrow_models():
    """A small MODEL and CLIP, loaded whole, without gradients to their weights."""
    model, clip = tiny_model(seed=1, context=NARROW), tiny_clip(seed=1, width=NARROW)
    model.model.requires_grad_(False)
    clip.cond_stage_model.requires_grad_(False)
    mm.load_models_gpu([model, clip.patcher], force_full_load=True)
    return model, clip


@torch.inference_mode()
def encode(clip, text):
    return host_nodes.CLIPTextEncode().encode(clip, text)[0]


@torch.inference_mode()
def sample(model, positive, negative, cfg=7.0, batch=1, steps=2):
    latents = torch.zeros(batch, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latents, 1)
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "normal", positive, negative, latents, disable_pbar=True, seed=1
    )
