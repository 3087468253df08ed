"""Train what looks at the toy world's pictures: the judge, and the CLIP- and DINO-like encoders.

    cd tests; COMFYUI_PATH=<ComfyUI> python -m toy_world.train_judges views soft judge clip dino write evaluate [--work FOLDER]

`soft` needs the autoencoder of `toy_world.train` in the same folder. Every stage can be run again alone.
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

from . import judges, models, scenes, train

ROOT = Path(__file__).resolve().parents[2]
SEED = 1
SUBJECTS, VIEWS = 6000, 4
HELD_OUT = 300  # subjects that none of the three is trained on
SOFT = 600  # subjects whose views there are as the autoencoder gives them, too
NAMED = ("category", "colour", "pattern", "shape", "gear", "place", "tint")  # what captions say


def family(index: int) -> list[scenes.Scene]:
    """VIEWS scenes of one subject, of all kinds: two share their setting, the others have one each."""
    rng = random.Random(f"{SEED} {index}")
    subject = scenes.random_subject(rng, unseen=rng.random() < 0.35)
    settings = [scenes.random_setting(rng, unseen=rng.random() < 0.2) for _ in range(VIEWS)]
    settings[1] = replace(settings[0], seed=rng.randrange(2**31))
    found = [
        scenes.Scene(subject, setting, scenes.random_pose(rng), rng.choices(scenes.GEAR, (2, 1, 1))[0]) for setting in settings
    ]
    if index % 8 == 0:
        found[3] = scenes.Scene(None, settings[3])
    return found


def _views(index: int) -> np.ndarray:
    return np.stack([judges.shrink(scenes.render(scene)[0]) for scene in family(index)])


def render_views(work: Path, processes: int) -> None:
    """`views.npy`: (SUBJECTS, VIEWS, SIDE, SIDE, 3) uint8."""
    with Pool(processes) as pool:
        np.save(work / "views.npy", np.stack(pool.map(_views, range(SUBJECTS), chunksize=50)))


@torch.no_grad()
def soften_views(work: Path) -> None:
    """`soft.npy`: (SOFT, VIEWS, SIDE, SIDE, 3) uint8, views out of the autoencoder; those of training with errors in their
    latents, as a sampler leaves them: softer than rendered ones, with blots."""
    autoencoder, found = train.load_autoencoder(work), []
    torch.manual_seed(SEED)
    for index in range(SOFT):
        pictures = np.stack([scenes.render(scene)[0] for scene in family(index)])
        with torch.autocast("cpu", torch.bfloat16):
            latents = autoencoder.encode(train.to_pixels(pictures))
            if index >= HELD_OUT:
                errors = torch.randn_like(latents) + 2 * F.interpolate(torch.randn(VIEWS, 4, 4, 4), 16, mode="bilinear")
                latents = latents + errors * latents.float().std() * torch.rand(VIEWS, 1, 1, 1) * 0.12
            restored = autoencoder.decode(latents).float()
        small = (restored.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        found.append(np.stack([judges.shrink(picture) for picture in small]))
    np.save(work / "soft.npy", np.stack(found))


def pixels(views: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in -1..1; with `rng` mirrored, shifted by up to 3 pixels, blurred, noisy and relit.

    Generated pictures are softer than rendered ones; what looks at them must not mind.
    """
    x = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is None:
        return x
    return torch.cat([_changed(part, rng) for part in x.split(16)])  # each part in its own way


def _changed(x: Tensor, rng: np.random.Generator) -> Tensor:
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")
    top, left = rng.integers(0, 7, 2)
    x = x[:, :, top : top + judges.SIDE, left : left + judges.SIDE]
    if rng.random() < 0.5:
        x = x.flip(-1)
    if rng.random() < 0.4:
        small = int(rng.integers(32, judges.SIDE))
        x = F.interpolate(F.interpolate(x, small, mode="area"), judges.SIDE, mode="bilinear")
    scale = torch.from_numpy(rng.uniform(0.9, 1.1, (len(x), 3, 1, 1)).astype(np.float32))
    return x * scale + float(rng.uniform(0, 0.06)) * torch.randn_like(x)


