"""What comes before a training's first step, against what comes before an image; `dev.py bench start [--size S] [--photos 5]`.

A checkpoint file is loaded as Load Checkpoint does. An image: its models on the device and one sampling step. A training:
photos through the VAE, private copies of U-Net and text encoder, the plan of the memory, and the first step with its fixed
batch. The graph's own models stay loaded beside the copies, as in ComfyUI. Peak memory is a process's own, its libraries
included (CPU), or the GPU's. Further rows: the parts of a training's start, and the pack's share of ComfyUI's own start.
"""

import os
import sys
from pathlib import Path

from sides import ROOT, Clock, measure, options, start_host, write


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--photos", type=int, default=5)
    arguments = parser.parse_args()
    start_host(arguments.cpu)
    import comfy.model_management as mm
    import torch

    from start_cost import start

    base = ROOT / ".dev" / "bench" / "start"
    base.mkdir(parents=True, exist_ok=True)
    file = checkpoint(base, arguments.size)
    parts: dict[str, list[float]] = {}
    pixels = 512 if arguments.size == "full" else 128
    sides = {
        "a training, to the end of its first step": lambda: start_training(file, arguments.photos, pixels, parts),
        "an image, to the end of its first step": lambda: start_image(file, pixels),
    }
    with torch.inference_mode(False):
        rows = measure("from the checkpoint's file on", sides, arguments)
    rows += [
        {"what": "of the training's start", "side": part, f"median {Clock().unit}": round(sorted(found)[len(found) // 2], 3)}
        for part, found in parts.items()
    ]
    best = min((start(os.environ["COMFYUI_PATH"], base) for _ in range(1 + arguments.repeats)), key=lambda run: run["host"])
    alone, pack = best["host"], best["seconds"]
    row = {"what": "ComfyUI's start", "side": "ComfyUI alone", "median CPU s": round(alone, 3)}
    rows += [row, {**row, "side": "the pack", "median CPU s": round(pack, 3), "ratio": round(pack / alone, 3)}]
    facts = {"device": mm.get_torch_device_name(mm.get_torch_device()), "file GB": round(file.stat().st_size / 1e9, 2)}
    write(f"start_{arguments.size}", rows, {**facts, "photos": arguments.photos})
    return 0


def checkpoint(folder: Path, size: str) -> Path:
    """A checkpoint file in half precision, written if it is not there."""
    import comfy.sd

    from small_checkpoint import cached_small_checkpoint
    from test_nodes import full_size

    if size == "small":
        return cached_small_checkpoint(os.environ["COMFYUI_PATH"], ROOT / ".dev" / "cache")
    file = folder / f"{size}.safetensors"
    if not file.exists():
        model, clip, vae = full_size.full_size_model(), full_size.full_size_clip(), full_size.full_size_vae()
        for part in (model.model.diffusion_model, clip.cond_stage_model, vae.first_stage_model):
            part.half()
        partial = file.with_suffix(".partial")
        comfy.sd.save_checkpoint(str(partial), model, clip, vae)
        partial.replace(file)
    return file


def loaded(file: Path) -> tuple:
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(file), output_vae=True, output_clip=True)[:3]


def start_image(file: Path, pixels: int) -> None:
    import comfy.sample
    import torch

    with torch.inference_mode():
        model, clip, vae = loaded(file)
        prompt, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a cat", ""))
        latents = torch.zeros(1, 4, pixels // 8, pixels // 8)
        noise = comfy.sample.prepare_noise(latents, 0)
        images = comfy.sample.sample(
            model, noise, 1, 7.0, "euler", "normal", prompt, negative, latents, disable_pbar=True, seed=0
        )
        vae.decode(images)


def start_training(file: Path, count: int, pixels: int, parts: dict[str, list[float]]) -> None:
    import torch

    from attractor.nodes.host.memory import plan_memory
    from attractor.nodes.host.private_models import private_models
    from attractor.trainer.build import build_trainer
    from attractor.trainer.settings import TrainingSettings
    from attractor.trainer.views import cache_photos

    clock, settings = Clock(), TrainingSettings(placeholder="<x>", super_category="cat", batch_size=2)

    def timed(part: str, start: float) -> float:
        now = clock.now()
        parts.setdefault(part, []).append(now - start)
        return now

    now = clock.now()
    with torch.inference_mode():
        model, clip, vae = loaded(file)
    now = timed("load the checkpoint", now)
    images, masks = torch.rand(count, pixels, pixels, 3), torch.rand(count, pixels, pixels)

    def encode(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            latents = vae.encode(image)
        return model.model.process_latent_in(latents.clone())

    with torch.no_grad():
        photos = cache_photos(list(images), list(masks), encode, settings)
    now = timed("photos to latents", now)
    with private_models(model, clip) as (unet, text):
        now = timed("private copies of U-Net and text encoder", now)
        trainer = build_trainer(settings, photos, text, unet)
        plan_memory(trainer, unet, text)
        now = timed("trainer, and plan of the memory", now)
        trainer.step()
        timed("first step, with the fixed batch", now)


if __name__ == "__main__":
    sys.exit(main())
