"""What travels on ComfyUI's MODEL, CLIP and VAE links, for annotations in the rest of nodes/."""

from comfy.model_patcher import ModelPatcher as Model
from comfy.sd import CLIP as Clip
from comfy.sd import VAE as Vae

__all__ = ["Clip", "Model", "Vae"]
