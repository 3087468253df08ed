"""Pictures in their three forms: a file, a PIL image, and the host's IMAGE and MASK tensors."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..trainer.reading import MEGABYTE, check_size, why
from .errors import UserError

LARGEST_FILE, MOST_PIXELS = 512 * MEGABYTE, 100_000_000
# What photos are kept in, by Pillow's names. What else it reads are drawings, icons and layers, or runs other programs (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
# To Pillow these are TIFFs, and it would read the thumbnails in them.
_RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}
_TO_CONVERT = {".heic", ".heif", ".jxl", ".psd", ".svg", ".tga", ".exr", ".hdr", ".xcf", *_RAW}
_BESIDE_PHOTOS = {".txt", ".json"}  # captions and settings, whatever is in them
_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"}
_OF_TRAINERS = ("-masklabel.png", "-condlabel.png")


class BadPicture(UserError):
    """A file that cannot be read as a picture. reason: the same without name and remedy."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} cannot be read ({reason}). Replace or remove it, or save it again as JPEG or PNG.")
        self.reason = reason


def printable(name: str) -> str:
    """A file's name as it can be shown, hashed and sent: bytes that are no UTF-8 are written out, as in `photo\\xff.png`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sort key under which `photo-2` comes before `photo-10`."""
    parts = re.split(r"([0-9]+)", name)  # every second one is a number; other digits, such as ² and ①, are letters here
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)], name


def is_no_photo(name: str) -> bool:
    """Whether a file or folder of this name is what systems and other trainers leave beside photos."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS or name.lower().endswith(_OF_TRAINERS)


def is_picture(path: Path) -> bool:
    """Whether a file is meant to be a photo: by its content, or where that is not readable by its name.

    This is the only list of picture kinds: what it lets pass, `read_picture` reads or names.
    """
    suffix = path.suffix.lower()
    if is_no_photo(path.name) or suffix in _BESIDE_PHOTOS or not os.path.isfile(path):
        return False
    if suffix in _TO_CONVERT or Image.registered_extensions().get(suffix) in FORMATS:
        return True
    try:
        with opened(path):
            return True
    except BadPicture:
        return False


def read_picture(path: Path, longest_side: int = 0) -> tuple[Tensor, Tensor | None, str]:
    """A picture, turned as its EXIF orientation says; scaled down if its longest side has more than so many pixels (0: never).

    Returns:
        image (H, W, 3) float32 in 0..1; alpha (H, W) in 0..1, 1 where opaque, or None if it has none; a note on
        what a person would not expect ("the first of several frames"), or "".

    Raises:
        BadPicture: the file is not a picture, damaged, or far too large.
    """
    with opened(path, longest_side) as file:
        note = "the first of several frames" if getattr(file, "is_animated", False) else ""
        deep = _white(file) if file.mode == "F" or file.mode.startswith("I") else None
        picture = ImageOps.exif_transpose(file)
        if deep is not None:  # more than 8 bits, to which Pillow would clip them
            grey = np.nan_to_num(np.asarray(picture).astype(np.float32) / deep, posinf=1)
            values = np.repeat(np.asarray(_fitted(Image.fromarray(grey), longest_side))[..., None], 3, axis=2).clip(0, 1)
        else:
            has_alpha = "A" in picture.getbands() or "transparency" in picture.info
            values = np.array(_fitted(picture.convert("RGBA" if has_alpha else "RGB"), longest_side), dtype=np.float32)
            values /= 255
    alpha = torch.from_numpy(values[..., 3].copy()) if values.shape[2] == 4 else None
    return torch.from_numpy(np.ascontiguousarray(values[..., :3])), alpha, note


@contextmanager
def opened(path: Path, longest_side: int = 0) -> Iterator[Image.Image]:
    """The first frame of a picture file, not decoded yet. longest_side: it will be scaled down to; JPEGs then decode to less.

    Raises:
        BadPicture: it cannot be opened, or whatever the block meets: damaged files make the readers raise nearly anything.
    """
    try:
        check_size(path, LARGEST_FILE, "a photo")
        with _open(path) as file:
            file.seek(0)
            if longest_side > 0:  # to twice as much, from which it is scaled down with care
                ratio = 2 * longest_side / max(file.size)
                file.draft("RGB", (max(1, int(file.width * ratio)), max(1, int(file.height * ratio))))
            _check_pixels(file.size)
            yield file
    except BadPicture:
        raise
    except Exception as error:
        raise BadPicture(printable(path.name), _reason(error)) from error


def _open(path: Path) -> Image.Image:
    if path.suffix.lower() in _RAW:
        raise ValueError("it is a raw photo: convert it to JPEG or PNG")
    with open(path, "rb") as file:
        start = file.read(12)
    if start[4:8] != b"ftyp" or start[8:] not in _HEIC:
        return Image.open(path, formats=_formats())
    try:
        import pillow_heif  # only where somebody has installed it
    except ImportError:
        raise ValueError("it is an HEIC photo: convert it to JPEG or PNG, or install pillow-heif") from None
    photo = pillow_heif.open_heif(path)
    _check_pixels(photo.size)
    return photo.to_pillow()


def _check_pixels(size: tuple[int, int]) -> None:
    if (count := size[0] * size[1]) > MOST_PIXELS:
        raise ValueError(f"it has {count / 1e6:.0f} million pixels, and {MOST_PIXELS / 1e6:.0f} million is the most")


@lru_cache
def _formats() -> list[str]:
    """Those that the installed Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or of a kind that is not read here"
    if isinstance(error, Image.DecompressionBombError):
        return "it has far too many pixels"
    return "it is cut short" if isinstance(error, EOFError) else why(error)


