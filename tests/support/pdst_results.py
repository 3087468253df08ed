"""Evaluations as PDST Evaluate leaves them, with made-up scores whose means are known, for tests of the report.

    python tests/pdst_results.py <folder>

The demonstration: four methods on six subjects, the floor, and five checkpoints, with pictures.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ENCODERS = {
    "clip": {
        "backbone": "clip-vit-base-patch32",
        "weights": "sha256:" + "0123456789abcdef" * 4,
        "resize": "shortest side to 224 px, bicubic (Pillow, 8 bits)",
        "crop": "224 x 224 px at the centre",
        "norm": "CLIP mean and standard deviation",
        "dtype": "float32",
        "text": "the first 77 tokens of a prompt",
    },
    "dino": {
        "backbone": "dino-vits16",
        "weights": "sha256:" + "fedcba9876543210" * 4,
        "resize": "shortest side to 256 px, bicubic (Pillow, 8 bits)",
        "crop": "224 x 224 px at the centre",
        "norm": "ImageNet mean and standard deviation",
        "dtype": "float32",
        "feature": "CLS of the last hidden state, after the final LayerNorm",
    },
}
SETTINGS = {
    "sampler": "euler",
    "scheduler": "normal",
    "steps": 30,
    "cfg": 7.0,
    "width": 512,
    "height": 512,
    "negative": "",
    "images_per_caption": 2,
    "seed": 0,
    "batch_size": 2,
    "metrics": True,
    "max_photos": 0,
    "max_captions": 0,
}
CEILING = {"clip_t": 0.30, "clip_i": 0.88, "dino": 0.76, "clip_i_train": 0.9, "dino_train": 0.8}
SUBJECTS = {
    "corgi": ("dog", "living"),
    "tabby": ("cat", "living"),
    "parrot": ("bird", "living"),
    "mug": ("mug", "rigid"),
    "red-car": ("car", "rigid"),
    "clock": ("clock", "rigid"),
}
CORGI = {"corgi": SUBJECTS["corgi"]}
SCORES = {"clip_t", "clip_i", "dino", "clip_i_train", "dino_train"}
PLACES = ("on a beach at dawn", "in deep snow", "on a kitchen table", "in front of a brick wall")
COLOURS = ["#c87f3a", "#7d6b5d", "#2f9e57", "#3f6fb5", "#b3303a", "#8a8f98"]


def noise(*parts):
    """A number around 0, always the same for the same parts."""
    return float(np.random.default_rng(zlib.crc32(repr(parts).encode())).normal())


def picture(subject, place, quality, size=96):
    """A scene; the subject's shape is truer the higher `quality` is."""
    colour = COLOURS[list(SUBJECTS).index(subject) % 6] if subject in SUBJECTS else "#888888"
    ground = ["#d9c79a", "#e8eef4", "#b98f66", "#9c5746"][PLACES.index(place) if place in PLACES else 0]
    image = Image.new("RGB", (size, size), "#a9c6dc")
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, size * 0.62, size, size], fill=ground)
    off = (1 - quality) * size * 0.2
    draw.ellipse([size * 0.25 + off, size * 0.3, size * 0.75, size * 0.8 - off], fill=colour)
    draw.ellipse([size * 0.55, size * 0.2 + off, size * 0.85, size * 0.5], fill=colour)
    draw.ellipse([size * 0.68, size * 0.3 + off / 2, size * 0.73, size * 0.35 + off / 2], fill="#111111")
    return image


