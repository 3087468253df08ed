"""Nodes that make subject masks: from a phrase, or from boxes. One mask for each image, in order, always."""

from dataclasses import dataclass, replace

import torch
from comfy_api.latest import io
from torch import Tensor

from ..chart import to_picture
from ..errors import UserError
from ..host.progress import Interrupted, Progress
from ..photos import as_list
from ..types import Florence2Type, Sam2Type
from .boxes import CHOICES, Detection, choose, clip, parse_boxes, read_boxes, to_bounding_box
from .cleaning import clean
from .overlay import draw_overlay

NOTHING_FOUND = ("error", "whole image", "empty")


@dataclass(frozen=True)
class Masked:
    """What became of one image."""

    mask: Tensor  # (H, W)
    detections: list[Detection]
    taken: list[int]
    problem: str = ""

    def line(self) -> str:
        """For the node: boxes taken, with label, score and the mask's share of the image."""
        parts = []
        for i in self.taken:
            box = to_bounding_box(self.detections[i])
            label, score = box["metadata"]["label"], box["metadata"]["score"]
            parts.append(f"box {i} [{box['x']}, {box['y']}, {box['width']}, {box['height']}] {label} score {score:.2f}")
        return ", ".join([*parts, f"mask {self.mask.mean():.1%}", *([self.problem] if self.problem else [])])


class SubjectMask(io.ComfyNode):
    """Phrase -> boxes (Florence-2) -> masks (SAM2)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorSubjectMask",
            display_name="Subject Mask (Florence-2 + SAM2)",
            category="attractor",
            description="Finds what a phrase names in every photo and cuts it out. One mask for each image, in order, always.",
            search_aliases=["segment", "mask from text", "grounding", "auto mask"],
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of differing sizes."),
                Florence2Type.Input("florence2", tooltip="From Load Florence-2."),
                Sam2Type.Input("sam2", tooltip="From Load SAM2."),
                io.String.Input("phrase", default="the dog",
                                tooltip="What to find, as one would say it: the dog, a red mug with a handle."),
                *_choice_inputs(),
                io.Combo.Input("if_nothing_found", options=list(NOTHING_FOUND), default=NOTHING_FOUND[0],
                               tooltip="error: stop after the last image and name every one where nothing was found. whole "
                                       "image, empty: that mask for it, and go on."),
                *_cleaning_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, images, florence2, sam2, phrase, **inputs) -> io.NodeOutput:
        phrase = phrase[0].strip()
        if not phrase:
            raise UserError("phrase is empty: say what to find, such as the dog.")
        images = as_list(images)
        return _mask_all(images, lambda i: florence2[0].ground(images[i], phrase), sam2[0], inputs, cls.hidden.unique_id,
                         f"nothing like {phrase!r} was found")


class MaskFromBoxes(io.ComfyNode):
    """Boxes from elsewhere, or typed -> masks (SAM2)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorMaskFromBoxes",
            display_name="Mask From Boxes (SAM2)",
            category="attractor",
            description="Cuts out what lies in given boxes. One mask for each image, in order, always.",
            search_aliases=["segment", "bbox to mask", "sam2 box"],
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of differing sizes."),
                Sam2Type.Input("sam2", tooltip="From Load SAM2."),
                io.MultiType.Input("boxes", types=[io.BoundingBox, io.Custom("BBOX")], optional=True,
                                   tooltip="BOUNDING_BOX {x, y, width, height} or BBOX (left, top, right, bottom), in pixels "
                                           "of the image: one, or some for each image."),
                io.String.Input("typed_boxes", default="", multiline=True, optional=True,
                                tooltip="Used where no boxes are wired. x, y, width, height on a line for each image; one line "
                                        "counts for all; several boxes of an image are parted by ;"),
                *_choice_inputs(),
                io.Combo.Input("if_nothing_found", options=list(NOTHING_FOUND), default=NOTHING_FOUND[0],
                               tooltip="For an image without a box: error, after the others are done; or that mask."),
                *_cleaning_inputs(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, images, sam2, boxes=None, typed_boxes=None, **inputs) -> io.NodeOutput:
        images = as_list(images)
        wired = boxes is not None and any(group is not None for group in boxes)
        text = typed_boxes[0] if typed_boxes else ""
        if not wired and not text.strip():
            raise UserError("boxes: none are wired and typed_boxes is empty. Wire BOUNDING_BOX, or type x, y, width, height.")
        try:
            if wired:
                found = read_boxes(boxes[0] if len(boxes) == 1 else list(boxes), len(images))
            else:
                found = parse_boxes(text, len(images))
        except ValueError as error:
            field = "boxes" if wired else "typed_boxes"
            raise UserError(f"{field}: {error}. Give a box for each image, in pixels of that image.") from error
        return _mask_all(images, lambda i: found[i], sam2[0], inputs, cls.hidden.unique_id, "it has no box inside the image")


