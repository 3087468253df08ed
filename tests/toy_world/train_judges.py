"""Train what looks at the toy world's pictures: the judge, and the CLIP- and DINO-like encoders.

    cd tests; COMFYUI_PATH=<ComfyUI> python -m toy_world.train_judges views judge clip dino [--work FOLDER]
"""

import argparse
import json
import os
import random
import time
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import judges, scenes

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
SUBJECTS, VIEWS = 6000, 4
HELD_OUT = 300  # subjects that none of the three is trained on


def family(index: int) -> list[scenes.Scene]:
    """VIEWS scenes of one subject, of all kinds: two share their setting, the others have one each."""
    rng = random.Random(f"{SEED} {index}")
    subject = scenes.random_subject(rng, unseen=rng.random() < 0.35)
    settings = [scenes.random_setting(rng, unseen=rng.random() < 0.2) for _ in range(VIEWS)]
    settings[1] = replace(settings[0], seed=rng.randrange(2**31))
    found = [scenes.Scene(subject, setting, scenes.random_pose(rng), rng.choices(scenes.GEAR, (2, 1, 1))[0])
             for setting in settings]
    if index % 8 == 0:
        found[3] = scenes.Scene(None, settings[3])
    return found


def _views(index: int) -> np.ndarray:
    return np.stack([judges.shrink(scenes.render(scene)[0]) for scene in family(index)])


def render_views(work: Path) -> None:
    """`views.npy`: (SUBJECTS, VIEWS, SIDE, SIDE, 3) uint8."""
    with Pool(2) as pool:
        np.save(work / "views.npy", np.stack(pool.map(_views, range(SUBJECTS), chunksize=50)))


def pixels(views: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in -1..1; with `rng` shifted by up to 3 pixels, blurred, noisy and relit.

    Generated pictures are softer than rendered ones; what looks at them must not mind.
    """
    x = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is None:
        return x
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")
    top, left = rng.integers(0, 7, 2)
    x = x[:, :, top : top + judges.SIDE, left : left + judges.SIDE]
    if rng.random() < 0.5:
        small = int(rng.integers(32, judges.SIDE))
        x = F.interpolate(F.interpolate(x, small, mode="area"), judges.SIDE, mode="bilinear")
    scale = torch.from_numpy(rng.uniform(0.9, 1.1, (len(x), 3, 1, 1)).astype(np.float32))
    return x * scale + float(rng.uniform(0, 0.06)) * torch.randn_like(x)


def optimise(work: Path, name: str, model: nn.Module, loss_of, steps: int, rate: float = 2e-3) -> nn.Module:
    """Train `model` on `loss_of(rng)`, write its state, and log what it took."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02, betas=(0.9, 0.98))
    rng, started = np.random.default_rng(SEED), time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 100, 1) * 0.5 * (1 + np.cos(np.pi * step / steps))
        loss = loss_of(rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            line = json.dumps({"stage": name, "step": step, "loss": round(loss.item(), 4),
                               "seconds": round(time.monotonic() - started)})
            print(line, flush=True)
    torch.save(model.train(False).state_dict(), work / f"{name}.pt")
    return model


def train_judge(work: Path, views: np.ndarray, steps: int = 2500) -> None:
    torch.manual_seed(SEED)
    model = judges.Judge()
    labels = {name: torch.tensor([[judges.truth(scene)[name] for scene in family(i)] for i in range(SUBJECTS)])
              for name in judges.ATTRIBUTES}

    def loss_of(rng):
        i, v = rng.integers(HELD_OUT, SUBJECTS, 64), rng.integers(0, VIEWS, 64)
        logits = model(pixels(views[i, v], rng))
        return sum(F.cross_entropy(logits[name], labels[name][i, v], ignore_index=judges.UNSAID) for name in logits)

    optimise(work, "judge", model, loss_of, steps)
    with torch.no_grad():
        logits = model(pixels(views[:HELD_OUT].reshape(-1, judges.SIDE, judges.SIDE, 3)))
    for name, values in logits.items():
        target = labels[name][:HELD_OUT].flatten()
        known = target != judges.UNSAID
        print(name, round((values.argmax(1) == target)[known].float().mean().item(), 4), flush=True)


def train_clip(work: Path, views: np.ndarray, steps: int = 3000) -> None:
    from transformers import CLIPTokenizer

    torch.manual_seed(SEED)
    model = judges.build_clip()
    tokenizer = CLIPTokenizer.from_pretrained(Path(os.environ["COMFYUI_PATH"]) / "comfy" / "sd1_tokenizer")
    families = [family(i) for i in range(SUBJECTS)]
    known = {}

    def ids(text):
        if text not in known:
            known[text] = tokenizer(text, padding="max_length", max_length=24, truncation=True)["input_ids"]
        return known[text]

    def loss_of(rng):
        i, v = rng.choice(np.arange(HELD_OUT, SUBJECTS), 96, replace=False), rng.integers(0, VIEWS, 96)
        words = random.Random(int(rng.integers(2**31)))
        captions = [scenes.caption(families[a][b], words) for a, b in zip(i, v, strict=True)]
        tokens = torch.tensor([ids(caption) for caption in captions])
        out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=pixels(views[i, v], rng))
        logits = out.logits_per_image
        # Two pictures may have the same caption: both are right.
        same = torch.tensor([[a == b for b in captions] for a in captions]).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    optimise(work, "clip", model, loss_of, steps, 1e-3)


def train_dino(work: Path, views: np.ndarray, steps: int = 3000) -> None:
    """Features that agree between views of one subject, most where the setting is the same too."""
    torch.manual_seed(SEED)
    model = judges.build_dino()
    projection = nn.Linear(128, 128, bias=False)

    def loss_of(rng):
        i = rng.choice(np.arange(HELD_OUT, SUBJECTS), 64, replace=False)
        i = i[i % 8 != 0]
        # One pair in three shares its setting, so that background counts for a third, as it does for DINO's features.
        pair = (0, 1) if rng.random() < 0.33 else tuple(rng.choice([0, 2, 3], 2, replace=False))
        features = [F.normalize(projection(model(pixels(views[i, v], rng)).last_hidden_state[:, 0]), dim=-1) for v in pair]
        logits = features[0] @ features[1].T / 0.1
        target = torch.arange(len(i))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    torch.nn.init.eye_(projection.weight)
    optimise(work, "dino", model, loss_of, steps, 1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=["views", "judge", "clip", "dino"])
    parser.add_argument("--work", type=Path, default=ROOT / ".dev" / "toy_world")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages:
        if stage == "views":
            render_views(arguments.work)
        else:
            {"judge": train_judge, "clip": train_clip, "dino": train_dino}[stage](
                arguments.work, np.load(arguments.work / "views.npy", mmap_mode="r"))


if __name__ == "__main__":
    main()
