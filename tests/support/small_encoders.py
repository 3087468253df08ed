"""Write small CLIP, DINO and DINOv2 models, with seeded random weights, in the format that users' folders have.

    python tests/small_encoders.py <models folder>

evaluation/clip-tiny     CLIP of 32 pixels with a tokenizer of single letters and five words
evaluation/dino-tiny     a ViT of 32 pixels, like facebook/dino-vits16 without a pooler
evaluation/dinov2-tiny   DINOv2 of 28 pixels
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

from model_cache import cached_models

WORDS = ("photo", "dog", "mug", "beach", "grass")
VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32}


def _alphabet() -> list[str]:
    """The 256 characters that stand for bytes in CLIP's vocabulary, in its order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def write_tokenizer(folder: Path) -> int:
    """vocab.json and merges.txt as OpenAI's, with few merges. Returns the size of the vocabulary."""
    letters = _alphabet()
    vocabulary, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = ["".join(parts[:2])]
            vocabulary.append(parts[0])
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges), ""]), encoding="utf-8")
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    settings = {**marks, "model_max_length": 24, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def write_clip(folder: Path, seed: int = 0) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder)
    torch.manual_seed(seed)
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": size,
        "max_position_embeddings": 24,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**VISION, "patch_size": 8}, projection_dim=40))
    _enliven(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}")


def write_dino(folder: Path, seed: int = 1) -> None:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    model = ViTModel(ViTConfig(**VISION, patch_size=8, layer_norm_eps=1e-12), add_pooling_layer=False)
    _enliven(model)
    model.save_pretrained(folder)


def write_dinov2(folder: Path, seed: int = 2) -> None:
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    model = Dinov2Model(Dinov2Config(**{**VISION, "image_size": 28}, patch_size=14, mlp_ratio=2))
    _enliven(model)
    model.save_pretrained(folder)


def _enliven(model) -> None:
    """Weights of a size that lets pictures and words show in the features; those of a fresh model hardly do."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.reset_parameters()
        for name, value in model.named_parameters():
            if "embed" in name or "token" in name:
                torch.nn.init.normal_(value, std=0.5)
            elif any(part in name for part in ("q_proj", "k_proj", "query", "key")):
                value.mul_(5)  # look at some patches more than at others, or all pictures are one grey average
            elif "weight" in name and "norm" not in name and "projection" not in name:
                value.mul_(2)
            elif "norm" in name or "lambda" in name:
                value.add_(0.2 * torch.randn_like(value))


def write_all(models_folder: Path) -> None:
    write_clip(models_folder / "evaluation" / "clip-tiny")
    write_dino(models_folder / "evaluation" / "dino-tiny")
    write_dinov2(models_folder / "evaluation" / "dinov2-tiny")


def cached_small_encoders(cache: Path) -> Path:
    """A models folder with all of them inside the folder `cache`; written first, by a process of its own, if not there."""
    writer = version("transformers")
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return cached_models(cache, f"small-encoders-{writer}", key, __file__)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
