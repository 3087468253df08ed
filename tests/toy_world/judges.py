"""What looks at pictures of the toy world: a judge that knows the ground truth's words, and small CLIP- and DINO-like encoders.

The judge says what is in a picture, attribute by attribute. It was trained on true scenes of all kinds, those that the
diffusion model never saw included. CLIP and DINO are transformers' own classes, so that the pack's loaders read them.
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .models import read
from .scenes import CATEGORIES, COLOURS, GEAR, PARTS, PATTERNS, PLACES, SHAPES, TINTS, Scene

SIDE = 64  # pixels that they see
# As the pack's encoders see pictures: mean and deviation of 0..1 pixels, and the side that DINO's SIDE is cut out of.
CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DINO_RESIZE = 73
ATTRIBUTES = {
    "presence": ("no", "yes"),
    "category": CATEGORIES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "pattern_colour": tuple(COLOURS),
    "shape": SHAPES,
    "part": tuple(part for parts in PARTS.values() for part in parts),
    "eyes": (1, 2, 3),
    "gear": GEAR,
    "place": PLACES,
    "tint": tuple(TINTS),
}
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


def heads(width: int, names: tuple[str, ...] = tuple(ATTRIBUTES)) -> nn.ModuleDict:
    """A linear classifier of each of the attributes on features (B, width)."""
    return nn.ModuleDict({name: nn.Linear(width, len(ATTRIBUTES[name])) for name in names})


class Judge(nn.Module):
    """Pixels (B, 3, SIDE, SIDE) in -1..1 to logits by attribute."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers, channels = [nn.PixelUnshuffle(2)], 12
        for i, out in enumerate((width, 2 * width, 4 * width)):
            for j in range(2):
                stride = 2 if i > 0 and j == 0 else 1
                layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 128), nn.ReLU())
        self.heads = heads(128)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def look(self, pictures: Tensor) -> list[dict]:
        """What is in each of the images (B, H, W, 3) in 0..1, as words."""
        small = np.stack([shrink((picture.clamp(0, 1) * 255).round().byte().numpy()) for picture in pictures])
        logits = self(torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1)
        return [
            {name: ATTRIBUTES[name][int(values[i].argmax())] for name, values in logits.items()} for i in range(len(pictures))
        ]


_SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
_WORDS, _START, _END = 49408, 49406, 49407  # of the real tokenizer


def build_clip(words: int = _WORDS, start: int = _START, end: int = _END):
    """transformers' CLIPModel for SIDE pixels, untrained; by default with the real tokenizer's numbers."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        **_SMALL,
        "num_hidden_layers": 2,
        "vocab_size": words,
        "max_position_embeddings": 77,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {**_SMALL, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def build_dino():
    """transformers' ViTModel for SIDE pixels, untrained."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**_SMALL, image_size=SIDE, patch_size=8, layer_norm_eps=1e-12), add_pooling_layer=False)


def load_judge() -> Judge:
    """The judge of the committed weights, float32."""
    judge = Judge()
    judge.load_state_dict(read("judge"))
    return judge.train(False).requires_grad_(False)


def load_clip():
    """CLIP of the committed weights, float32, for the real tokenizer's numbers. Words that no caption has are rows of zeros."""
    name = "text_model.embeddings.token_embedding.weight"
    state = read("clip")
    ids, rows = state.pop("word_ids").long(), state.pop(name)
    table = torch.zeros(_WORDS, rows.shape[1])
    table[ids] = rows
    clip = build_clip()
    clip.load_state_dict({**state, name: table})
    return clip.train(False).requires_grad_(False)


def load_dino():
    """DINO of the committed weights, float32."""
    dino = build_dino()
    dino.load_state_dict(read("dino"))
    return dino.train(False).requires_grad_(False)


def write_encoders(folder: Path, host: str | Path) -> None:
    """The committed CLIP and DINO as folders in transformers' format: `folder`/toy-clip and `folder`/toy-dino.

    host: its root, for its tokenizer's files.
    """
    for name, model, kind, resize, (mean, std) in (
        ("toy-clip", load_clip(), "CLIPImageProcessor", SIDE, CLIP_NORM),
        ("toy-dino", load_dino(), "ViTImageProcessor", DINO_RESIZE, DINO_NORM),
    ):
        model.save_pretrained(folder / name)
        preprocessing = {
            "image_processor_type": kind,
            "do_resize": True,
            "size": {"shortest_edge": resize},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_normalize": True,
            "image_mean": mean,
            "image_std": std,
        }
        (folder / name / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=1))
    for file in (Path(host) / "comfy" / "sd1_tokenizer").iterdir():
        shutil.copy(file, folder / "toy-clip" / file.name)
