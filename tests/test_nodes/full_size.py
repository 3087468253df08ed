"""SD1.5 of its real sizes with random weights: what a benchmark's time depends on."""

import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from .tiny_sd15 import _EagerOps, fill_parameters, tiny_clip

_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1, "context_dim": 768, "num_heads": 8, "num_head_channels": -1,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False, "use_checkpoint": False,
    "adm_in_channels": None, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
_VAE = {
    "embed_dim": 4, "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip


def full_size_model():
    """MODEL in the dtype that the host would choose on this device."""
    config = comfy.supported_models.SD15(_UNET)
    config.custom_operations = _EagerOps
    config.set_inference_dtype(torch.float16 if mm.should_use_fp16(mm.get_torch_device()) else torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    fill_parameters(model.diffusion_model, 0)
    return comfy.model_patcher.ModelPatcher(
        model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )


def full_size_clip():
    return tiny_clip(1, layers=12, intermediate_size=3072)


def full_size_vae():
    from comfy.ldm.models.autoencoder import AutoencoderKL

    parts = fill_parameters(AutoencoderKL(**_VAE), 2).state_dict()
    return comfy.sd.VAE(sd=parts)
