"""torch.compile for norms and feed-forwards of a training's U-Net, where much of the work is element by element."""

import logging

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn

from .memory import one_row
from .progress import Interrupted
from .text_encoder import HostTextEncoder
from .unet import HostUNet

MOST_SHAPES = 64  # that a kind of module is compiled for: SD1.5 has some twenty, and torch by itself gives up after 8


def compile_parts(unet: HostUNet, text: HostTextEncoder, latent_size: tuple[int, int]) -> str:
    """Compile what is worth it, which a prediction for one photo makes happen, forward and backward.

    Returns:
        why torch cannot compile here, and then all is as it was; empty if all is well.

    Raises:
        Interrupted: the user cancelled.
    """
    parts = [part for module in unet.model.diffusion_model.modules() for part in _parts(module)]
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    for part in parts:
        part.compile()
    try:
        predicted, context = one_row(unet, text, latent_size)
        torch.autograd.grad(predicted.float().sum(), context)
    except Interrupted:
        raise
    except Exception as error:  # a compiler is missing or old, or torch or Triton has a fault: of any kind
        for part in parts:
            part._compiled_call_impl = None
        logging.warning("torch.compile of the U-Net failed, training goes on without", exc_info=error)
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return ""


def _parts(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, BasicTransformerBlock):
        return [module.norm1, module.norm2, module.norm3, module.ff]
    if isinstance(module, ResBlock):
        return [module.in_layers[0], module.out_layers[0]]  # not the convolutions: torch 2.11 fails on their gradients
    return []
