"""Does the toy world's model follow captions whose words it never saw together? The judge says.

    cd tests; COMFYUI_PATH=<ComfyUI> python -m toy_world.check_model [--count 200] [--sheet PATH]

Subjects and settings are of `scenes.UNSEEN_*` pairs alone. Every attribute that a caption names counts. The shares go into
`weights/figures.json`, beside what the judge finds in true pictures of the same scenes; a contact sheet shows the first 24.
"""

import argparse
import os
import random
import sys
import textwrap
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import judges, models, scenes

SEED = 3
SUBJECT, BACKGROUND = ("category", "colour", "pattern", "shape", "gear"), ("place", "tint")
BATCH = 20


def unseen_scenes(count: int) -> list[scenes.Scene]:
    """Scenes of pairs that no training scene has, different from one another in their captions."""
    rng, found = random.Random(SEED), {}
    while len(found) < count:
        subject, setting = scenes.random_subject(rng, unseen=True), scenes.random_setting(rng, unseen=True)
        scene = scenes.Scene(subject, setting, scenes.random_pose(rng), rng.choices(scenes.GEAR, (2, 1, 1))[0])
        found[scenes.full_caption(scene)] = scene
    return list(found.values())


def named(scene: scenes.Scene) -> dict[str, str]:
    """The attributes that the full caption of a scene names."""
    subject, setting = scene.subject, scene.setting
    words = {
        "category": subject.category,
        "colour": subject.colour,
        "pattern": subject.pattern,
        "shape": subject.shape,
        "place": setting.place,
        "tint": setting.tint,
    }
    return words if scene.gear == "none" else {**words, "gear": scene.gear}


def sample(model, clip, vae, captions: list[str], steps: int, guidance: float) -> Tensor:
    """IMAGE (n, SIZE, SIZE, 3) by the host's stock sampler: euler on the normal schedule."""
    import comfy.sample

    def conditioning(texts):
        parts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
        return [[torch.cat([part[0][0] for part in parts]), {}]]

    pictures, side = [], scenes.SIZE // 8
    for start in range(0, len(captions), BATCH):
        texts = captions[start : start + BATCH]
        latents = torch.zeros(len(texts), 4, side, side)
        noise = comfy.sample.prepare_noise(latents, SEED + start)
        found = comfy.sample.sample(
            model,
            noise,
            steps,
            guidance,
            "euler",
            "normal",
            conditioning(texts),
            conditioning([""]),
            latents,
            disable_pbar=True,
        )
        pictures.append(vae.decode(found).clamp(0, 1))
        print(f"{start + len(texts)} of {len(captions)}", flush=True)
    return torch.cat(pictures)


def shares(found: list[scenes.Scene], seen: list[dict]) -> dict[str, float]:
    """Share of the named attributes that the judge sees: each, those of the subject, those of the background, and all."""
    right = {name: [] for name in (*SUBJECT, *BACKGROUND)}
    for scene, words in zip(found, seen, strict=True):
        for name, word in named(scene).items():
            right[name].append(words[name] == word)
    groups = {name: [name] for name in right} | {"subject": SUBJECT, "background": BACKGROUND, "all": tuple(right)}
    counted = {group: [one for name in names for one in right[name]] for group, names in groups.items()}
    return {group: round(sum(values) / max(len(values), 1), 4) for group, values in counted.items()}


def contact_sheet(found: list[scenes.Scene], pictures: Tensor, seen: list[dict], columns: int = 6) -> Image.Image:
    """Pictures with their captions under them, and in red what the judge sees there instead."""
    side, gap, text_height = 192, 12, 74
    rows = -(-len(found) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + text_height) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, (scene, picture, words) in enumerate(zip(found, pictures, seen, strict=True)):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (side + text_height)
        image = Image.fromarray((picture * 255).round().byte().numpy())
        sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        lines = textwrap.wrap(scenes.full_caption(scene).removeprefix("a photo of "), 29)
        draw.text((x, y + side + 3), "\n".join(lines), "black", font)
        wrong = [f"{name}: {words[name]}" for name, word in named(scene).items() if words[name] != word]
        if wrong:
            more = " ..." if wrong[1:] else ""
            draw.text((x, y + side + 4 + 16 * len(lines)), f"judge sees {wrong[0]}{more}", "red", font)
    return sheet


def check(model, clip, vae, judge, count: int, steps: int, guidance: float) -> tuple[dict, Image.Image]:
    """The figures, and the contact sheet of the first 24."""
    started, found = time.monotonic(), unseen_scenes(count)
    pictures = sample(model, clip, vae, [scenes.full_caption(scene) for scene in found], steps, guidance)
    seen = judge.look(pictures)
    true = torch.stack([torch.from_numpy(scenes.render(scene)[0]) / 255 for scene in found])
    # What the autoencoder loses no model behind it can show.
    restored = torch.cat([vae.decode(vae.encode(part)) for part in true.split(BATCH)])
    figures = {
        "command": f"python -m toy_world.check_model --count {count} --steps {steps} --cfg {guidance:g}",
        "seed": SEED,
        "count": count,
        "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
        "found": shares(found, seen),
        "found_in_true_pictures": shares(found, judge.look(true)),
        "found_in_true_pictures_through_the_autoencoder": shares(found, judge.look(restored)),
    }
    return figures, contact_sheet(found[:24], pictures[:24], seen[:24])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--sheet", type=Path, default=Path(__file__).parent / "contact_sheet.jpg")
    arguments = parser.parse_args()
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args as host_args

    host_args.cpu = True  # before anything imports the host's model management
    figures, sheet = check(
        models.load_model(),
        models.load_clip(),
        models.load_vae(),
        judges.load_judge(),
        arguments.count,
        arguments.steps,
        arguments.cfg,
    )
    sheet.save(arguments.sheet, quality=88)
    models.note_figures(model=figures)
    for name in figures:
        print(name, figures[name])


if __name__ == "__main__":
    main()