def write_entry(
    folder,
    entry,
    subjects,
    means,
    *,
    step=None,
    method="neti+",
    photos=2,
    captions=2,
    images=2,
    spread=0.01,
    pictures=False,
    encoders=ENCODERS,
    ceiling=CEILING,
    settings=None,
    floor=False,
    shift=None,
    shard=(1, 1),
    text="{} ",
    run=None,
    schedule=None,
):
    """One results file.

    subjects: {name: (super-category, kind)}. means: {score: mean}. spread: of the noise on every image. shift: {subject: what
    is added to every score}. text: what captions begin with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        name: {
            "super_category": word,
            "kind": kind,
            "train": ["a.png"],
            "test": [f"{i}.png" for i in range(photos)],
            "captions": [captions] * photos,
            "references": [f"photos/{name}/{i}.jpg" for i in range(photos)],
        }
        for name, (word, kind) in subjects.items()
    }
    token = {"placeholder": f"<{entry}>", "super_category": "dog", "kind": "neti", "method": method, "width": 768, "run": run}
    token |= {"schedule": schedule} if schedule else {}
    records = []
    for name in subjects:
        for photo in range(photos):
            place = PLACES[photo % len(PLACES)]
            for caption in range(captions):
                for index in range(images):
                    own = (shift or {}).get(name, 0.0)
                    scores = {
                        score: mean
                        + own
                        + spread
                        * (noise(name, photo, caption, index, score) + 0.5 * noise(entry, name, photo, caption, index, score))
                        for score, mean in means.items()
                    }
                    records.append(
                        {
                            "number": len(records),
                            "subject": name,
                            "photo": f"{photo}.png",
                            "caption": caption,
                            "text": f"{text}{place}, view {caption + 1}",
                            "prompt": f"a {place}",
                            "index": index,
                            "seed": len(records),
                            "scores": scores,
                            "image": None,
                            "seconds_sampling": 2.0,
                            "seconds_other": 0.05,
                        }
                    )
                    if pictures:
                        records[-1]["image"] = f"images/{entry}/{name}/{photo}-{caption}-{index}.png"
                        path = folder / records[-1]["image"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        picture(name, place, min(1.0, max(0.0, scores.get("dino", 0.5) + 0.2))).save(path)
            if pictures:
                (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
                picture(name, place, 1.0, 128).resize((128, 96)).save(folder / "photos" / name / f"{photo}.jpg", quality=92)
    i, count = shard
    header = {
        "format": "attractor-pdst",
        "version": 1,
        "evaluation": folder.name,
        "entry": entry,
        "step": step,
        "shard": list(shard),
        "expected": len(records),
        "token": None if floor else token,
        "identity": {"model": "m"},
        "settings": {**SETTINGS, **(settings or {})},
        "encoders": encoders,
        "ceiling": {name: ceiling for name in subjects},
        "subjects": described,
    }
    lines = [header, *(r for r in records if r["number"] % count == i - 1)]
    name = entry if count == 1 else f"{entry}-shard-{i}-of-{count}"
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return records


def write_demonstration(folder, pictures=True):
    """Methods ordered as the paper finds them, and a run that overfits. The numbers are made up."""

    def means(t, i, d, gap):
        return {"clip_t": t, "clip_i": i, "dino": d, "clip_i_train": i + gap / 2, "dino_train": d + gap}

    shift = {name: 0.03 * noise("subject", name) for name in SUBJECTS}
    methods = {
        "textual_inversion": means(0.24, 0.70, 0.45, 0.12),
        "textual_inversion+": means(0.262, 0.725, 0.50, 0.06),
        "neti": means(0.255, 0.752, 0.56, 0.11),
        "neti+": means(0.278, 0.785, 0.61, 0.05),
    }
    for method, of_method in methods.items():
        for name, subject in SUBJECTS.items():
            write_entry(
                folder,
                f"{name}-{method}-step-500",
                {name: subject},
                of_method,
                method=method,
                step=500,
                spread=0.02,
                pictures=pictures,
                shift=shift,
            )
    for name, subject in SUBJECTS.items():
        write_entry(
            folder,
            f"floor-{name}",
            {name: subject},
            means(0.292, 0.64, 0.33, 0.0),
            floor=True,
            spread=0.02,
            pictures=pictures,
            shift=shift,
        )


def write_checkpoints(folder, pictures=False):
    """A run of one subject: held-out scores rise and fall, training scores rise and stay."""
    held = {100: 0.42, 200: 0.55, 300: 0.60, 400: 0.57, 500: 0.51}
    train = {100: 0.46, 200: 0.62, 300: 0.70, 400: 0.73, 500: 0.735}
    for step in held:
        means = {
            "clip_t": 0.30 - step / 8000,
            "clip_i": 0.3 + 0.75 * held[step],
            "dino": held[step],
            "clip_i_train": 0.3 + 0.75 * train[step],
            "dino_train": train[step],
        }
        write_entry(
            folder, f"my-dog-neti-step-{step}", CORGI, means, method="neti", step=step, photos=4, spread=0.03, pictures=pictures
        )
    means = {"clip_t": 0.31, "clip_i": 0.62, "dino": 0.34, "clip_i_train": 0.62, "dino_train": 0.34}
    write_entry(folder, "floor-corgi", CORGI, means, floor=True, photos=4, pictures=pictures)


class Results:
    """An entry's header and its records, of all shards."""

    def __init__(self):
        self.records = []

    def timeless(self):
        """The records without what a clock says."""
        return [{k: v for k, v in record.items() if not k.startswith("seconds")} for record in self.records]


def results(base, name):
    """What a server with this base folder has left, by entry; read here anew: the pack's reader is tested by itself."""
    found = {}
    for path in sorted((base / "output" / "pdst" / name).glob("*.jsonl")):
        header, *records = map(json.loads, path.read_text().splitlines())
        entry = found.setdefault(header["entry"], Results())
        entry.header = header
        entry.records = sorted([*entry.records, *records], key=lambda record: record["number"])
    return found


if __name__ == "__main__":
    write_demonstration(Path(sys.argv[1]) / "methods")
    write_checkpoints(Path(sys.argv[1]) / "checkpoints", pictures=True)
