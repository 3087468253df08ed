"""Nodes that make subject masks: from a phrase, or from boxes."""

from collections.abc import Callable

import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..host.progress import Progress, said
from ..link_types import Florence2Type, Sam2Type
from ..pictures import to_tensor
from .boxes import CHOICES, Detection, parse_boxes, read_boxes
from .florence import Florence2
from .masks import NOTHING_FOUND, Choices, mask_images
from .recent import ask, digest
from .sam import Sam2


class SubjectMask(io.ComfyNode):
    """Phrase -> boxes (Florence-2) -> masks (SAM2)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorSubjectMask",
            display_name="Subject Mask (Florence-2 + SAM2)",
            category="attractor",
            description="Finds what a phrase describes in every photo and masks it. One mask per image, always in order.",
            search_aliases=[
                "segment anything",
                "mask from text",
                "text to mask",
                "grounding",
                "auto mask",
                "remove background",
            ],
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                _images_input(),
                Florence2Type.Input("florence2", tooltip="From Load Florence-2."),
                Sam2Type.Input("sam2", tooltip="From Load SAM2."),
                io.String.Input(
                    "phrase", default="the dog", tooltip="What to find, in plain words: the dog, a red mug with a handle."
                ),
                *_choice_inputs("the phrase finds nothing"),
                *_cleaning_inputs(),
                _boxes_input("If an image has a box here, the box is used and the phrase is not searched for."),
                _names_input(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        florence2: list[Florence2],
        sam2: list[Sam2],
        phrase: list[str],
        boxes: list | None = None,
        names: list[str] | None = None,
        **inputs: list,
    ) -> io.NodeOutput:
        finder, words = florence2[0], phrase[0].strip()
        if not words:
            raise UserError("phrase is empty: type what to find, such as the dog.")
        photos = _pixels(images)
        given = _wired(boxes, len(photos)) or [[]] * len(photos)

        def find(i: int) -> list[Detection]:
            return given[i] or ask(finder, (digest(photos[i]), words), lambda: finder.ground(photos[i], words))

        return _output(cls, photos, names, find, sam2[0], inputs, f"nothing like {words!r} was found")


class MaskFromBoxes(io.ComfyNode):
    """Boxes from another node, or typed -> masks (SAM2)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorMaskFromBoxes",
            display_name="Mask From Boxes (SAM2)",
            category="attractor",
            description="Masks what is inside the given boxes. One mask per image, always in order.",
            search_aliases=["segment anything", "bbox to mask", "sam2 box"],
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                _images_input(),
                Sam2Type.Input("sam2", tooltip="From Load SAM2."),
                io.String.Input(
                    "typed_boxes",
                    default="",
                    multiline=True,
                    tooltip="Used if no boxes are wired. x, y, width, height in pixels, one line per image; a single line is "
                    "used for all. Separate several boxes of one image by ;",
                ),
                *_choice_inputs("an image has no box"),
                *_cleaning_inputs(),
                _boxes_input("Used instead of typed_boxes."),
                _names_input(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        sam2: list[Sam2],
        typed_boxes: list[str],
        boxes: list | None = None,
        names: list[str] | None = None,
        **inputs: list,
    ) -> io.NodeOutput:
        photos = _pixels(images)
        found = _wired(boxes, len(photos))
        if found is None:
            if not typed_boxes[0].strip():
                raise UserError(
                    "boxes: none are wired and typed_boxes is empty. Wire BOUNDING_BOX, or type x, y, width, height."
                )
            try:
                found = parse_boxes(typed_boxes[0], len(photos))
            except ValueError as error:
                raise UserError(f"typed_boxes: {error}. Type one line per image, or one for all.") from error
        return _output(cls, photos, names, found.__getitem__, sam2[0], inputs, "it has no box inside the image")


def _pixels(images: list[Tensor]) -> list[Tensor]:
    """Every image as (H, W, 3), not copied: photos are large."""
    return [image[..., :3].expand(-1, -1, 3).to("cpu", torch.float32) for batch in images for image in batch]


def _wired(boxes: list | None, images: int) -> list[list[Detection]] | None:
    """Boxes for each image; None if nothing is wired.

    Raises:
        UserError: they do not match the images.
    """
    if boxes is None:
        return None
    try:
        return read_boxes(boxes, images)
    except ValueError as error:
        raise UserError(f"boxes: {error}. Wire boxes for each image, or one for all, in pixels of the image.") from error


