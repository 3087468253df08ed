"""Drafts of captions: words for the subject become {}, and what a person has to check is flagged."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ...trainer.reading import MEGABYTE, BadFile, check_size, read_json
from ...trainer.storage import replacing
from ..errors import UserError
from ..host.folders import place_problems
from ..host.progress import Progress
from ..pictures import BadPicture, printable, read_picture
from .pdst import SLOT, captions_path, pictures, read_captions, subject_folder

# An article and up to three words between it and the subject, such as "a small brown {}", but not "a photo of {}".
_DESCRIBED = re.compile(
    r"\b(?:a|an|the)\s+((?:(?!(?:a|an|the|of|with|and|in|on|near|by|to|from|at|is)\b)[a-z-]+\s+){1,3})\{\}", re.IGNORECASE
)
_MOST_WORDS, _LONGEST_WORD = 100, 100
DRAFTS_FILE = "drafts.json"  # hashes of the caption files as drafted: one that differs was edited by hand


class Captioner(Protocol):
    """What drafts captions, such as a loaded Florence-2."""

    def captions(self, image: Tensor, count: int) -> list[str]:
        """Up to `count` sentences that describe an image (H, W, 3) in 0..1."""


@dataclass(frozen=True)
class Draft:
    """A test photo's captions and what to check in them. kept: edited by hand, and therefore not overwritten."""

    photo: Path
    captions: tuple[str, ...]
    flags: tuple[str, ...]
    kept: bool


def subject_words(text: str) -> list[str]:
    """Words for the subject, separated by commas or line breaks; longest first, so that `corgi puppy` comes before `puppy`."""
    words = {" ".join(word.split()).lower() for word in re.split(r"[,\n]", text)} - {""}
    return sorted(words, key=lambda word: (-len(word), word))


def to_caption(text: str, words: list[str]) -> str:
    """A sentence as a caption: on one line, without a full stop, {} in place of the first subject word found in it.

    Articles stay, as in the training prompts (`a photo of a {}`); "my dog" and the like become {} as a whole.
    """
    text = " ".join(re.sub(r"<[^<>]*>|[<>]", " ", text).split()).rstrip(" .")
    if SLOT in text:
        return text
    for word in words:
        pattern = rf"\b(?:(?:my|his|her|their|our|your)\s+)?{re.escape(word)}\b"
        changed = re.sub(pattern, lambda _: SLOT, text, count=1, flags=re.IGNORECASE)
        if changed != text:
            return changed
    return text


def flags(caption: str, words: list[str]) -> list[str]:
    """What a person has to check in a caption."""
    found = []
    if SLOT not in caption:
        found.append("does not mention the subject: write {} where it goes")
    elif caption.count(SLOT) > 1:
        found.append("has {} more than once: check that each one is the subject")
    rest = caption.replace(SLOT, " ")
    named = [word for word in words if re.search(rf"\b{re.escape(word)}(?:e?s)?\b", rest, flags=re.IGNORECASE)]
    if named:
        found.append(f"still names the subject ({', '.join(named)}): remove the word unless it means another one")
    described = _DESCRIBED.search(caption)
    if described:
        found.append(f"describes the subject ({described[1].strip()}): captions should say where it is, not what it looks like")
    if any(mark in caption for mark in "<>"):
        found.append("contains < or >, which mark tokens: remove it")
    return found


def write_drafts(
    folder: Path, photos: list[Path], drafts: list[list[str]], words: list[str], replace_edited: bool
) -> list[Draft]:
    """Write each photo's caption file. Files that were edited by hand are kept unless `replace_edited`.

    folder: of the subject. drafts: sentences, for each photo.

    Raises:
        OSError: a file could not be written; the files before it are complete.
        BadFile: what is there cannot be read.
    """
    record = folder / DRAFTS_FILE
    known = _read_record(record)
    done = []
    for photo, sentences in zip(photos, drafts, strict=True):
        path = captions_path(photo)
        kept = not replace_edited and os.path.exists(path) and _hash(_content(path)) != known.get(path.name)
        if not kept:
            drafted = list(dict.fromkeys(to_caption(sentence, words) for sentence in sentences if sentence.strip()))
            content = "".join(f"{caption}\n" for caption in drafted).encode()
            known[path.name] = _hash(content)
            # The record first: if the process is killed in between, an old draft counts as edited, never the reverse.
            _write(record, json.dumps(known, indent=1, sort_keys=True).encode())
            _write(path, content)
        captions = read_captions(path)
        found = [
            f"{path.name}, caption {number} {flag}: {caption}"
            for number, caption in enumerate(captions, 1)
            for flag in flags(caption, words)
        ]
        done.append(Draft(photo, captions, tuple(found), kept))
    return done


