"""The host's own encoding and sampling in this process, as its nodes do it."""

import comfy.sample
import torch

import nodes as host_nodes


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