def normalised(x: Tensor, norm) -> Tensor:
    """Pixels in -1..1 as an encoder wants them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in norm)
    return (x / 2 + 0.5 - mean) / std


def for_dino(x: Tensor) -> Tensor:
    """Pixels in -1..1, enlarged and cut as the pack's preprocessing of DINO does, normalised."""
    x = F.interpolate(x, judges.DINO_RESIZE, mode="bicubic")
    edge = (judges.DINO_RESIZE - judges.SIDE) // 2
    return normalised(x[:, :, edge : edge + judges.SIDE, edge : edge + judges.SIDE], judges.DINO_NORM)


class Data:
    """Views, some of them soft, and the truth of each."""

    def __init__(self, work: Path):
        self.views = np.load(work / "views.npy")
        self.soft = np.load(work / "soft.npy")
        self.families = [family(i) for i in range(SUBJECTS)]
        truths = [[judges.truth(scene) for scene in scenes_of] for scenes_of in self.families]
        self.truth = {name: torch.tensor([[one[name] for one in row] for row in truths]) for name in judges.ATTRIBUTES}

    def draw(self, i: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Changed pixels of the views v (B,) of the subjects i (B,); of two soft ones there are one is taken."""
        chosen = self.views[i, v]
        soft = (i < SOFT) & (rng.random(len(i)) < 0.5)
        chosen[soft] = self.soft[i[soft], v[soft]]
        return pixels(chosen, rng)

    def subjects(self, rng: np.random.Generator, count: int, soft: float) -> np.ndarray:
        """Different subjects of training, (count,); that share of them from those with soft views."""
        some = rng.choice(np.arange(HELD_OUT, SOFT), round(count * soft), replace=False)
        rest = rng.choice(np.arange(SOFT, SUBJECTS), count - len(some), replace=False)
        return rng.permutation(np.concatenate([some, rest]))

    def word_loss(self, logits: dict[str, Tensor], i: np.ndarray, v: np.ndarray) -> Tensor:
        """Cross entropy of the attributes, summed."""
        return sum(
            F.cross_entropy(values.float(), self.truth[name][i, v], ignore_index=judges.UNSAID)
            for name, values in logits.items()
        )


def optimise(work: Path, name: str, model: nn.Module, loss_of, steps: int, rate: float, helpers=()) -> None:
    """Train `model`, and `helpers` that are not kept, on `loss_of(rng)`; write the state, and what it took."""
    matrices = [p for m in (model, *helpers) for p in m.parameters() if p.ndim > 1]
    rest = [p for m in (model, *helpers) for p in m.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.03}, {"params": rest, "weight_decay": 0.0}], rate, betas=(0.9, 0.98)
    )
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
            seconds = round(time.monotonic() - started)
            print(json.dumps({"stage": name, "step": step, "loss": round(loss.item(), 4), "seconds": seconds}), flush=True)
    torch.save({"model": model.train(False).state_dict(), "steps": steps, "seconds": seconds}, work / f"{name}.pt")


def train_judge(work: Path, steps: int = 2400) -> None:
    torch.manual_seed(SEED)
    data, model = Data(work), judges.Judge().to(memory_format=torch.channels_last)

    def loss_of(rng):
        i, v = data.subjects(rng, 64, 0.3), rng.integers(0, VIEWS, 64)
        x = data.draw(i, v, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        return data.word_loss(logits, i, v)

    optimise(work, "judge", model, loss_of, steps, 2e-3)


def words_of(tokenizer, families) -> list[int]:
    """Ids of all words that captions of the families have, with the start and the end."""
    rng = random.Random(SEED)
    captions = {scenes.caption(scene, rng) for found in families for scene in found}
    return sorted({number for text in captions for number in tokenizer(text)["input_ids"]})


def train_clip(work: Path, steps: int = 1400) -> None:
    """Pictures and captions that belong together; with a helper that names the attributes, which is quicker."""
    from transformers import CLIPTokenizer

    torch.manual_seed(SEED)
    data = Data(work)
    tokenizer = CLIPTokenizer.from_pretrained(Path(os.environ["COMFYUI_PATH"]) / "comfy" / "sd1_tokenizer")
    words = words_of(tokenizer, data.families)
    row_of = {number: row for row, number in enumerate(words)}
    model = judges.build_clip(len(words), row_of[tokenizer.bos_token_id], row_of[tokenizer.eos_token_id])
    model.set_attn_implementation("eager")  # bfloat16 on a CPU is quicker so
    helper, known = judges.heads(96, NAMED), {}

    def ids(text):
        if text not in known:
            numbers = [row_of[number] for number in tokenizer(text)["input_ids"]]
            known[text] = numbers + [numbers[-1]] * (20 - len(numbers))
        return known[text]

    def loss_of(rng):
        i, v = data.subjects(rng, 72, 0.2), rng.integers(0, VIEWS, 72)
        saying = random.Random(int(rng.integers(2**31)))
        captions = [scenes.caption(data.families[a][b], saying) for a, b in zip(i, v, strict=True)]
        tokens = torch.tensor([ids(caption) for caption in captions])
        x = normalised(data.draw(i, v, rng), judges.CLIP_NORM)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(input_ids=tokens, pixel_values=x)
        logits = out.logits_per_image.float()
        # Two pictures may have the same caption: both are right.
        same = torch.tensor([[a == b for b in captions] for a in captions]).float()
        target = same / same.sum(1, keepdim=True)
        named = {name: head(out.image_embeds.float() * 10) for name, head in helper.items()}
        both = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return both + 0.1 * data.word_loss(named, i, v)

    optimise(work, "clip", model, loss_of, steps, 1.5e-3, [helper])
    saved = torch.load(work / "clip.pt", weights_only=True)
    torch.save({**saved, "words": torch.tensor(words, dtype=torch.int32)}, work / "clip.pt")


def train_dino(work: Path, steps: int = 1200) -> None:
    """Features that agree between views of one subject, most where the setting is the same too."""
    torch.manual_seed(SEED)
    data, model = Data(work), judges.build_dino()
    model.set_attn_implementation("eager")
    helper = judges.heads(128)

    def loss_of(rng):
        i = data.subjects(rng, 48, 0.2)
        i = i[i % 8 != 0]
        # One pair in three shares its setting, so that background counts for a third, as it does for DINO's features.
        pair = (0, 1) if rng.random() < 0.33 else tuple(rng.choice([0, 2, 3], 2, replace=False))
        v = np.repeat(pair, len(i))
        i = np.tile(i, 2)
        with torch.autocast("cpu", torch.bfloat16):
            features = model(for_dino(data.draw(i, v, rng))).last_hidden_state[:, 0]
        one, other = F.normalize(features.float(), dim=-1).chunk(2)
        logits = one @ other.T / 0.1
        target = torch.arange(len(one))
        both = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return both + 0.1 * data.word_loss({name: head(features.float()) for name, head in helper.items()}, i, v)

    optimise(work, "dino", model, loss_of, steps, 1.5e-3, [helper])


def write_weights(work: Path) -> None:
    """What was trained in half precision, with what made it, into `weights/`."""
    for path in (found for name in ("judge", "clip", "dino") if (found := work / f"{name}.pt").exists()):
        name, saved = path.stem, torch.load(path, weights_only=True)
        state = saved["model"] | ({"word_ids": saved["words"]} if name == "clip" else {})
        made = {
            "command": f"python -m toy_world.train_judges views soft {name} write",
            "seed": str(SEED),
            "steps": str(saved["steps"]),
            "seconds": str(saved["seconds"]),
        }
        print(name, models.write(name, state, made), "MiB", flush=True)


@torch.no_grad()
def evaluate(work: Path) -> None:
    """What the committed judges make of subjects that they were not trained on, into `weights/figures.json`."""
    data, held_out = Data(work), slice(0, HELD_OUT)
    judge, shape = judges.load_judge(), (-1, judges.SIDE, judges.SIDE, 3)
    accuracy = {}
    for kind, views in (("true", data.views[held_out]), ("through_autoencoder", data.soft[held_out])):
        logits = {name: [] for name in judges.ATTRIBUTES}
        views = views.reshape(shape)
        for part in (views[start : start + 100] for start in range(0, len(views), 100)):
            for name, values in judge(pixels(part)).items():
                logits[name].append(values.argmax(1))
        accuracy[kind] = {}
        for name, parts in logits.items():
            target = data.truth[name][held_out].flatten()
            known = target != judges.UNSAID
            accuracy[kind][name] = round((torch.cat(parts) == target)[known].float().mean().item(), 4)
    figures = {"judge": {"pictures": HELD_OUT * VIEWS, **accuracy}, "clip": _retrieval(data), "dino": _sameness(data)}
    print(json.dumps(figures, indent=1))
    models.note_figures(judges={"command": "python -m toy_world.train_judges evaluate", "torch": torch.__version__, **figures})


def _retrieval(data: Data, count: int = 100) -> dict:
    """How often a picture's own full caption is CLIP's first of `count`, and the other way round."""
    from transformers import CLIPTokenizer

    found = {}
    for i in range(HELD_OUT):
        found.setdefault(scenes.full_caption(data.families[i][0]), i)
    captions, rows = list(found)[:count], list(found.values())[:count]
    tokenizer = CLIPTokenizer.from_pretrained(Path(os.environ["COMFYUI_PATH"]) / "comfy" / "sd1_tokenizer")
    tokens = tokenizer(captions, padding=True, return_tensors="pt")["input_ids"]
    x = normalised(pixels(data.views[rows, 0]), judges.CLIP_NORM)
    logits = judges.load_clip()(input_ids=tokens, pixel_values=x).logits_per_image
    best = torch.arange(len(captions))
    ranks = (logits > logits.diag()[:, None]).sum(1)
    return {
        "captions": len(captions),
        "caption_of_picture": round((logits.argmax(1) == best).float().mean().item(), 4),
        "caption_among_first_5": round((ranks < 5).float().mean().item(), 4),
        "picture_of_caption": round((logits.argmax(0) == best).float().mean().item(), 4),
    }


def _sameness(data: Data) -> dict:
    """Mean cosines of DINO's features between a subject's picture and others."""
    dino = judges.load_dino()

    def features(pictures):
        return F.normalize(dino(for_dino(pixels(pictures))).last_hidden_state[:, 0], dim=-1)

    here = [data.families[i][0] for i in range(HELD_OUT)]
    swapped = [
        replace(scene, setting=replace(other.setting, seed=i), pose=scenes.random_pose(random.Random(i)))
        for i, (scene, other) in enumerate(zip(here, here[1:] + here[:1], strict=True))
    ]
    one, same = features(data.views[:HELD_OUT, 0]), features(data.views[:HELD_OUT, 2])
    other_here = features(np.stack([judges.shrink(scenes.render(scene)[0]) for scene in swapped])).roll(1, 0)
    cosines = {
        "same_subject_other_setting": (one * same).sum(1),
        "other_subject_same_setting": (one * other_here).sum(1),
        "other_subject_other_setting": (one * same.roll(1, 0)).sum(1),
    }
    means = {name: round(values.mean().item(), 4) for name, values in cosines.items()}
    first, second, _ = cosines.values()
    return {"subjects": HELD_OUT, **means, "subject_over_setting": round((first > second).float().mean().item(), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=["views", "soft", "judge", "clip", "dino", "write", "evaluate"])
    parser.add_argument("--work", type=Path, default=ROOT / ".dev" / "toy_world")
    parser.add_argument("--processes", type=int, default=2, help="that render")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages:
        if stage == "views":
            render_views(arguments.work, arguments.processes)
        else:
            {
                "soft": soften_views,
                "judge": train_judge,
                "clip": train_clip,
                "dino": train_dino,
                "write": write_weights,
                "evaluate": evaluate,
            }[stage](arguments.work)


if __name__ == "__main__":
    main()