def is_edited(photo: Path) -> bool:
    """Whether a test photo has captions that were written or changed by hand.

    Raises:
        BadFile: they cannot be read.
    """
    path = captions_path(photo)
    return os.path.exists(path) and _hash(_content(path)) != _read_record(photo.parents[1] / DRAFTS_FILE).get(path.name)


def stamp(photo: Path) -> bool | str:
    """What Make PDST Captions has to notice of a photo's captions: whether they exist, and their text if edited by hand.

    The text of drafts does not count: the node writes them itself and would run again every time.
    """
    path = captions_path(photo)
    try:
        return os.path.exists(path) and (not is_edited(photo) or hashlib.sha256(_content(path)).hexdigest())
    except BadFile as error:
        return str(error)  # the node runs and says so


def words_of(typed: str) -> list[str]:
    """The words for the subject that were typed.

    Raises:
        UserError: there are none, or far too many.
    """
    words = subject_words(typed)
    if not words:
        raise UserError("subject_words is empty: type the words that captions use for the subject, such as dog, puppy.")
    if len(words) > _MOST_WORDS or len(words[0]) > _LONGEST_WORD:
        raise UserError(
            f"subject_words: too many or too long ({len(words):,}, the longest of {len(words[0]):,} characters; at most "
            f"{_MOST_WORDS} of {_LONGEST_WORD}). Type only what captions use for the subject."
        )
    return words


def photos_to_caption(root: Path, subject: str) -> list[Path]:
    """The held-out photos of a subject.

    Raises:
        UserError: there are none, two would share their captions, or captions cannot be written beside them.
    """
    test = subject_folder(root, subject) / "test"
    photos = pictures(test) if test.is_dir() else []
    if not photos:
        raise UserError(f"subject: {subject}/test has no photos: put photos there that training must not see.")
    stems = [path.stem for path in photos]
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
    if doubled:
        raise UserError(
            f"subject: several photos in {subject}/test differ only in their extension ({', '.join(doubled)}) and would share "
            "their captions: rename one of each."
        )
    if strange := [printable(path.name) for path in photos if printable(path.name) != path.name]:
        raise UserError(f"subject: {strange[0]} in {subject}/test has a name in bytes that are no UTF-8: rename it.")
    names = [*(captions_path(path).name for path in photos if not os.path.exists(captions_path(path))), f"../{DRAFTS_FILE}"]
    if problems := place_problems(test, names, f"subject: {subject}/test"):
        raise UserError.of(problems)
    return photos


def from_texts(texts: list[str], photos: list[Path]) -> list[list[str]]:
    """Captions for each photo.

    Raises:
        UserError: their number is not that of the photos.
    """
    blocks = texts if len(texts) > 1 else [block for block in re.split(r"\n\s*\n", texts[0]) if block.strip()]
    if len(blocks) != len(photos):
        raise UserError(
            f"texts: there are {len(photos)} photos and {len(blocks)} texts. Wire a list with one text per photo, or one text "
            f"with a blank line between photos, in this order: {', '.join(p.name for p in photos)}."
        )
    return [[line for line in block.splitlines() if line.strip()] for block in blocks]


def from_florence(
    florence2: list[Captioner | None] | None, photos: list[Path], count: int, replace_edited: bool, progress: Progress
) -> list[list[str]]:
    """Drafts by Florence-2 for the photos whose captions will be written."""
    if not florence2 or florence2[0] is None:
        raise UserError(
            "florence2: nothing is wired to it or to texts. Wire Load Florence-2 to have captions drafted, or wire texts."
        )
    drafter = florence2[0]
    drafts: list[list[str]] = []
    for done, photo in enumerate(photos):
        progress.update(done)
        progress.text(f"{photo.name} ({done + 1} of {len(photos)})")
        if not replace_edited and is_edited(photo):
            drafts.append([])
            continue
        try:
            image = read_picture(photo)[0]
        except BadPicture as error:
            raise UserError(f"subject: {error}") from error
        drafts.append(drafter.captions(image, count))
    return drafts


def _read_record(path: Path) -> dict[str, str]:
    try:
        known = read_json(path, MEGABYTE)
    except BadFile:
        return {}  # then every file counts as edited
    return known if isinstance(known, dict) else {}


def _content(path: Path) -> bytes:
    check_size(path, MEGABYTE, "a file of captions")
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:16]
