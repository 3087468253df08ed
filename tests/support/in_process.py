"""The host's own encoding and sampling in this process, as its nodes do it, and a token applied."""

import comfy.model_management as mm
import comfy.sample
import torch

import nodes as host_nodes
from attractor.nodes.nodes_tokens import ApplyPersonalizedToken
from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
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


def neti_token(seed=1, attractors=0, placeholder="<cat>", super_category="cat", width=768):
    mappers = [NeTIMapper(width, norm_scale=1.0, seed=seed + i).requires_grad_(False) for i in range(1 + attractors)]
    return PersonalizedToken(placeholder, super_category, "neti", width, mappers[0], tuple(mappers[1:]))


@torch.inference_mode()
def apply(model, clip, token=None, **options):
    return tuple(ApplyPersonalizedToken.execute(model, clip, token or neti_token(), **options).result)


def constant(kind):
    """A token of one vector: as a mapper that always gives it, or as an embedding, which the host encodes by itself."""
    vector = torch.randn(768, generator=torch.Generator().manual_seed(7)) * 0.05
    if kind == "textual_inversion":
        return PersonalizedToken("<cat>", "cat", kind, 768, Embedding(vector[None]))
    mapper = NeTIMapper(bypass=False, nested_dropout=0.0, seed=0).requires_grad_(False)
    mapper.output_layer.weight.zero_()
    mapper.output_layer.bias.copy_(vector)
    return PersonalizedToken("<cat>", "cat", kind, 768, mapper)


def relative(a, b):
    """The greatest difference, in standard deviations of `b`."""
    return ((a - b).abs().max() / b.std()).item()
