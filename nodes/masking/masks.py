"""From images and boxes to masks: one per image, always in order."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..host.memory import is_out_of_memory
from ..host.progress import Interrupted
from ..pictures import to_picture
from .boxes import Box, Detection, choose, clip, to_bounding_box, whole_pixels
from .cleaning import clean
from .overlay import draw_overlay
from .recent import Packed, ask, digest
from .sam import Sam2

NOTHING_FOUND = ("error", "whole image", "empty")
_PREVIEW = 640  # pixels


@dataclass(frozen=True)
class Choices:
    """What is set on the nodes."""

    choose: str
    index: int
    if_nothing_found: str
    threshold: float = 0.0
    fill_holes: bool = False
    keep_largest: bool = False
    grow: int = 0
    feather: int = 0
    invert: bool = False


@dataclass(frozen=True)
class Masked:
    """The result for one image.

    mask: (H, W). taken: indices of the detections that the mask was made from. problem: why there are none.
    """

    mask: Tensor
    detections: list[Detection]
    taken: list[int]
    problem: str = ""

    def boxes(self) -> list[dict]:
        return [to_bounding_box(self.detections[i]) for i in self.taken]

    def line(self) -> str:
        """Text for the node: the boxes used, with label and score, and how much of the image the mask covers."""
        parts = [self.problem] if self.problem else []
        for i, box in zip(self.taken, self.boxes(), strict=True):
            found = f"box {i} [{box['x']}, {box['y']}, {box['width']}, {box['height']}] {box['label']}".rstrip()
            parts.append(f"{found}, score {box['score']:.2f}")
        return "; ".join([*parts, f"mask {self.mask.mean():.1%}"])


def mask_images(
    images: list[Tensor],
    names: list[str],
    find: Callable[[int], list[Detection]],
    sam2: Sam2,
    choices: Choices,
    nothing: str,
    report: Callable[[int, Image.Image, str], None],
) -> tuple[list[Masked], list[Tensor], list[Image.Image], str]:
    """Mask every image. If one fails, the others are still masked, and what the models found in them is kept.

    Args:
        images: (H, W, 3) each. names: of the images, for messages. find(i): detections in image i. nothing: the problem if it
            finds none.
        report(done, picture, text): called after each image with its small overlay and the lines so far.

    Returns:
        results; overlays (H, W, 3); overlays as small pictures; a line of text for each image.

    Raises:
        UserError: after the last image, with all that failed.
    """
    results, overlays, previews, lines, failed = [], [], [], [], []
    cause = None
    for i, image in enumerate(images):
        try:
            result = _mask(image, find(i), sam2, choices, nothing)
            bad = bool(result.problem) and choices.if_nothing_found == NOTHING_FOUND[0]
        except Interrupted:
            raise
        except Exception as error:  # an error on one image must not lose the others
            if is_out_of_memory(error):
                raise
            logging.exception("%s could not be masked", names[i])
            result, bad, cause = Masked(torch.zeros(image.shape[:2]), [], [], f"it could not be masked ({error})"), True, error
        results.append(result)
        overlays.append(draw_overlay(image, result.mask, result.detections, result.taken))
        previews.append(to_picture(overlays[-1][None]))
        previews[-1].thumbnail((_PREVIEW, _PREVIEW))
        lines.append(f"{names[i]}: {result.line()}")
        if bad:
            failed.append(i)
        report(i + 1, previews[-1], "\n".join(lines))
    if failed:
        fine = "".join(f"\n{line}" for i, line in enumerate(lines) if i not in failed)
        raise UserError(
            f"images: {len(failed)} of {len(images)} have no mask:\n"
            + "\n".join(f"{names[i]}: {results[i].problem}" for i in failed)
            + "\nChange the phrase or the boxes, or set if_nothing_found to 'whole image' or 'empty'."
            + (f" What was found in the others is kept for the next run:{fine}" if fine else "")
        ) from cause
    return results, overlays, previews, "\n".join(lines)


def _mask(image: Tensor, found: list[Detection], sam2: Sam2, choices: Choices, nothing: str) -> Masked:
    height, width = image.shape[:2]
    # The boxes output must be exactly what was masked, so that it gives the same masks again.
    found = [replace(d, box=clip(whole_pixels(d.box), width, height)) for d in found]
    found = [d for d in found if d.box.width >= 1 and d.box.height >= 1]
    if not found:
        return _without(image, found, nothing, choices)
    try:
        every = choices.choose == "highest score"  # known only once there are masks
        asked = list(range(len(found))) if every else choose(found, choices.choose, choices.index)
    except ValueError as error:
        return _without(image, found, str(error), choices)
    boxes = [found[i].box for i in asked]
    packed, scores = ask(sam2, (digest(image), tuple(boxes), choices.threshold), lambda: _segment(sam2, image, boxes, choices))
    for i, score in zip(asked, scores, strict=True):
        found[i] = replace(found[i], score=score)
    taken = choose(found, choices.choose) if every else asked
    mask = packed.masks()[[asked.index(i) for i in taken]].amax(0)
    mask = clean(
        mask,
        fill_holes=choices.fill_holes,
        keep_largest=choices.keep_largest,
        grow=choices.grow,
        feather=choices.feather,
        invert=choices.invert,
    )
    if (mask == float(choices.invert)).all():
        return _without(image, found, "its mask is empty; change threshold or grow", choices)
    return Masked(mask, found, taken)


def _segment(sam2: Sam2, image: Tensor, boxes: list[Box], choices: Choices) -> tuple[Packed, list[float]]:
    masks, scores = sam2.masks(image, boxes, choices.threshold)
    return Packed(masks), scores.tolist()


def _without(image: Tensor, found: list[Detection], why: str, choices: Choices) -> Masked:
    whole = choices.if_nothing_found == NOTHING_FOUND[1]
    return Masked(torch.full(image.shape[:2], float(whole)), found, [], why)
