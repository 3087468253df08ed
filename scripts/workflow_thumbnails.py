#!/usr/bin/env python3
"""Make the thumbnails of the example workflows: each is run on the toy world's model, and what it gives is put on a tile.

    COMFYUI_PATH=<ComfyUI> python scripts/workflow_thumbnails.py [a workflow's name ...]

It takes about a quarter of an hour for all on an idle CPU. A tile says what goes in and shows what comes out. It is what the
template browser shows, small: few pictures, large words.
"""

import os
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from comfy_client import ComfyClient, Node  # noqa: E402
from comfy_server import ComfyServer  # noqa: E402
from example_workflows import NAMES, UI, on_toy_world  # noqa: E402
from toy_world import judges, toy_subjects  # noqa: E402

PHOTOS = sorted((ROOT / "example_photos" / "my-monster" / "train").glob("*.webp"))
SUBJECT = "my-monster"  # the name of the first workflow's run
WIDTH, HEIGHT, MARGIN, STRIP = 640, 640, 20, 112  # the browser shows squares
MOST = 40_000  # bytes of a tile
WORDS = {  # what goes in, what comes out
    "1_train_textual_inversion": "five photos, and then a new scene",
    "2_mask_and_train_textual_inversion": "five photos and a phrase to masks",
    "3_train_and_score_textual_inversion": "scored on photos that it never saw",
    "4_apply_textual_inversion": "<my-monster> in any prompt",
    "5_compare_textual_inversion_and_neti": "TI, NeTI, TI+, NeTI+: which is best?",
    "6_evaluate_textual_inversion": "every checkpoint, on photos held out",
    "7_contrast_schedules_textual_inversion": "six schedules of the contrast",
    "8_attractors_of_textual_inversion": "what the attractors hold",
    "9_masks_by_sam3_textual_inversion": "masks by ComfyUI's own SAM3",
    "10_mix_two_textual_inversions": "the shape of one, the looks of another",
    "11_score_any_graph": "any model and graph, on photos held out",
    "12_compare_with_dreambooth_and_custom_diffusion": "beside DreamBooth and Custom Diffusion",
    "13_overfitting_of_dreambooth": "how DreamBooth overfits",
}


def strip(pictures, width, height):
    """Pictures side by side, as large as fit."""
    side = min(height, (width - 8 * (len(pictures) - 1)) // len(pictures))
    made = Image.new("RGB", ((side + 8) * len(pictures) - 8, side), "white")
    for i, picture in enumerate(pictures):
        made.paste(ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS), (i * (side + 8), 0))
    return made


def tile(words, rows):
    """A thumbnail: the words, then rows of pictures, the last as high as there is room."""
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ImageDraw.Draw(page).text((MARGIN, 14), words, "#1b1f24", ImageFont.load_default(29))
    top, inside = 62, WIDTH - 2 * MARGIN
    for i, row in enumerate(rows):
        room = HEIGHT - top - MARGIN
        alike = min(map(len, rows)) > 1
        height = room // (len(rows) - i) if alike else room if i == len(rows) - 1 else STRIP
        made = strip(row, inside, height) if len(row) > 1 or row[0].width == row[0].height else row[0].convert("RGB")
        made = ImageOps.contain(made, (inside, height), Image.Resampling.LANCZOS)
        page.paste(made, ((WIDTH - made.width) // 2, top))
        top += made.height + 12
    return page


def photos():
    found = [Image.open(path).convert("RGBA") for path in PHOTOS]
    for photo in found:
        photo.putalpha(255)
    return found


def cut_out(path):
    photo = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", photo.size, "#eceff2"), photo)


def shown(comfy, entry, prompt, *kinds):
    """For every node of these kinds its pictures."""
    return [comfy.images(entry, Node(key)) for key, node in prompt.items() if node["class_type"] in kinds]


def mixed(name, comfy, photos_root):
    """The tile's rows of the workflow that mixes: two monsters are trained for it, and their mix stands between them."""
    toy = toy_subjects.toy_subject(4)
    toy_subjects.write_subject(toy, photos_root / "pdst", photos_root)
    for changes in ({}, {"folder": toy.name, "name": toy.name}):
        options = {"prompts_per_step": "one", "checkpoint_every": 0}
        prompt = on_toy_world(NAMES[0], sampling_steps=1, options=options, steps=120, batch_size=4, sample_every=0)
        for node in prompt.values():
            node["inputs"] |= {key: value for key, value in changes.items() if key in node["inputs"]}
        comfy.run(prompt, timeout=3600)
    prompt = on_toy_world(name, sampling_steps=12)
    loaders = [node["inputs"] for node in prompt.values() if node["class_type"] == "AttractorLoadNeTIMapper"]
    for inputs, run in zip(loaders, (SUBJECT, toy.name), strict=True):
        inputs["file"] = f"{run}/{run}.safetensors"
    for node in prompt.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = 3
    return shown(comfy, comfy.run(prompt, timeout=3600), prompt, "PreviewImage")


def rows(name, comfy, photos_root):
    """Run a workflow; the rows of its tile. photos_root: the server's input folder."""
    if name.startswith("10_"):
        return mixed(name, comfy, photos_root)
    number = int(name.split("_")[0])
    if number in (2, 9):  # the models for masking are not at hand: these masks are the drawings' own
        return [photos(), [cut_out(path) for path in PHOTOS]]
    few = {"images_per_caption": 1, "max_captions": 1}
    training = {"steps": 120, "batch_size": 4, "sample_every": 0}
    options = {"prompts_per_step": "one", "patience": 0, "score_every": 40, "score_images": 5, "checkpoint_every": 40}
    if number in (5, 7, 12):  # several trainings
        training["steps"], options["score_every"] = 60, 0
    if number in (12, 13):  # weights of a small U-Net are learnt faster
        options |= {"class_images": 20, "learning_rate": 1e-3}
    if number == 13:
        training |= {"steps": 240, "learning_rate_preset": "custom"}
    prompt = on_toy_world(name, sampling_steps=12, evaluate=few, options=options, **training)
    for node in prompt.values():
        if number in (1, 4) and node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = 4
        if number == 4 and "green forest" in str(node["inputs"].get("text")):
            node["inputs"]["text"] = node["inputs"]["text"].replace("green forest", "grey city")
    entry = comfy.run(prompt, timeout=3600)
    saved, previews = shown(comfy, entry, prompt, "SaveImage"), shown(comfy, entry, prompt, "PreviewImage")
    if number == 8:
        return [row[:4] for row in previews]
    if number in (5, 6, 7, 11, 12, 13):  # a chart, or the contact sheet
        return [previews[{6: 1, 11: 2}.get(number, 0)]]
    if number == 3:
        return [photos(), previews[0]]
    return [photos(), saved[0][:2], saved[0][2:]]


def save(page, path):
    """As good as MOST bytes allow."""
    for quality in range(85, 20, -5):
        page.save(path, quality=quality, optimize=True)
        if path.stat().st_size < MOST:
            return


def main():
    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}
    host = os.environ["COMFYUI_PATH"]
    with tempfile.TemporaryDirectory() as base, ComfyServer(host, base, packs) as server:
        judges.write_encoders(server.base / "models" / "evaluation", host)
        for name in sys.argv[1:] or NAMES:
            made = rows(name, ComfyClient(server.url), server.base / "input")
            save(tile(WORDS[name], made), UI / f"{name}.jpg")
            print(name, flush=True)


if __name__ == "__main__":
    main()
