"""Train the toy world's models from nothing.

    cd tests; COMFYUI_PATH=<ComfyUI> python -m toy_world.train pictures autoencoder diffusion [--steps N] [--work FOLDER]

Stages run in the order given; each leaves its result in the work folder and can be run again alone. `diffusion` goes on
from its last saved state, so it can be stopped at any time.
"""

import argparse
import copy
import json
import math
import os
import random
import sys
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import models, scenes
from .autoencoder import Autoencoder, reconstruction_loss

ROOT = Path(__file__).resolve().parents[2]
SEED = 0
PICTURES = 24000
EMPTY = 0.08  # share of pictures without a subject
CAPTION_DROPOUT = 0.1
MAX_SNR = 5.0
EMA = 0.999
BATCH = 16
RATE = 8e-4


def log(work: Path, stage: str, **values) -> None:
    line = json.dumps({"stage": stage, **values})
    print(line, flush=True)
    with open(work / "log.jsonl", "a") as file:
        file.write(line + "\n")


def training_scenes() -> list[scenes.Scene]:
    rng = random.Random(SEED)
    return [scenes.random_scene(rng, EMPTY) for _ in range(PICTURES)]


def _picture(scene):
    return scenes.render(scene)[0]


def render_pictures(work: Path) -> None:
    """`pictures.npy`: (PICTURES, SIZE, SIZE, 3) uint8."""
    array = np.lib.format.open_memmap(work / "pictures.npy", "w+", np.uint8, (PICTURES, scenes.SIZE, scenes.SIZE, 3))
    with Pool(2) as pool:
        for i, picture in enumerate(pool.imap(_picture, training_scenes(), chunksize=64)):
            array[i] = picture
    array.flush()


def to_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def schedule(step: int, steps: int, warm_up: int, decay: int) -> float:
    """Learning rate factor: up, level, and down at the end, so that more steps can be added to a stopped run."""
    return max(0.0, min(1.0, (step + 1) / warm_up, (steps - step) / max(decay, 1)))


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average, faster at first."""
    decay = min(decay, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


class Resumable:
    """A training's state in `<name>.pt`, saved every 250 steps and found again at the start."""

    def __init__(self, work: Path, name: str, model: nn.Module, average: nn.Module, optimizer):
        self.work, self.name, self.path = work, name, work / f"{name}.pt"
        self.parts = {"model": model, "average": average, "optimizer": optimizer}
        self.done, self.before, self.losses, self.started = 0, 0.0, [], time.monotonic()
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            for key, part in self.parts.items():
                part.load_state_dict(saved[key])
            self.done, self.before = saved["step"], saved["seconds"]

    def step(self, step: int, steps: int, loss: Tensor, rate: float, decay: float) -> None:
        """Take the optimiser's step number `step`."""
        model, optimizer = self.parts["model"], self.parts["optimizer"]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average_weights(self.parts["average"], model, decay, step)
        self.losses.append(loss.item())
        if (step + 1) % 100 == 0:
            log(
                self.work,
                self.name,
                step=step + 1,
                loss=round(sum(self.losses) / len(self.losses), 4),
                seconds=round(self.seconds),
            )
            self.losses.clear()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            self.save(step + 1)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def save(self, step: int) -> None:
        partial = self.path.with_suffix(".partial")
        torch.save(
            {**{key: part.state_dict() for key, part in self.parts.items()}, "step": step, "seconds": self.seconds}, partial
        )
        partial.rename(self.path)


# -- autoencoder ------------------------------------------------------------------------------------------


