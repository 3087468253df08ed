"""The captions of photos: a text file of the same name beside each, as other trainers have them."""

from collections.abc import Iterable
from pathlib import Path

from ...trainer.reading import BadFile, check_size, why
from ..pictures import BadPicture, printable

_LARGEST = 64 * 1024  # bytes; a prompt of 77 tokens has a few hundred


def caption_of(photo: Path) -> str:
    """The first line of a photo's caption file, "" if there is none.

    Raises:
        BadPicture: it cannot be read.
    """
    path = photo.with_suffix(".txt")
    if not path.is_file():
        return ""
    try:
        check_size(path, _LARGEST, "a caption")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (BadFile, OSError, UnicodeDecodeError) as error:
        raise BadPicture(printable(path.name), f"the caption of this photo, {why(error)}") from error
    return next((" ".join(line.split()) for line in lines if line.strip()), "")


def captioned(photos: Iterable[Path]) -> list[Path]:
    """Photos, and the caption files that they have."""
    found = list(photos)
    return [*found, *(path for photo in found if (path := photo.with_suffix(".txt")).is_file())]