def _white(file: Image.Image) -> float:
    """The value of white in a greyscale picture of more than 8 bits, which only 16-bit files are sure of."""
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG"):
        return 65535
    values = np.asarray(file)
    if not np.isfinite(values).any():
        raise ValueError("it holds numbers that are not finite, and no others")
    top = float(values[np.isfinite(values)].max())
    limits = (1, 255, 65535) if file.mode == "I" else (16, 255, 65535)  # fractions may have highlights beyond 1
    limit = next((limit for limit in limits if top <= limit), top)
    return 1 if limit == 16 else limit


def _fitted(picture: Image.Image, longest_side: int) -> Image.Image:
    """Scaled down if its longest side has more pixels (0: never)."""
    scale = longest_side / max(picture.size)
    if not 0 < scale < 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if picture.mode != "RGBA":
        return picture.resize(size, Image.Resampling.BICUBIC)
    # Channel by channel: all at once, Pillow would blacken what is transparent.
    return Image.merge("RGBA", [picture.getchannel(band).resize(size, Image.Resampling.BICUBIC) for band in "RGBA"])


def as_images(batches: list[Tensor]) -> list[Tensor]:
    """Every image of a list of IMAGE batches as a float32 CPU tensor (H, W, C), grey ones in colour.

    Views where they can be, as originals are large: what upstream nodes hand over are inference tensors, which autograd cannot
    use, but only what is made of them is trained on.

    Raises:
        UserError: a batch that is not an IMAGE, or no image at all.
    """
    found = []
    for number, batch in enumerate(batches, 1):
        if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4) or 0 in batch.shape[1:]:
            raise UserError(
                f"images: batch {number} has the shape {tuple(batch.shape)}, and an IMAGE is (images, height, width, 3). "
                "Wire the output of a node that loads or makes images."
            )
        pixels = batch.expand(-1, -1, -1, 3) if batch.shape[-1] == 1 else batch
        found += [image.to("cpu", torch.float32) for image in pixels]
    if not found:
        raise UserError("images: there are none in what is wired. Wire at least one photo.")
    return found


def as_masks(batches: Sequence[Tensor | None] | None) -> list[Tensor] | None:
    """Every mask of a list of MASK batches as a float32 CPU tensor (H, W) of its own; None if nothing is wired.

    Raises:
        UserError: a batch that is not a MASK.
    """
    if batches is None:
        return None
    found = []
    for number, batch in enumerate(batches, 1):
        if batch is None:
            continue
        masks = batch[None] if batch.ndim == 2 else batch
        if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):  # with a channel, as some packs make them
            masks = masks[..., 0] if masks.shape[3] == 1 else masks[:, 0]
        if masks.ndim != 3:
            raise UserError(
                f"masks: batch {number} has the shape {tuple(batch.shape)}, and a MASK is (masks, height, width). Wire a MASK "
                "output; Convert Image to Mask makes one of a picture."
            )
        found += [mask.to("cpu", torch.float32).clone() for mask in masks]
    return found


def beside(chart: Image.Image, sample: Image.Image | None) -> Image.Image:
    """The chart, with the latest sample at its right if there is one."""
    if sample is None:
        return chart
    scaled = sample.resize((round(sample.width * chart.height / sample.height), chart.height))
    both = Image.new("RGB", (chart.width + scaled.width, chart.height), "white")
    both.paste(chart, (0, 0))
    both.paste(scaled, (chart.width, 0))
    return both


def to_tensor(image: Image.Image) -> Tensor:
    """IMAGE (1, H, W, 3) in 0..1 of a picture."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)[None]


def to_picture(images: Tensor) -> Image.Image:
    """The first of an IMAGE batch (B, H, W, 3) in 0..1 as a picture."""
    return Image.fromarray((images[0, ..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())