def train_autoencoder(work: Path, steps: int, decay: int) -> None:
    """`autoencoder.pt`; goes on from its last saved state, as the diffusion model does."""
    torch.manual_seed(SEED)
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    model = Autoencoder().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1.2e-3, weight_decay=1e-3, betas=(0.9, 0.99))
    run = Resumable(work, "autoencoder", model, average, optimizer)
    for step in range(run.done, steps):
        torch.manual_seed(SEED * 10**6 + step)
        index = np.sort(np.random.default_rng([SEED, step]).integers(0, len(pictures), 16))
        pixels = to_pixels(pictures[index]).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            raw = model.encoder(pixels)
            # A little noise on the latents makes the decoder forgive a sampler's small errors.
            restored = model.decoder(raw + 0.03 * torch.randn_like(raw))
        loss = reconstruction_loss(restored.float(), pixels) + 1e-2 * (raw.float() ** 2 - 1).clamp(min=0).mean()
        run.step(step, steps, loss, 1.2e-3 * schedule(step, steps, 100, decay), 0.995)
    with torch.no_grad():
        # Latents of deviation 1 after the host's SD15 scale of 0.18215.
        raw = torch.cat([average.encoder(to_pixels(pictures[i : i + 64])) for i in range(0, min(len(pictures), 1024), 64)])
        average.latent_mean.copy_(raw.mean((0, 2, 3)))
        average.latent_scale.copy_(1 / (raw - raw.mean((0, 2, 3), keepdim=True)).std() / 0.18215)
    run.save(steps)
    encode_pictures(work)


def load_autoencoder(work: Path) -> Autoencoder:
    model = Autoencoder()
    model.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True)["average"])
    return model.train(False).requires_grad_(False)


@torch.no_grad()
def encode_pictures(work: Path) -> None:
    """`latents.pt`: (PICTURES, 4, SIZE/8, SIZE/8) in the model's space (after the host's scale), float16."""
    pictures, model = np.load(work / "pictures.npy", mmap_mode="r"), load_autoencoder(work)
    parts = [model.encode(to_pixels(pictures[i : i + 64])) for i in range(0, len(pictures), 64)]
    torch.save((torch.cat(parts) * 0.18215).half(), work / "latents.pt")


