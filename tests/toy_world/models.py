"""The toy world's diffusion model, made of the host's own classes: SD1.5's kinds of layers, all 16 cross-attention blocks.

Needs the host's root on `sys.path`. `build_*` give untrained modules, `load_*` those of the committed weights.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .autoencoder import Autoencoder

WEIGHTS = Path(__file__).parent / "weights"
WIDTH = 96  # of the text encoder, and so of the contexts; NeTI reads a prompt 16 times, so its cost counts
TEXT_SEED = 1
_LAYERS = 2
_TEXT = {"hidden_size": WIDTH, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH}


def build_model(seed: int = 0):
    """MODEL with seeded untrained weights, float32: a U-Net of 64 to 128 channels with two heads."""
    import comfy.supported_models

    from test_nodes import tiny_sd15

    config = {**tiny_sd15.sd15_unet_config(64), "channel_mult": [1, 1, 2, 1], "context_dim": WIDTH}
    config = comfy.supported_models.SD15(config)
    config.unet_config["num_heads"] = 2  # SD15 sets 8, and heads of 8 channels cost a CPU four times as much
    return tiny_sd15.build_model(config, seed)


def build_clip(seed: int = 0):
    """CLIP with seeded untrained weights, float32: the real tokenizer, a small text encoder."""
    from test_nodes.tiny_sd15 import tiny_clip

    clip = tiny_clip(seed, _LAYERS, **_TEXT)
    clip.tokenizer.clip_l.embedding_size = WIDTH  # of the stock embeddings that fit
    return clip


def build_vae(autoencoder: Autoencoder):
    """VAE: the host's own object around our autoencoder."""
    import comfy.model_patcher
    import comfy.sd

    from test_nodes.tiny_sd15 import make_taesd

    vae = comfy.sd.VAE(sd=make_taesd(0).state_dict(), dtype=torch.float32)
    vae.first_stage_model = autoencoder.train(False).requires_grad_(False)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model, load_device=vae.patcher.load_device, offload_device=vae.patcher.offload_device
    )
    return vae


def word_rows(clip) -> torch.nn.Parameter:
    return clip.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight


def load_model():
    """MODEL of the committed weights, float32."""
    model = build_model()
    model.model.diffusion_model.load_state_dict(read("unet"))
    return model


@torch.no_grad()
def load_clip():
    """CLIP of the committed weights, float32. Words that no caption has keep the rows that the seed gave them."""
    clip, state = build_clip(TEXT_SEED), read("text")
    ids, rows = state.pop("word_ids").long(), state.pop("word_rows")
    text = clip.cond_stage_model.clip_l.transformer.text_model
    word_rows(clip)[ids] = rows
    missing, unexpected = text.load_state_dict(state, strict=False)
    assert missing == ["embeddings.token_embedding.weight"] and not unexpected, (missing, unexpected)
    return clip


def load_vae():
    """VAE of the committed weights, float32."""
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(read("autoencoder"))
    return build_vae(autoencoder)


def note_figures(**figures: dict) -> None:
    """Set these entries of `weights/figures.json`; the others stay."""
    path = WEIGHTS / "figures.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **figures}, indent=1) + "\n")


def write(name: str, state: dict[str, torch.Tensor], made: dict[str, str]) -> float:
    """A file of `weights/`, float32 in half precision, with what made it; its size in MiB."""
    WEIGHTS.mkdir(exist_ok=True)
    path = WEIGHTS / f"{name}.safetensors"
    small = {key: (value.half() if value.dtype == torch.float32 else value).contiguous() for key, value in state.items()}
    save_file(small, path, metadata={**made, "torch": torch.__version__})
    return round(path.stat().st_size / 2**20, 2)


def read(name: str) -> dict[str, torch.Tensor]:
    """Tensors of a file of `weights/`, those in half precision as float32.

    Raises:
        FileNotFoundError: there is no such file; says how to make it.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"The toy world's weights are missing: {path}. Train them (two hours on a CPU): cd tests; "
            "COMFYUI_PATH=<ComfyUI> python -m toy_world.train pictures autoencoder diffusion write"
        )
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in load_file(path).items()}
