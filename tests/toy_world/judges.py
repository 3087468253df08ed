"""What looks at pictures of the toy world: a judge that knows the ground truth's words, and small CLIP- and DINO-like encoders.

The judge says what is in a picture, attribute by attribute. It was trained on true scenes of all kinds, those that the
diffusion model never saw included. CLIP and DINO are transformers' own classes, so that the pack's loaders read them.
"""

from dataclasses import fields

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .scenes import CATEGORIES, COLOURS, GEAR, PARTS, PATTERNS, PLACES, SHAPES, TINTS, Scene

SIDE = 64  # pixels that they see
ATTRIBUTES = {
    "presence": ("no", "yes"), "category": CATEGORIES, "colour": tuple(COLOURS), "pattern": PATTERNS,
    "pattern_colour": tuple(COLOURS), "shape": SHAPES, "part": tuple(part for parts in PARTS.values() for part in parts),
    "eyes": (1, 2, 3), "gear": GEAR, "place": PLACES, "tint": tuple(TINTS),
}  # fmt: skip
UNSAID = -100  # class of what a scene does not have; ignored by the losses


def truth(scene: Scene) -> dict[str, int]:
    """The class of every attribute, UNSAID where there is none."""
    values = {"presence": "yes" if scene.subject else "no", "place": scene.setting.place, "tint": scene.setting.tint}
    if scene.subject:
        subject = scene.subject
        values |= {field.name: getattr(subject, field.name) for field in fields(subject)} | {"gear": scene.gear}
        if subject.pattern == "plain" and subject.part == "handles":
            values.pop("pattern_colour")  # nothing shows it
        if subject.category == "vase":
            values.pop("eyes")
    return {name: options.index(values[name]) if name in values else UNSAID for name, options in ATTRIBUTES.items()}


def shrink(picture: np.ndarray) -> np.ndarray:
    """A rendered picture (H, W, 3) uint8 at the judges' size."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


class Judge(nn.Module):
    """Pixels (B, 3, SIDE, SIDE) in -1..1 to logits by attribute."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers, channels = [], 3
        for i, out in enumerate((width, 2 * width, 3 * width, 4 * width)):
            layers += [nn.Conv2d(channels, out, 3, stride=1 if i == 0 else 2, padding=1), nn.GroupNorm(8, out), nn.SiLU(),
                       nn.Conv2d(out, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]  # fmt: skip
            channels = out
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(options)) for name, options in ATTRIBUTES.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def look(self, pictures: Tensor) -> list[dict]:
        """What is in each of the images (B, H, W, 3) in 0..1, as words."""
        small = np.stack([shrink((picture.clamp(0, 1) * 255).round().byte().numpy()) for picture in pictures])
        logits = self(torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1)
        return [{name: ATTRIBUTES[name][int(values[i].argmax())] for name, values in logits.items()}
                for i in range(len(pictures))]


_SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}


def build_clip(vocabulary: int = 49408):
    """transformers' CLIPModel for SIDE pixels, untrained, with the real tokenizer's numbers."""
    from transformers import CLIPConfig, CLIPModel

    text = {**_SMALL, "num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": 77,
            "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    vision = {**_SMALL, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def build_dino():
    """transformers' ViTModel for SIDE pixels, untrained."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**_SMALL, image_size=SIDE, patch_size=8, layer_norm_eps=1e-12), add_pooling_layer=False)