# -- diffusion ----------------------------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *_, **__) -> Tensor:
    """Attention written out: torch's fused one takes half as long again for bfloat16 on a CPU without matrix units."""
    batch, _, width = q.shape
    q, k, v = (x.view(batch, -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
    scores = (q * (width // heads) ** -0.5) @ k.mT
    if mask is not None:
        scores = scores + mask
    mixed = scores.float().softmax(-1).to(v.dtype) @ v
    return mixed.transpose(1, 2).reshape(batch, -1, width)


class Diffusion(nn.Module):
    """U-Net and text encoder of the host, trained together.

    Of the text encoder's rows for words only those in captions are trained: `words` (N, width), of the ids `word_ids`.
    """

    def __init__(self, captions: list[str]):
        super().__init__()
        model, clip = models.build_model(SEED), models.build_clip(models.TEXT_SEED)
        self.tokenizer, self._ids = clip.tokenizer, {}
        self.unet = model.model.diffusion_model.requires_grad_(True)
        self.text = clip.cond_stage_model.clip_l.transformer.text_model.requires_grad_(True)
        known = sorted({token for caption in ("", *captions) for token in self.ids(caption)})
        self.register_buffer("word_ids", torch.tensor(known))
        self.words = nn.Parameter(self.text.embeddings.token_embedding.weight[known].detach().clone())
        del self.text.embeddings.token_embedding
        self.register_buffer("sigmas", model.model.model_sampling.sigmas.clone(), persistent=False)
        for layer in self.unet.modules():  # residual branches start at nothing, as in SD
            if hasattr(layer, "out_layers"):
                nn.init.zeros_(layer.out_layers[-1].weight)
        nn.init.zeros_(self.unet.out[-1].weight)

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            (chunk,) = self.tokenizer.tokenize_with_weights(text)["l"]
            self._ids[text] = [token for token, _ in chunk]
        return self._ids[text]

    def contexts(self, captions: list[str]) -> Tensor:
        """(B, 77, width). The host's own forward adds in place, which autograd cannot follow."""
        ids = torch.tensor([self.ids(caption) for caption in captions])
        rows = torch.searchsorted(self.word_ids, ids)
        hidden = F.embedding(rows, self.words) + self.text.embeddings.position_embedding.weight
        causal = torch.full((77, 77), -math.inf).triu_(1)
        for layer in self.text.encoder.layers:
            hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), causal, attention)
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return self.text.final_layer_norm(hidden)

    def loss(self, latents: Tensor, captions: list[str]) -> Tensor:
        """Error of the picture predicted, (B,), times the signal-to-noise ratio between 1 and MAX_SNR (arXiv 2303.09556).

        Only where there is much more noise than picture is it the caption alone that tells the colours of whole areas. The
        plain loss hardly weighs these levels and takes very long to learn colours; here they are drawn more often, too.
        """
        timesteps = (1000 * torch.rand(len(latents)).sqrt()).long()
        sigma = self.sigmas[timesteps][:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = (latents + noise * sigma) / (sigma**2 + 1) ** 0.5
        options = {"optimized_attention_override": lambda _, *inputs, **named: attention(*inputs, **named)}
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.unet(noisy, timesteps, self.contexts(captions), transformer_options=options)
        sigma = sigma.flatten()
        weight = (sigma**-2).clamp(1, MAX_SNR) * sigma**2  # sigma turns an error of the noise into one of the picture
        return F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3)) * weight


def new_diffusion(worlds: list[scenes.Scene]) -> Diffusion:
    rng = random.Random(SEED)
    return Diffusion([scenes.caption(world, rng) for world in worlds[:5000]])


def train_diffusion(work: Path, steps: int, decay: int) -> None:
    latents = torch.load(work / "latents.pt", weights_only=True)
    worlds = training_scenes()
    model = new_diffusion(worlds)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    run = Resumable(work, "diffusion", model, average, optimizer)
    for step in range(run.done, steps):
        torch.manual_seed(SEED * 10**6 + step)
        rng = random.Random(f"{SEED} {step}")
        index = [rng.randrange(len(worlds)) for _ in range(BATCH)]
        captions = ["" if rng.random() < CAPTION_DROPOUT else scenes.caption(worlds[i], rng) for i in index]
        loss = model.loss(latents[index].float(), captions).mean()
        run.step(step, steps, loss, RATE * schedule(step, steps, 300, decay), EMA)


def write_weights(work: Path) -> None:
    """The averaged weights in half precision, with what made them, into `weights/`."""
    saved = torch.load(work / "diffusion.pt", weights_only=True)
    model = new_diffusion(training_scenes())
    model.load_state_dict(saved["average"])
    text = model.text.state_dict() | {"word_ids": model.word_ids.int(), "word_rows": model.words.detach()}
    made = {
        "command": "python -m toy_world.train pictures autoencoder diffusion write",
        "seed": str(SEED),
        "steps": str(saved["step"]),
        "seconds": str(round(saved["seconds"])),
    }
    parts = {"unet": model.unet.state_dict(), "text": text, "autoencoder": load_autoencoder(work).state_dict()}
    for name, state in parts.items():
        log(work, "write", file=name, megabytes=models.write(name, state, made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=["pictures", "autoencoder", "diffusion", "write"])
    parser.add_argument("--steps", type=int, default=5400, help="of the diffusion model")
    parser.add_argument("--decay", type=int, default=1400, help="its last steps, in which the learning rate falls to 0")
    parser.add_argument("--autoencoder-steps", type=int, default=4400)
    parser.add_argument("--work", type=Path, default=ROOT / ".dev" / "toy_world")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args as host_args

    host_args.cpu = True  # before anything imports the host's model management
    for stage in arguments.stages:
        if stage == "pictures":
            render_pictures(arguments.work)
        elif stage == "autoencoder":
            train_autoencoder(arguments.work, arguments.autoencoder_steps, arguments.autoencoder_steps // 4)
        elif stage == "diffusion":
            train_diffusion(arguments.work, arguments.steps, arguments.decay)
        else:
            write_weights(arguments.work)


if __name__ == "__main__":
    main()
