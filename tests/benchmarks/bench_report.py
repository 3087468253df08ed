"""A report of the paper's protocol at its full size, and of a tenth of it; `dev.py bench report [--images N] [--repeats 1]`.

Six systems (five methods and the floor) on 20 subjects x 10 photos x 10 captions x 5 images each, with made-up scores. Time and
memory are to grow no faster than the number of images, and the page is to stop growing: it holds thumbnails, and of those at
most so many rows.
"""

import os
import shutil
import sys
from pathlib import Path

from sides import ROOT, measure, options, start_host, write

METHODS = ("textual_inversion", "textual_inversion+", "neti", "neti+", "other", "floor")
SUBJECTS, CAPTIONS, IMAGES = 20, 10, 5  # and ten photos at the full size
SIZE = 512  # pixels of a picture's side


def write_results(folder: Path, photos: int) -> None:
    """A file for each system, and a picture for every image: one for each subject, under as many names."""
    from pdst_results import picture, write_entry

    shutil.rmtree(folder, ignore_errors=True)
    subjects = {f"subject-{i:02d}": ("dog", "living" if i % 2 else "rigid") for i in range(SUBJECTS)}
    means = {"clip_t": 0.3, "clip_i": 0.7, "dino": 0.5, "clip_i_train": 0.75, "dino_train": 0.6}
    for place, method in enumerate(METHODS):
        shape = {"photos": photos, "captions": CAPTIONS, "images": IMAGES}
        records = write_entry(
            folder, method, subjects, means, method=method, floor=method == "floor", shift={"subject-00": place / 50}, **shape
        )
        for record in records:
            record["image"] = f"images/{method}/{record['subject']}-{record['number']}.png"
        _with_pictures(folder, folder / f"{method}.jsonl", [record["image"] for record in records], picture)


def _with_pictures(folder: Path, results: Path, names: list[str], picture) -> None:
    """Gives the images of a results file these names, and files of them."""
    import json

    header, *lines = results.read_text().splitlines()
    records = [{**json.loads(line), "image": name} for line, name in zip(lines, names, strict=True)]
    results.write_text("".join(line + "\n" for line in (header, *map(json.dumps, records))))
    made: dict[str, Path] = {}
    for record in records:
        path = folder / record["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if record["subject"] in made:
            os.link(made[record["subject"]], path)
        else:
            made[record["subject"]] = path
            picture(record["subject"], "", 0.8, SIZE).save(path)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="of each of the six systems, at the full size")
    arguments = parser.parse_args()
    start_host(cpu=True)
    from attractor.nodes.evaluation.report.make_report import make_report

    base = ROOT / ".dev" / "bench" / "report"
    each = SUBJECTS * CAPTIONS * IMAGES
    full = max(1, arguments.images // each)
    sizes = {"a tenth": max(1, full // 10), "whole": full}
    for name, photos in sizes.items():
        if not arguments.only:
            write_results(base / name, photos)

    def report(name: str):
        def side() -> None:
            make_report([base / name], base / name / "report", name, y_axis="dino", contact_sheet="per subject")

        return side

    sides = {f"{len(METHODS)} x {photos * each:,} images": report(name) for name, photos in sizes.items()}
    rows = measure("a report", sides, arguments)
    for row, name in zip(rows, sizes, strict=True):
        for file in ("report.html", "images.jsonl"):
            row[f"{file} MB"] = round((base / name / "report" / file).stat().st_size / 1e6, 2)
    write("report", rows, {"pictures": f"{SIZE} x {SIZE}", "systems": len(METHODS)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
