"""Boxes: ComfyUI's BOUNDING_BOX, the older BBOX, or typed; and choosing between several."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple, TypeGuard

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


def whole_pixels(box: Box) -> Box:
    """The box with each side at the nearest border between pixels."""
    left, top = round(box.x), round(box.y)
    return Box(left, top, round(box.x + box.width) - left, round(box.y + box.height) - top)


def clip(box: Box, width: int, height: int) -> Box:
    """The part of a box that lies inside an image; of zero size if none does."""
    left, top = min(max(box.x, 0), width), min(max(box.y, 0), height)
    right, bottom = min(max(box.x + box.width, left), width), min(max(box.y + box.height, top), height)
    return Box(left, top, right - left, bottom - top)


def to_bounding_box(detection: Detection) -> dict:
    """The host's BOUNDING_BOX in whole pixels, with `label` and `score` where its own detectors put them."""
    box = {**whole_pixels(detection.box)._asdict(), "label": detection.label}
    return box if detection.score is None else {**box, "score": detection.score}


def read_boxes(values: list[object], images: int) -> list[list[Detection]]:
    """Boxes for each of `images` images.

    values: what came over the link, one value or one for each image. As in ComfyUI's own nodes, a value is a box, a list of
        boxes, or a list of such lists, one for each image. Boxes for one image only are used for all. A box is
        {x, y, width, height} or the older (left, top, right, bottom).

    Raises:
        ValueError: it is none of these, or the number does not match.
    """
    groups = [group for value in values for group in _groups(value)]
    if len(groups) == 1:
        groups *= images
    if len(groups) != images:
        raise ValueError(f"there are {images} images and boxes for {len(groups)}")
    return groups


def _groups(value: object) -> list[list[Detection]]:
    """A value as lists of boxes, one for each image that it describes."""
    value = value.tolist() if hasattr(value, "tolist") else value  # an array or a tensor
    if value is None or _is_box(value) or not isinstance(value, list | tuple) or all(_is_box(item) for item in value):
        return [_group(value)]
    return [_group(item) for item in value]


def _group(value: object) -> list[Detection]:
    """One image's boxes: a box, a list of boxes, or nothing."""
    if value is None or _is_box(value):
        return [] if value is None else [_read(value)]
    if not isinstance(value, list | tuple):
        raise _no_box(value)
    return [_read(item) for item in value]


def _is_box(value: object) -> TypeGuard[dict | list | tuple]:
    if isinstance(value, dict):
        return {"x", "y", "width", "height"} <= set(value)
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(number, Real) for number in value)


def _read(value: object) -> Detection:
    if not _is_box(value):
        raise _no_box(value)
    if isinstance(value, dict):
        numbers, label = [value[name] for name in ("x", "y", "width", "height")], str(value.get("label") or "")
    else:
        left, top, right, bottom = value
        numbers, label = [left, top, right - left, bottom - top], ""
    if not all(isinstance(number, Real) and math.isfinite(number) for number in numbers):
        raise _no_box(value)
    return Detection(Box(*map(float, numbers)), label)


def _no_box(value: object) -> ValueError:
    return ValueError(f"{str(value)[:80]} is not a box: use {{x, y, width, height}} or (left, top, right, bottom)")


def parse_boxes(text: str, images: int) -> list[list[Detection]]:
    """Typed boxes, `x, y, width, height` on a line for each image; several for one image are separated by `;`.

    A single line is used for every image.

    Raises:
        ValueError: names the line.
    """
    groups = [
        [_typed(part, number) for part in line.split(";") if part.strip()]
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    if len(groups) == 1:
        groups *= images
    if len(groups) != images:
        raise ValueError(f"there are {images} images and {len(groups)} lines of boxes")
    return groups


def _typed(text: str, line: int) -> Detection:
    try:
        x, y, width, height = map(float, text.replace(",", " ").split())
    except ValueError:
        width = height = math.nan
    if not (width > 0 and height > 0 and all(map(math.isfinite, (x, y, width, height)))):
        raise ValueError(f"line {line}, {text.strip()!r}, is not x, y, width, height")
    return Detection(Box(x, y, width, height))


def choose(detections: list[Detection], how: str, index: int = 0) -> list[int]:
    """Indices of the detections to use, by `CHOICES`; the first one if two are equal.

    Raises:
        ValueError: `index` is out of range.
    """
    if how == "all":
        return list(range(len(detections)))
    if how == "index":
        if not -len(detections) <= index < len(detections):
            raise ValueError(f"there are {len(detections)} boxes and index is {index} (the first is 0)")
        return [index % len(detections)]
    key = (lambda d: d.box.width * d.box.height) if how == "largest" else (lambda d: d.score)
    return [max(range(len(detections)), key=lambda i: key(detections[i]))]
