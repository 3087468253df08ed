"""A small SDXL made of the host's own classes, with seeded random weights.

What tells SDXL apart is real: two text encoders side by side, the pooled text and the sizes in the U-Net's label embedding, no
attention in the first level. The widths are small, so the host would not recognise a checkpoint of it: it is made in memory.
"""

import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import torch

from .tiny_sd15 import _EagerOps, build_model, fill_parameters, sdxl_unet_config

_TEXT, _POOLED = 64, 128  # widths of CLIP-L and CLIP-G; their sum is the context's
_SIZES = 6 * 256  # of the label embedding: height, width, crops and target


def tiny_model(seed=0, width=64):
    config = {**sdxl_unet_config(width), "context_dim": _TEXT + _POOLED, "adm_in_channels": _POOLED + _SIZES}
    return build_model(comfy.supported_models.SDXL(config), seed)


def tiny_clip(seed=0):
    def sizes(width):
        return {"num_hidden_layers": 3, "hidden_size": width, "intermediate_size": width, "num_attention_heads": width // 64}

    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={
            "clip_l_model_config": sizes(_TEXT),
            "clip_g_model_config": sizes(_POOLED),
            "custom_operations": _EagerOps,
            "dtype": torch.float32,
            "initial_device": torch.device("cpu"),
        },
        disable_dynamic=True,
    )
    fill_parameters(clip.cond_stage_model, seed)
    return clip
