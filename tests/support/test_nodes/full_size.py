"""SD1.5 of its real sizes with random weights: what a benchmark's time depends on."""

import comfy.model_management as mm
import comfy.sd
import comfy.supported_models
import torch

from .tiny_sd15 import build_model, fill_parameters, sd15_unet_config, tiny_clip

_VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}


def full_size_model():
    """MODEL in the dtype that the host would choose on this device."""
    config = comfy.supported_models.SD15({**sd15_unet_config(320), "channel_mult": [1, 2, 4, 4]})
    return build_model(config, 0, torch.float16 if mm.should_use_fp16(mm.get_torch_device()) else torch.float32)


def full_size_clip():
    return tiny_clip(1, layers=12, intermediate_size=3072)


def full_size_vae():
    from comfy.ldm.models.autoencoder import AutoencoderKL

    parts = fill_parameters(AutoencoderKL(**_VAE), 2).state_dict()
    return comfy.sd.VAE(sd=parts)
