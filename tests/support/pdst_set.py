"""Small PDST data sets in a folder, for tests."""

import json

import numpy as np
from PIL import Image


class Silent:
    """Takes progress for a node that is not there."""

    def __init__(self):
        self.values, self.lines, self.previews = [], [], []

    def update(self, value, preview=None):
        self.values.append(value)
        self.previews += [preview] if preview else []

    def text(self, line):
        self.lines.append(line)


def picture(seed, size=(96, 72)):
    """A picture of coloured blocks; another for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def write_subject(root, name, super_category="cat", kind="living", train=2, test=2, captions=2, seed=0):
    """One subject, whole and right; its folder."""
    folder = root / name
    for part, count, offset in (("train", train, 0), ("test", test, 100)):
        (folder / part).mkdir(parents=True)
        for i in range(1, count + 1):
            picture(1000 * seed + offset + i).save(folder / part / f"{part}-{i}.png")
    (folder / "meta.json").write_text(json.dumps({"super_category": super_category, "kind": kind}))
    for i in range(1, test + 1):
        places = ["on the beach", "in the snow", "in a garden", "on a table"]
        lines = [f"a photo of a {{}} {places[c]}, {i}" for c in range(captions)]
        (folder / "test" / f"test-{i}.txt").write_text("\n".join(lines) + "\n")
    return folder
