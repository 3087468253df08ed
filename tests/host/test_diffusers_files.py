"""Files of Custom Diffusion and LoRA, to and from diffusers: what one writes the other reads, and predicts the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from safetensors.torch import load_file, save_file

from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet
from attractor.nodes.host.weights import with_weights
from attractor.trainer.build import build_trainer
from attractor.trainer.custom_diffusion import WEIGHTS_FILE, save_for_diffusers
from attractor.trainer.dataset import Photos
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.token_file import load_token, save_lora
from test_nodes.tiny_sd15 import NARROW, tiny_clip, tiny_model

DIFFUSERS = os.environ.get("ATTRACTOR_DIFFUSERS")
pytestmark = [pytest.mark.one_host, pytest.mark.skipif(not DIFFUSERS, reason="ATTRACTOR_DIFFUSERS: no folder with diffusers")]
SCRIPT = Path(__file__).resolve().parents[1] / "support" / "in_diffusers.py"
TIME = 500


@torch.no_grad()
def prediction(model, context):
    """The noise at TIME in ones, with the model loaded."""
    mm.load_models_gpu([model], force_full_load=True)
    return HostUNet(model).predict_noise(torch.ones(1, 4, 8, 8), torch.tensor([TIME]), context[None], context[None])


def trained(model, clip, method):
    latents = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    photos = Photos.of(latents, torch.ones(1, 2, 1, 8, 8))
    settings = TrainingSettings(method=method, batch_size=2, prior="none", learning_rate=1e-2, placeholder="<x>", rank=2)
    trainer = build_trainer(settings, photos, HostTextEncoder(clip), HostUNet(model))
    for _ in range(3):
        trainer.step()
    return trainer


def test_what_one_writes_the_other_reads(tmp_path):
    model, clip = tiny_model(seed=1, context=NARROW), tiny_clip(seed=1, width=NARROW)
    mm.load_models_gpu([model, clip.patcher], force_full_load=True)
    custom, lora = trained(model, clip, "custom_diffusion"), trained(model, clip, "dreambooth_lora")
    save_for_diffusers(custom.tuned.parameters, custom.token(), tmp_path / "custom")
    save_lora(lora.token().weights, tmp_path / "lora" / "lora.safetensors")
    config, weights = model.model.model_config.unet_config, model.model.diffusion_model.state_dict()
    names = comfy.utils.unet_to_diffusers(config)
    save_file({theirs: weights[ours] for theirs, ours in names.items() if ours in weights}, tmp_path / "unet.safetensors")
    widths = [config["model_channels"]] * 4
    shape = {"block_out_channels": widths, "cross_attention_dim": NARROW, "attention_head_dim": config["num_heads"]}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    context = torch.randn(1, 77, NARROW, generator=torch.Generator().manual_seed(2))
    sigma = model.model.model_sampling.sigmas[TIME]
    latents = torch.ones(1, 4, 8, 8) / (sigma**2 + 1).sqrt()  # the host's noisy latents are scaled by sigma, theirs by alpha
    inputs = {"latents": latents, "timestep": torch.tensor(TIME), "context": context}
    save_file(inputs, tmp_path / "inputs.safetensors")
    environment = {**os.environ, "PYTHONPATH": DIFFUSERS, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(tmp_path / "predictions.safetensors")
    ours = {
        "plain": prediction(model, context),
        "custom": prediction(with_weights(model, custom.token().weights), context),
        "lora": prediction(with_weights(model, lora.token().weights), context),
    }
    save_file({"<new1>": torch.ones(NARROW)}, tmp_path / "theirs" / "<new1>.safetensors")
    read = load_token(tmp_path / "theirs" / WEIGHTS_FILE)
    assert read.placeholder == "<new1>"
    ours["theirs"] = prediction(with_weights(model, read.weights), context)
    for name, expected in theirs.items():
        assert torch.allclose(ours[name], expected, atol=1e-4), name
        assert name == "plain" or not torch.allclose(expected, theirs["plain"], atol=1e-3), f"{name} changes something"
