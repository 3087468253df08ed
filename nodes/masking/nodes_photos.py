"""Nodes that load a folder of photos and crop them to the training resolution."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ...trainer.reading import shown_text
from ..errors import UserError, validated
from ..host import folders
from ..host.progress import Progress, said
from ..pictures import BadPicture, as_images, as_masks, natural_order, printable, read_picture
from .caption_files import caption_of, captioned
from .cropping import WHERE, crop, empty_mask, square_around, subject_box

_OPAQUE, _TRANSPARENT, _IGNORED = "opaque is the subject", "transparent is the subject", "ignored"
_STOP, _SKIP = "stop", "leave out"
LONGEST_SIDE = 2048  # 33 MB a photo; a subject that fills a quarter of its width still has the 512 pixels of a training


class LoadSubjectImages(io.ComfyNode):
    """Every image in a folder, in order, with its alpha channel as the mask; each is let go before the next is decoded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadSubjectImages",
            display_name="Load Subject Images",
            category="attractor",
            description="Loads every image in a folder under ComfyUI's input folder: upright, in natural order, each in its "
            "own shape. Wire images and masks to Train Attractor Embedding.",
            search_aliases=["load image folder", "load images", "training photos", "dataset", "textual inversion photos"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=folders.picture_folders(),
                    default=folders.EXAMPLE,
                    tooltip="A folder under ComfyUI's input folder, or the five photos that come with this pack. Press R to "
                    "refresh the list.",
                ),
                io.Combo.Input(
                    "alpha",
                    options=[_OPAQUE, _TRANSPARENT, _IGNORED],
                    default=_OPAQUE,
                    tooltip="How to read the alpha channel. Cut-outs: opaque is the subject. Painted in "
                    "the mask editor: transparent is the subject.",
                ),
                io.Combo.Input(
                    "unreadable_files",
                    options=[_STOP, _SKIP],
                    default=_STOP,
                    tooltip="stop: an error that lists all files that cannot be read. leave out: continue without them and "
                    "list them on the node.",
                ),
                io.Int.Input(
                    "longest_side",
                    default=LONGEST_SIDE,
                    min=0,
                    max=16384,
                    step=64,
                    optional=True,
                    advanced=True,
                    tooltip="Larger photos are scaled down to this many pixels as they are read, to save memory: a photo of "
                    "24 megapixels takes 290 MB. Enough for Crop To Subject and training. 0: never.",
                ),
            ],
            outputs=[
                io.Image.Output("images", is_output_list=True, tooltip="A list of images, each in its own shape."),
                io.Mask.Output(
                    "masks",
                    is_output_list=True,
                    tooltip="One for each image, 1 on the subject; all 0 if an image has no alpha channel.",
                ),
                io.String.Output("names", is_output_list=True, tooltip="The file names, in the same order."),
                io.String.Output(
                    "captions",
                    tooltip="The first line of the .txt file beside each photo, one a line; empty where there is none. Wire to "
                    "captions of Training Options.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        return validated(folder, folders.pictures_in)

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> str:
        return folders.stamps(lambda: captioned(folders.pictures_in(folder)))

    @classmethod
    def execute(cls, folder: str, alpha: str, unreadable_files: str, longest_side: int = LONGEST_SIDE) -> io.NodeOutput:
        paths = sorted(folders.pictures_in(folder), key=lambda path: natural_order(path.name))
        images, masks, names, captions, lines, broken = [], [], [], [], [], []
        progress = Progress(len(paths), cls.hidden.unique_id)
        for done, path in enumerate(paths):
            progress.update(done)
            try:
                image, opaque, note = read_picture(path, longest_side)
                caption = caption_of(path)
            except BadPicture as error:
                broken.append(f"{printable(path.name)}: {error.reason}")
                continue
            if opaque is None or alpha == _IGNORED:
                mask = empty_mask(image)
            else:
                mask = opaque if alpha == _OPAQUE else 1 - opaque
            images.append(image[None])
            masks.append(mask[None])
            names.append(printable(path.name))
            captions.append(caption)
            masked = f"mask {mask.mean():.0%}" if mask.any() else "no mask"
            about = [f"{image.shape[1]} x {image.shape[0]}", masked, note, shown_text(caption, 40)]
            lines.append(f"{len(names)}. {names[-1]}: " + ", ".join(part for part in about if part))
        if broken and (unreadable_files == _STOP or not images):
            raise UserError(
                "folder: these files cannot be read:\n" + "\n".join(broken) + "\nReplace or remove them, save them "
                "again as JPEG or PNG, or set unreadable_files to 'leave out'."
            )
        if not images:
            raise UserError(f"folder: there are no images in {folder!r}. Put the photos there, or choose another folder.")
        text = "\n".join([*lines, *(f"left out: {line}" for line in broken)])
        progress.update(len(paths))
        said_of = "".join(f"{caption}\n" for caption in captions) if any(captions) else ""
        return io.NodeOutput(images, masks, names, said_of, ui=said(text))


class CropToSubject(io.ComfyNode):
    """Squares of the training resolution, cut around the subject or at the centre."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorCropToSubject",
            display_name="Crop To Subject",
            category="attractor",
            description="Cuts a square out of each photo, around the subject or at the centre, and scales it to the training "
            "resolution. Nothing is stretched.",
            search_aliases=["crop by mask", "crop training photos", "resize photos", "center crop"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A batch, or a list of images of different sizes."),
                io.Mask.Input("masks", tooltip="One mask per image, in order, 1 on the subject."),
                io.Combo.Input(
                    "where",
                    options=list(WHERE),
                    default=WHERE[0],
                    tooltip="Where the square is. An image with an empty mask is cropped at the centre.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.25,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="Space to leave on each side of the subject, as a fraction of its longer side. The attractor "
                    "learns the background: leave some.",
                ),
                io.Int.Input("resolution", default=512, min=64, max=2048, step=64, tooltip="Side of the squares, in pixels."),
            ],
            outputs=[
                io.Image.Output("images_out", display_name="images", tooltip="A batch of squares."),
                io.Mask.Output("masks_out", display_name="masks", tooltip="Their masks."),
            ],
        )

    @classmethod
    def execute(
        cls, images: list[Tensor], masks: list[Tensor], where: list[str], margin: list[float], resolution: list[int]
    ) -> io.NodeOutput:
        images, masks = as_images(images), as_masks(masks) or []
        if len(images) != len(masks):
            raise UserError(f"masks: there are {len(images)} images and {len(masks)} masks. Wire one mask per image, in order.")
        cut = []
        for i, (image, mask) in enumerate(zip(images, masks, strict=True), 1):
            if not mask.any():
                mask = empty_mask(image)  # Load Image gives 64 x 64 zeros where nothing is painted
            if mask.shape != image.shape[:2]:
                raise UserError(
                    f"masks: the mask of image {i} is {mask.shape[1]} x {mask.shape[0]} pixels, the image "
                    f"{image.shape[1]} x {image.shape[0]}. Wire masks that were made from these images."
                )
            box = subject_box(mask) if where[0] == WHERE[0] else None
            cut.append(crop(image[..., :3], mask, square_around(mask.shape[0], mask.shape[1], box, margin[0]), resolution[0]))
        pictures, cut_masks = zip(*cut, strict=True)
        return io.NodeOutput(torch.stack(pictures), torch.stack(cut_masks))
