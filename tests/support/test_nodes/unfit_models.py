"""Small models that the pack must refuse, beside those that `tiny_sd15` makes."""

import comfy.sd
import comfy.supported_models_base
import folder_paths
import torch
from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer

from .tiny_sd15 import _EagerOps, fill_parameters, tiny_model


def inpainting_model(seed=0, width=64):
    """A MODEL whose U-Net also takes a mask and the masked image, as the inpainting SD1.5 does."""
    model = tiny_model(seed, width)
    inputs = model.model.diffusion_model.input_blocks[0]
    inputs[0] = fill_parameters(_EagerOps.Conv2d(9, width, 3, padding=1), seed)
    return model


def sd2_clip(layers=3):
    """A CLIP: SD2's text encoder, 1024 wide, `layers` deep. Its weights are left at zero."""
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(SD2Tokenizer, SD2ClipModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={
            "clip_h_model_config": {"num_hidden_layers": layers, "intermediate_size": 64},
            "custom_operations": _EagerOps,
            "dtype": torch.float32,
            "initial_device": torch.device("cpu"),
        },
        disable_dynamic=True,
    )
    for parameter in clip.cond_stage_model.parameters():
        torch.nn.init.zeros_(parameter)
    return clip


def parts_of_a_unet_file():
    """CLIP and VAE as the stock checkpoint loader gives them for a file that holds neither."""
    return None, comfy.sd.VAE(sd={})
