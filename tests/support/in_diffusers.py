"""Run by tests in a process of its own with diffusers: a U-Net with the host's weights predicts as it is and with our files,
and writes Custom Diffusion weights of its own.

in_diffusers.py FOLDER, with config.json, unet.safetensors, inputs.safetensors; the files to load are in custom/ and lora/.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from safetensors.torch import load_file, save_file


@torch.no_grad()
def main(folder: Path) -> None:
    config, inputs = json.loads((folder / "config.json").read_text()), load_file(folder / "inputs.safetensors")

    def fresh() -> UNet2DConditionModel:
        unet = UNet2DConditionModel(**config)
        unet.load_state_dict(load_file(folder / "unet.safetensors"))
        return unet.eval()

    def predict(unet: UNet2DConditionModel) -> torch.Tensor:
        return unet(inputs["latents"], inputs["timestep"], inputs["context"]).sample

    found = {"plain": predict(fresh())}
    custom = fresh()
    pipeline = SimpleNamespace(components={}, hf_device_map=None)  # without one diffusers 0.42 loads to no effect
    weights = {"weight_name": "pytorch_custom_diffusion_weights.safetensors", "_pipeline": pipeline}
    custom.load_attn_procs(folder / "custom", **weights)
    found["custom"] = predict(custom)
    lora = fresh()
    lora.load_lora_adapter(load_kohyas(folder / "lora" / "lora.safetensors"), prefix=None)
    found["lora"] = predict(lora)
    theirs = fresh()
    theirs.set_attn_processor(trained(theirs))
    found["theirs"] = predict(theirs)
    theirs.save_attn_procs(folder / "theirs", safe_serialization=True)
    save_file(found, folder / "predictions.safetensors")


def load_kohyas(path: Path) -> dict:
    """A file in kohya's names, as diffusers' pipelines convert it."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    weights, alphas = _convert_non_diffusers_lora_to_diffusers(load_file(path))
    assert alphas, "they say with which strength it was learnt"
    return {name.removeprefix("unet."): value for name, value in weights.items()}


def trained(unet: UNet2DConditionModel) -> dict:
    """Processors as train_custom_diffusion.py makes them, moved off the model's own values."""
    weights, found = unet.state_dict(), {}
    for name in unet.attn_processors:
        layer = name.removesuffix(".processor")
        key, value = (weights[f"{layer}.to_{part}.weight"] for part in "kv")
        if "attn1" in name:
            found[name] = CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
            continue
        size = {"hidden_size": key.shape[0], "cross_attention_dim": key.shape[1]}
        found[name] = CustomDiffusionAttnProcessor(train_kv=True, train_q_out=False, **size)
        generator = torch.Generator().manual_seed(len(found))
        noise = torch.randn(key.shape, generator=generator) * key.std()
        state = {"to_k_custom_diffusion.weight": key + noise, "to_v_custom_diffusion.weight": value - noise}
        found[name].load_state_dict(state)
    return found


main(Path(sys.argv[1]))
