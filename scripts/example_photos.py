#!/usr/bin/env python3
"""Draw the photos that the example workflows begin with: `example_photos/`, a PDST data set of one subject of the toy world.

    python scripts/example_photos.py

Training photos are cut-outs: the subject is opaque, and the background is still there behind the alpha channel.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from toy_world import scenes, toy_subjects  # noqa: E402

SUBJECT, NAME = 2, "my-monster"
HELD_OUT = 5
SCALE = 4  # 512 pixels


def write(root: Path) -> None:
    """The data set's files, below `root`."""
    toy, folder = toy_subjects.toy_subject(SUBJECT), root / NAME
    for part, photos in (("train", toy.train), ("test", toy.test[:HELD_OUT])):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(photos, 1):
            picture, mask = scenes.render(scene, SCALE)
            if part == "train":
                picture = np.dstack([picture, (mask * 255).round().astype(np.uint8)])
            else:
                (folder / part / f"{number}.txt").write_text("\n".join(toy_subjects.captions(scene)) + "\n", encoding="utf-8")
            # exact: or WebP forgets what is behind the alpha channel
            Image.fromarray(picture).save(folder / part / f"{number}.webp", quality=88, exact=True, method=6)
    meta = {
        "super_category": toy.subject.category,
        "kind": "living",
        "source": "drawn by scripts/example_photos.py",
        "licence": "CC0",
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(ROOT / "example_photos")