def _output(
    cls: type[io.ComfyNode],
    images: list[Tensor],
    names: list[str] | None,
    find: Callable[[int], list[Detection]],
    sam2: Sam2,
    inputs: dict[str, list],
    nothing: str,
) -> io.NodeOutput:
    choices = Choices(**{name: values[0] for name, values in inputs.items()})
    numbers = [f"image {i}" for i in range(1, len(images) + 1)]
    if names:
        if len(names) != len(images):
            raise UserError(f"names: there are {len(images)} images and {len(names)} names. Wire both from the same node.")
        numbers = [f"{number} ({name})" for number, name in zip(numbers, names, strict=True)]
    progress = Progress(len(images), cls.hidden.unique_id)

    def report(done: int, picture: Image.Image, lines: str) -> None:
        progress.update(done, picture)
        progress.text(lines)

    results, overlays, previews, text = mask_images(images, numbers, find, sam2, choices, nothing, report)
    masks = [result.mask[None] for result in results]
    shown = ui.PreviewImage([to_tensor(preview)[0] for preview in previews], cls=cls).as_dict()
    return io.NodeOutput(
        masks,
        [overlay[None] for overlay in overlays],
        [result.boxes() for result in results],
        [1 - mask for mask in masks],
        ui=said(text, **shown),
    )


def _images_input() -> io.Image.Input:
    return io.Image.Input("images", tooltip="A batch, or a list of images of different sizes.")


def _boxes_input(use: str) -> io.MultiType.Input:
    return io.MultiType.Input(
        "boxes",
        types=[io.BoundingBox, io.Custom("BBOX")],
        optional=True,
        tooltip=f"{use} BOUNDING_BOX {{x, y, width, height}} or BBOX (left, top, right, bottom), in "
        "pixels of the image: for each image, or one for all.",
    )


def _names_input() -> io.String.Input:
    return io.String.Input(
        "names",
        optional=True,
        force_input=True,
        tooltip="Names of the images for messages, for example from Load Subject Images.",
    )


def _choice_inputs(nothing: str) -> list:
    return [
        io.Combo.Input(
            "choose",
            options=list(CHOICES),
            default=CHOICES[0],
            tooltip="Which box to use if there are several. highest score: the one whose mask SAM2 rates best. all: one mask "
            "over all of them. index: by number, as drawn on the overlay.",
        ),
        io.Int.Input("index", default=0, min=-100, max=100, tooltip="For choose = index; the first is 0, the last -1."),
        io.Combo.Input(
            "if_nothing_found",
            options=list(NOTHING_FOUND),
            default=NOTHING_FOUND[0],
            tooltip=f"What to do if {nothing}. error: process the other images, then stop and list every image without a mask. "
            "whole image, empty: use such a mask and continue.",
        ),
    ]


def _cleaning_inputs() -> list:
    more = {"optional": True, "advanced": True}
    return [
        io.Float.Input(
            "threshold",
            default=0.0,
            min=-20.0,
            max=20.0,
            step=0.1,
            **more,
            tooltip="How sure SAM2 must be of a pixel, as a logit: 0 is 50 %. Above 0 the mask leaves out uncertain edges, "
            "below 0 it includes them. Try 1 or -1 first.",
        ),
        io.Boolean.Input(
            "fill_holes",
            default=False,
            **more,
            tooltip="Fill the holes of the mask. Not for subjects with real holes, such as the handle of a mug.",
        ),
        io.Boolean.Input("keep_largest", default=False, **more, tooltip="Keep only the largest connected piece."),
        io.Int.Input(
            "grow",
            default=0,
            min=-512,
            max=512,
            **more,
            tooltip="Grow the mask by this many pixels; negative values shrink it.",
        ),
        io.Int.Input("feather", default=0, min=0, max=512, **more, tooltip="Width of the soft edge in pixels."),
        io.Boolean.Input("invert", default=False, **more, tooltip="Mask everything but the subject."),
    ]


def _outputs() -> list:
    return [
        io.Mask.Output(
            "masks", is_output_list=True, tooltip="One for each image, 1 on the subject. Wire to Train Attractor Embedding."
        ),
        io.Image.Output("overlay", is_output_list=True, tooltip="The photos with mask and boxes drawn on them."),
        io.BoundingBox.Output(
            "boxes_out", display_name="boxes", is_output_list=True, tooltip="The boxes that were used, for each image."
        ),
        io.Mask.Output("background_masks", is_output_list=True, tooltip="1 - mask: the area of the background loss."),
    ]
