"""The images of an evaluation on disk: those it makes, and small copies of the photos they are compared with."""

import hashlib
from pathlib import Path

from PIL import Image
from torch import Tensor

from ...trainer.storage import replacing
from ..pictures import opened, read_picture, to_picture
from .header import describe_subject
from .pdst import Subject
from .plan import Shot
from .results import writing

_PHOTO_SIDE = 512  # pixels of the longest side of a copy


def image_name(label: str, subject: str, photo: Path, caption: int, index: int) -> str:
    """Of an image's file, relative to the evaluation's folder. caption, index: from 0."""
    return f"images/{label}/{subject}/{photo.stem}-{caption + 1:02d}-{index + 1}.png"


def save_image(folder: Path, image: Tensor, label: str, subject: Subject, shot: Shot) -> str:
    """Write an image (H, W, 3) in 0..1 as PNG; its name relative to the evaluation's folder.

    Raises:
        UserError: it could not be written.
    """
    name = image_name(label, subject.name, subject.test[shot.photo].path, shot.caption, shot.index)
    with writing(name), replacing(folder / name) as temporary:
        to_picture(image[None]).save(temporary, format="PNG", compress_level=1)
    return name


def pixels_hash(image: Tensor) -> str:
    """A hash of an image (H, W, 3) in 0..1 as it is saved, in 8 bits."""
    pixels = (image * 255).round().byte().cpu().contiguous().numpy()
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:16]


def keep_photos(folder: Path, subject: Subject, missing: bool = False) -> None:
    """Small copies of the test photos, so that the results can be looked at where the data set is not.

    missing: only of those that have none.

    Raises:
        UserError: one could not be written.
    """
    for photo, name in zip(subject.test, describe_subject(subject)["references"], strict=True):
        if missing and (folder / name).is_file():
            continue
        picture = to_picture(read_picture(photo.path, _PHOTO_SIDE)[0][None])
        with writing(name), replacing(folder / name) as temporary:
            picture.save(temporary, format="JPEG", quality=92)


def photo_copy(folder: Path, subject: Subject, shot: Shot) -> Image.Image:
    """The copy of the test photo that an image's caption was written for.

    Raises:
        BadPicture: it cannot be read.
    """
    name = describe_subject(subject)["references"][shot.photo]
    with opened(folder / name) as file:
        return file.convert("RGB")
