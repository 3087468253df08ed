"""A small Flux made of the host's own classes, with seeded random weights.

A transformer in place of the U-Net, latents of 16 channels, T5 beside CLIP-L, guidance as an input; only the sizes are small.
"""

import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import folder_paths
import torch

from .tiny_sd15 import _EagerOps, build_model, fill_parameters

_WIDTH = 64
_CONFIG = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": _WIDTH,
    "context_in_dim": _WIDTH,
    "hidden_size": _WIDTH,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "axes_dim": [8, 12, 12],
    "theta": 10_000,
    "depth": 1,
    "depth_single_blocks": 1,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
_CLIP_L = {"num_hidden_layers": 2, "hidden_size": _WIDTH, "intermediate_size": _WIDTH, "num_attention_heads": 1}
_T5 = {"d_ff": _WIDTH, "d_kv": 32, "d_model": _WIDTH, "num_heads": 2, "num_layers": 1}


def tiny_model(seed=0):
    patcher = build_model(comfy.supported_models.Flux(dict(_CONFIG)), seed)
    _set_norms(patcher.model.diffusion_model)
    return patcher


def tiny_clip(seed=0):
    target = comfy.supported_models_base.ClipTarget(
        comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip(torch.float32)
    )
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={
            "clip_l_model_config": _CLIP_L,
            "t5xxl_model_config": _T5,
            "custom_operations": _EagerOps,
            "dtype": torch.float32,
            "initial_device": torch.device("cpu"),
        },
        disable_dynamic=True,
    )
    _set_norms(fill_parameters(clip.cond_stage_model, seed))
    return clip


@torch.no_grad()
def _set_norms(module):
    """To ones: those of the host's own kinds start as uninitialised memory, like its other layers."""
    for name, parameter in module.named_parameters():
        if "norm" in name and parameter.ndim == 1 and not name.endswith("bias"):
            parameter.fill_(1.0)
