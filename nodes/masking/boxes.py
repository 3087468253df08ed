"""Boxes: the host's BOUNDING_BOX, the older BBOX, typed ones; and the choice between several."""

import re
from dataclasses import dataclass
from typing import NamedTuple

CHOICES = ("largest", "highest score", "all", "index")


class Box(NamedTuple):
    """Left, top, width and height in pixels of the original image."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Detection:
    """A box and what was found in it. score: SAM2's predicted IoU of its mask, where there is one."""

    box: Box
    label: str = ""
    score: float | None = None


def clip(box: Box, width: int, height: int) -> Box:
    """The part of a box that lies inside an image; of no size if none does."""
    left, top = min(max(box.x, 0), width), min(max(box.y, 0), height)
    right, bottom = min(max(box.x + box.width, left), width), min(max(box.y + box.height, top), height)
    return Box(left, top, right - left, bottom - top)


def to_bounding_box(detection: Detection) -> dict:
    """The host's BOUNDING_BOX, with whole pixels."""
    left, top = round(detection.box.x), round(detection.box.y)
    right, bottom = round(detection.box.x + detection.box.width), round(detection.box.y + detection.box.height)
    return {"x": left, "y": top, "width": right - left, "height": bottom - top,
            "metadata": {"label": detection.label, "score": detection.score}}


def read_boxes(value, images: int) -> list[list[Detection]]:
    """Boxes for each of `images` images.

    value: one box, a list of boxes (the same ones for a single image, else one for each image), or a list of lists. A box is
        the host's {x, y, width, height} or the older (left, top, right, bottom).

    Raises:
        ValueError: it is nothing of this, or the count does not fit.
    """
    if _is_box(value):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no box: {{x, y, width, height}} or (left, top, right, bottom) is wanted")
    if all(_is_box(item) for item in value):
        value = [list(value)] if images == 1 else [[item] for item in value]
    if len(value) != images:
        raise ValueError(f"there are {images} images and boxes for {len(value)}")
    return [[_read(item) for item in ([group] if _is_box(group) else group or [])] for group in value]


def _is_box(value) -> bool:
    if isinstance(value, dict):
        return {"x", "y", "width", "height"} <= set(value)
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(v, int | float) for v in value)


def _read(value) -> Detection:
    if not _is_box(value):
        raise ValueError(f"{value!r} is no box: {{x, y, width, height}} or (left, top, right, bottom) is wanted")
    if isinstance(value, dict):
        about = value.get("metadata") or {}
        return Detection(Box(*(float(value[name]) for name in ("x", "y", "width", "height"))), str(about.get("label") or ""))
    left, top, right, bottom = (float(v) for v in value)
    return Detection(Box(left, top, right - left, bottom - top))


def parse_boxes(text: str, images: int) -> list[list[Detection]]:
    """Typed boxes, `x, y, width, height` on a line for each image; several for one image are parted by `;`.

    A single line counts for every image.

    Raises:
        ValueError: names the line.
    """
    groups = []
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), 1):
        group = []
        for part in line.split(";"):
            numbers = re.findall(r"-?\d+(?:\.\d+)?", part)
            if len(numbers) != 4 or float(numbers[2]) <= 0 or float(numbers[3]) <= 0:
                raise ValueError(f"line {number}, {line.strip()!r}, is not x, y, width, height")
            group.append(Detection(Box(*map(float, numbers))))
        groups.append(group)
    if len(groups) == 1:
        groups *= images
    if len(groups) != images:
        raise ValueError(f"there are {images} images and {len(groups)} lines of boxes")
    return groups


def choose(detections: list[Detection], how: str, index: int = 0) -> list[int]:
    """Which of several detections to take, by `CHOICES`; the earlier one where two are equal.

    Raises:
        ValueError: there are not as many as `index` asks for.
    """
    if how == "all":
        return list(range(len(detections)))
    if how == "index":
        if not -len(detections) <= index < len(detections):
            raise ValueError(f"there are {len(detections)} boxes and index is {index} (the first is 0)")
        return [index % len(detections)]
    key = (lambda d: d.box.width * d.box.height) if how == "largest" else (lambda d: d.score)
    return [max(range(len(detections)), key=lambda i: key(detections[i]))]
