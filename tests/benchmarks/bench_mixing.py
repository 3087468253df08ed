"""What mixing two tokens mixes, on the toy world: `dev.py bench mixing [--images 6] [--steps 120]`.

Three monsters that differ in shape and colour are learnt (NeTI+), every two of them are mixed by layers, by denoising time and
by blending, and the judge says whose shape and whose colour the images show. Prints a Markdown table; `sheet.jpg` in
`.dev/bench/mixing` has one pair and one noise. What has been trained is kept there and not trained again.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
BASE = ROOT / ".dev" / "bench" / "mixing"
SUBJECTS = (0, 2, 4)  # a green round, a purple tall and a red wide monster
WORDS = ("shape", "colour")
MIXES = {  # what geometry has -> geometry_layers, mixing_starts_at, blend
    "all layers": ("0-15", 1000, 1.0),
    "no layer": ("", 1000, 1.0),
    **{f"layers {layers}": (layers, 1000, 1.0) for layers in ("0-5", "4-8", "6-8", "9-15", "7-15")},
    **{f"layers {layers}": (layers, 1000, 1.0) for layers in ("6-15", "0-3, 9-15", "0-8", "0-6")},
    **{f"times from {time}": ("", time, 1.0) for time in (900, 800, 700, 600, 500, 400, 200)},
    "4-8, times from 700": ("4-8", 700, 1.0),
    "half of everything": ("", 1000, 0.5),
}


def images_of(comfy, keys, mix, count, sampling):
    """PIL images of a mix of two runs' tokens, on the same noise for every mix."""
    from comfy_client import Graph

    graph = Graph()
    loader = graph.add("TestToyWorld")
    one, other = (graph.add("AttractorLoadNeTIMapper", file=f"{key}/{key}.safetensors")[0] for key in keys)
    layers, starts_at, blend = mix
    token = graph.add(
        "AttractorMixTokens",
        geometry=one,
        appearance=other,
        geometry_layers=layers,
        mixing_starts_at=starts_at,
        blend=blend,
        placeholder="<mix>",
    )
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=token[0])
    positive, negative = (graph.add("CLIPTextEncode", clip=applied[1], text=text)[0] for text in ("a photo of a <mix>", ""))
    latent = graph.add("EmptyLatentImage", width=sampling["width"], height=sampling["height"], batch_size=count)
    sampled = graph.add(
        "KSampler",
        model=applied[0],
        positive=positive,
        negative=negative,
        latent_image=latent[0],
        seed=1,
        steps=sampling["steps"],
        cfg=sampling["cfg"],
        sampler_name=sampling["sampler"],
        scheduler=sampling["scheduler"],
        denoise=1.0,
    )
    decoded = graph.add("VAEDecode", samples=sampled[0], vae=loader[2])
    saved = graph.add("PreviewImage", images=decoded[0])
    return comfy.images(comfy.run(graph, timeout=3600), saved)


def table(seen, pairs):
    """Markdown: for each mix, how many of a hundred images show a word of geometry's subject, and of appearance's."""
    head = " | ".join(f"{word} of {whose}" for word in WORDS for whose in ("geometry", "appearance"))
    lines = [f"| geometry has | {head} |", "|---" * (1 + 2 * len(WORDS)) + "|"]
    for name, looks in seen.items():
        shares = []
        for word in WORDS:
            for whose in (0, 1):
                wanted = [getattr(pair[whose].subject, word) for pair in pairs]
                hits = [look[word] == word_wanted for word_wanted, own in zip(wanted, looks, strict=True) for look in own]
                shares.append(f"{100 * sum(hits) / len(hits):.0f} %")
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def sheet(pictures, path, columns=5, side=128):
    """Tiles with their names, smaller than a report's."""
    from PIL import Image, ImageDraw, ImageFont

    font, rows = ImageFont.load_default(12), -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (side + 6), rows * (side + 22)), "white")
    for number, (name, picture) in enumerate(pictures.items()):
        x, y = number % columns * (side + 6), number // columns * (side + 22)
        page.paste(picture.convert("RGB").resize((side, side)), (x, y + 18))
        ImageDraw.Draw(page).text((x, y), name, "black", font)
    page.save(path, quality=70, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6, help="of each pair and mix (6)")
    parser.add_argument("--steps", type=int, default=120, help="of each training (120)")
    arguments = parser.parse_args()

    import torch

    from comfy_client import ComfyClient
    from toy_world.bench import driver, grid, runs
    from toy_world.judges import load_judge
    from toy_world.toy_subjects import toy_subject

    torch.set_num_threads(1)
    judge, toys = load_judge(), [toy_subject(index) for index in SUBJECTS]
    plan = runs.Plan(arguments.steps)
    (configuration,) = grid.chosen(["neti+"])
    wanted = [runs.Run(configuration, toy, 0, plan) for toy in toys]
    folder = BASE / plan.hash
    runs.write_world(folder, toys, os.environ["COMFYUI_PATH"])
    pairs = [(one, other) for one in range(len(toys)) for other in range(len(toys)) if one != other]
    seen, tiles = {}, {}
    with driver.make_server(os.environ["COMFYUI_PATH"], folder, 0) as server:
        comfy = ComfyClient(server.url)
        for run in wanted:
            comfy.run(runs.training_graph(run), timeout=7200)
            print(f"trained {run}", file=sys.stderr, flush=True)
        for name, mix in MIXES.items():
            seen[name] = []
            for one, other in pairs:
                pictures = images_of(comfy, (wanted[one].key, wanted[other].key), mix, arguments.images, grid.EVALUATION)
                tiles.setdefault(name, pictures[0])
                seen[name].append(judge.look(torch.stack([runs.pixels(picture) for picture in pictures])))
            print(f"mixed {name}", file=sys.stderr, flush=True)
    sheet(tiles, BASE / "sheet.jpg")
    print(table(seen, [(toys[one], toys[other]) for one, other in pairs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
