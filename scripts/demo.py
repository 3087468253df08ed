"""The main job, end to end, through a real server's HTTP API; `dev.py demo` runs this.

Trains a token on photographs of scikit-image's cat, with hand-drawn masks, on a small random SD1.5 checkpoint;
applies it in a stock prompt and samples. Leaves token, chart and pictures in `output/`. The checkpoint has random
weights: the loss falls, but the samples are textures. It shows that everything works, not what it looks like.
"""

import os
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "output"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "server")]

NAME = "demo-cat"
SCENES = ("a photo of a {}", "a photo of a {} on the beach", "a painting of a {} in the snow")


def main() -> int:
    import torch
    from photographs import cat_photos

    from comfy_client import ComfyClient, Graph
    from comfy_server import ComfyServer
    from small_checkpoint import cached_small_checkpoint

    host = os.environ["COMFYUI_PATH"]
    options = [] if torch.accelerator.is_available() else ["--cpu"]
    OUTPUT.mkdir(exist_ok=True)
    for old in (*OUTPUT.glob(f"{NAME}-*.png"), *OUTPUT.glob(f"neti/{NAME}-*/*")):  # of an earlier demo
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    checkpoint = cached_small_checkpoint(host, ROOT / ".dev" / "cache")
    packs = {"attractor": ROOT}
    with ComfyServer(host, ROOT / ".dev" / "demo", packs, [checkpoint],
                     options=[*options, "--output-directory", str(OUTPUT)]) as server:
        comfy = ComfyClient(server.url)
        for method in ("textual_inversion+", "neti+"):
            print(f"training {method} on {len(cat_photos())} photographs ...", flush=True)
            started = time.monotonic()
            graph, saved = demo_graph(Graph(), comfy, checkpoint.name, method)
            with comfy.listen() as listener:
                entry = comfy.run(graph, timeout=3000)
            lines = [message["text"] for message in listener.of_type("text")]
            print(f"  {lines[-1]}\n  {time.monotonic() - started:.0f} s in all", flush=True)
            pictures = [comfy.images(entry, node)[0] for node in saved]
            chart = OUTPUT / "neti" / run_name(method) / "chart.png"
            sheet = contact_sheet(cat_photos(), chart, pictures)
            sheet.save(OUTPUT / f"{run_name(method)}.png")
    for path in sorted(OUTPUT.rglob(f"{NAME}*")):
        print(path.relative_to(ROOT))
    return 0


def run_name(method: str) -> str:
    return f"{NAME}-{method.replace('+', '-plus')}"


def demo_graph(graph, comfy, checkpoint: str, method: str):
    """Train, apply, and sample each scene; the graph and its SaveImage nodes."""
    from graphs import add_photos, add_sampling, add_training, encode

    name = run_name(method)
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
    images, masks = add_photos(graph, comfy, count=5)
    # A NeTI step costs 16 passes of the text encoder: few steps on a CPU.
    quick = {"steps": 6, "prompts_per_step": "one"} if method == "neti+" else {"steps": 40}
    trained = add_training(graph, loader, images, masks, name=name, method=method, batch_size=2, fixed_loss_every=2,
                           sample_every=quick["steps"] // 2, sample_steps=4, **quick)
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=trained[0])
    negative = encode(graph, applied[1], "")
    saved = []
    for scene in SCENES:
        positive = encode(graph, applied[1], scene.format("<my-cat>"))
        sampled = add_sampling(graph, applied[0], positive, negative, steps=6)
        decoded = graph.add("VAEDecode", samples=sampled[0], vae=loader[2])
        saved.append(graph.add("SaveImage", images=decoded[0], filename_prefix=f"{name}-image"))
    return graph, saved


def contact_sheet(pairs, chart: Path, pictures):
    """Photos and masks above, the chart below them, samples with their prompts at the right."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    tile, gap = 128, 8
    sheet = Image.new("RGB", (5 * (tile + gap) + 260, 40 + 2 * (tile + gap) + 424), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 10), "photos and masks", fill="black", font=font)
    for i, (photo, mask) in enumerate(pairs):
        for row, picture in enumerate((photo, mask)):
            sheet.paste(picture.resize((tile, tile)).convert("RGB"), (gap + i * (tile + gap), 32 + row * (tile + gap)))
    sheet.paste(Image.open(chart), (gap, 40 + 2 * (tile + gap)))
    left = 5 * (tile + gap) + 4 * gap
    draw.text((left, 10), "samples (random weights: textures)", fill="black", font=font)
    for i, (scene, picture) in enumerate(zip(SCENES, pictures, strict=True)):
        top = 32 + i * (tile + 40)
        sheet.paste(picture.resize((tile, tile)), (left, top))
        draw.text((left, top + tile + 4), scene.format("<my-cat>"), fill="black", font=font)
    return sheet


if __name__ == "__main__":
    sys.exit(main())
