"""Write a small SD1.5 checkpoint, with seeded random weights, that ComfyUI's stock loader recognises.

    COMFYUI_PATH=<ComfyUI> python tests/small_checkpoint.py small.safetensors [--pruned]

The width at the top (320), the context (768) and the text encoder (CLIP-L) are SD1.5's, because that is what
the host detects it by; the deeper levels are kept narrow and the autoencoder is a TAESD.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path


def write_small_checkpoint(path, seed=0, pruned=False):
    """Write the checkpoint to `path` in fp16. `pruned` leaves 10 of the 16 cross-attention blocks, as
    distilled SD1.5 models do. The host's root must be on `sys.path`."""
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init
    from comfy.sd1_clip import SD1ClipModel
    from safetensors.torch import save_file

    from test_nodes.tiny_sd15 import fill_parameters, make_taesd, sd15_unet_config

    unet = UNetModel(**sd15_unet_config(320, pruned), dtype=torch.float16, operations=disable_weight_init)
    text = SD1ClipModel(dtype=torch.float16, model_options={"custom_operations": disable_weight_init})
    parts = {
        "model.diffusion_model.": fill_parameters(unet, seed),
        "cond_stage_model.transformer.": fill_parameters(text.clip_l.transformer, seed + 1),
        "first_stage_model.": make_taesd(seed + 2).half(),
    }
    state = {
        prefix + name: tensor.contiguous()
        for prefix, module in parts.items()
        for name, tensor in module.state_dict().items()
        if not name.startswith("text_projection")  # SD1.5 checkpoints have none
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(state, partial)
    os.replace(partial, path)  # nobody ever sees half a checkpoint


def cached_small_checkpoint(host_root, cache, pruned=False):
    """The path of a small checkpoint in the folder `cache`, written first if it is not there.

    The file's name has a hash of the code that writes it; files of older code are removed. Written by a
    process of its own, so that the caller's ComfyUI options stay as they are.
    """
    here = Path(__file__).resolve()
    sources = (here, here.parent / "test_nodes" / "tiny_sd15.py")
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    kind = "pruned" if pruned else "small"
    path = Path(cache) / f"{kind}-sd15-{key}.safetensors"
    if not path.exists():
        command = [sys.executable, str(here), str(path)] + ["--pruned"] * pruned
        subprocess.run(command, check=True, env={**os.environ, "COMFYUI_PATH": str(host_root)})
        for stale in path.parent.glob(f"{kind}-sd15-*.safetensors"):
            if stale != path:
                stale.unlink()
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pruned", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args as host_args

    host_args.cpu = True  # before anything imports the host's model management
    write_small_checkpoint(arguments.path, arguments.seed, arguments.pruned)


if __name__ == "__main__":
    main()