def _mask_all(images: list[Tensor], find, sam2, inputs: dict, node_id: str, nothing: str) -> io.NodeOutput:
    """Mask every image; errors are raised when all have been tried, and name each.

    find(i) -> detections of image i.
    """
    inputs = {name: values[0] for name, values in inputs.items()}
    progress = Progress(len(images), node_id)
    results, overlays, failed = [], [], []
    for i, image in enumerate(images):
        try:
            result = _mask_one(image[..., :3], find(i), sam2, inputs, nothing)
        except Interrupted:
            raise
        except (RuntimeError, ValueError) as error:  # a picture that upsets a model must not lose the others
            result = Masked(torch.zeros(image.shape[:2]), [], [], f"it could not be masked ({error})")
            failed.append((i, result))
        else:
            if result.problem and inputs["if_nothing_found"] == "error":
                failed.append((i, result))
        results.append(result)
        overlays.append(draw_overlay(image, result.mask, result.detections, result.taken))
        progress.update(i + 1, to_picture(overlays[-1][None]))
    lines = [f"image {i + 1}: {result.line()}" for i, result in enumerate(results)]
    if failed:
        raise UserError(
            "images: " + "; ".join(f"image {i + 1}: {result.problem}" for i, result in failed) + ". Change the phrase or boxes, "
            "set if_nothing_found to 'whole image' or 'empty', or give these a mask of their own. The others:\n"
            + "\n".join(line for i, line in enumerate(lines) if i not in {j for j, _ in failed})
        )
    masks = [result.mask[None] for result in results]
    boxes = [[to_bounding_box(result.detections[i]) for i in result.taken] for result in results]
    return io.NodeOutput(masks, [overlay[None] for overlay in overlays], boxes, [1 - mask for mask in masks],
                         ui={"text": ["\n".join(lines)]})


def _mask_one(image: Tensor, found: list[Detection], sam2, inputs: dict, nothing: str) -> Masked:
    height, width = image.shape[:2]
    found = [replace(d, box=clip(d.box, width, height)) for d in found]
    found = [d for d in found if d.box.width >= 1 and d.box.height >= 1]
    if not found:
        fill = torch.ones if inputs["if_nothing_found"] == "whole image" else torch.zeros
        return Masked(fill(height, width), [], [], nothing)
    how, index = inputs["choose"], inputs["index"]
    wanted = range(len(found)) if how == "highest score" else choose(found, how, index)
    masks, scores = sam2.masks(image, [found[i].box for i in wanted], inputs.get("threshold", 0.0))
    for i, score in zip(wanted, scores.tolist(), strict=True):
        found[i] = replace(found[i], score=score)
    taken = choose(found, how) if how == "highest score" else list(wanted)
    chosen = masks[taken] if how == "highest score" else masks
    cleaning = {name: inputs[name] for name in ("fill_holes", "keep_largest", "grow", "feather", "invert") if name in inputs}
    return Masked(clean(chosen.amax(0), **cleaning), found, taken)


def _choice_inputs() -> list:
    return [
        io.Combo.Input("choose", options=list(CHOICES), default=CHOICES[0],
                       tooltip="Which box, where there are several. highest score: the one whose mask SAM2 is surest of. "
                               "all: one mask over all of them. index: by number, as drawn on the overlay."),
        io.Int.Input("index", default=0, min=-100, max=100, tooltip="For choose = index; the first is 0, the last -1."),
    ]


def _cleaning_inputs() -> list:
    more = {"optional": True, "advanced": True}
    return [
        io.Float.Input("threshold", default=0.0, min=-20.0, max=20.0, step=0.1, **more,
                       tooltip="Of SAM2's logits: above 0 takes less at the edges, below 0 takes more."),
        io.Boolean.Input("fill_holes", default=True, **more, tooltip="Fill what the mask encloses."),
        io.Boolean.Input("keep_largest", default=False, **more, tooltip="Keep the largest piece only."),
        io.Int.Input("grow", default=0, min=-512, max=512, **more,
                     tooltip="Pixels by which the mask grows; negative shrinks."),
        io.Int.Input("feather", default=0, min=0, max=512, **more, tooltip="Width of the soft edge in pixels."),
        io.Boolean.Input("invert", default=False, **more, tooltip="Mask everything but the subject."),
    ]


def _outputs() -> list:
    return [
        io.Mask.Output("masks", is_output_list=True, tooltip="One for each image, 1 on the subject. Wire to Train Attractor "
                                                             "Embedding."),
        io.Image.Output("overlay", is_output_list=True, tooltip="The photos with mask and boxes drawn on them."),
        io.BoundingBox.Output("boxes", is_output_list=True, tooltip="The boxes taken, for each image."),
        io.Mask.Output("background_masks", is_output_list=True, tooltip="1 - mask: where the background loss looks."),
    ]
