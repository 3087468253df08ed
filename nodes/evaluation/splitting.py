"""Makes a subject of a data set from a folder of photos: checks them, and copies them to train and test."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from ...trainer.reading import check_size, read_json
from ...trainer.storage import replacing
from ..errors import UserError
from ..host import folders
from ..pictures import LARGEST_FILE, BadPicture, printable
from .pdst import brief, pictures
from .same_photo import look_at, same_photo

FEWEST = 6


def naming_problems(dataset: str, subject: str, paths: list[Path]) -> list[str]:
    """Why the photos cannot be copied to a subject of this name; empty if they can."""
    problems = folders.name_problems(dataset, "dataset") + folders.name_problems(subject, "subject")
    problems += [
        f"{field}: {folders.quoted(name)} contains a /: use a plain name."
        for field, name in (("dataset", dataset), ("subject", subject))
        if "/" in name
    ]
    if problems or os.path.isdir(folder := folders.new_dataset_path(dataset) / subject):
        return problems
    longest = max((path.name for path in paths), key=lambda name: len(os.fsencode(name)), default="meta.json")
    files = [f"{dataset}/{place.name}/train/{longest}" for place in (folder, unfinished(folder))]
    return folders.place_problems(folder.parent.parent, files, f"dataset, subject: {dataset}/{subject}")


def photo_problems(folder: str, paths: list[Path], train: int) -> list[str]:
    if len(paths) < FEWEST:
        return [
            f"photos: {folder!r} has {len(paths)} photos, and {FEWEST} or more are needed: some to train on, the others to "
            "hold back. Add photos, or choose another folder."
        ]
    problems, looks = [], {}
    if train >= len(paths):
        problems.append(f"train_photos is {train} of {len(paths)}: none would be held back. Use {len(paths) - 1} or fewer.")
    for path in paths:
        try:
            looks[path] = look_at(path)
        except BadPicture as error:
            problems.append(f"photos: {error}")
    problems += [
        f"photos: {printable(path.name)} has a name in bytes that are no UTF-8: rename it."
        for path in paths
        if printable(path.name) != path.name
    ]
    seen = list(looks)
    problems += [
        f"photos: {other.name} and {path.name} are the same picture: remove one, otherwise training might see a test photo."
        for i, path in enumerate(seen)
        for other in seen[:i]
        if same_photo(looks[path], looks[other])
    ]
    stems = [path.stem.lower() for path in paths]
    problems += [
        f"photos: {path.name} and another photo differ only in their extension: rename one."
        for i, path in enumerate(paths)
        if path.stem.lower() in stems[:i]
    ]
    return problems


def unfinished(folder: Path) -> Path:
    """Where a subject's folder is made before it gets its name."""
    return folder.with_name(f".{folder.name}.tmp")


def place(folder: Path, parts: dict[str, list[Path]], meta: dict) -> str:
    """Copy the photos to a subject's folder, completely or not at all; a text about what was done.

    Raises:
        UserError: the folder exists with something else in it, or cannot be written.
    """
    lines = [f"{part}: {', '.join(path.name for path in paths)}" for part, paths in parts.items()]
    if folder.exists():
        if _is_this(folder, parts, meta):
            return "\n".join([f"{folder.name} already exists, split like this.", *lines])
        raise UserError(
            f"subject: {folder.parent.name}/{folder.name} already exists with other photos, another split or another "
            "description. Use another name, or delete its folder under models/pdst first."
        )
    temporary = unfinished(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        for part, paths in parts.items():
            (temporary / part).mkdir(parents=True)
            for path in paths:
                shutil.copyfile(path, temporary / part / path.name)
        with replacing(temporary / "meta.json") as file:
            file.write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise UserError(
            f"dataset: {folder.parent.name}/{folder.name} could not be written ({brief(error)}). Free some space, or use "
            "another name."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return "\n".join([f"{folder.parent.name}/{folder.name} was made.", *lines])


def _is_this(folder: Path, parts: dict[str, list[Path]], meta: dict) -> bool:
    """Whether a subject's folder is exactly what would be made."""
    try:
        there = read_json(folder / "meta.json")
        return there == meta and all(
            {path.name: _hash(path) for path in pictures(folder / part)} == {path.name: _hash(path) for path in paths}
            for part, paths in parts.items()
        )
    except (OSError, ValueError):
        return False


def _hash(path: Path) -> str:
    check_size(path, LARGEST_FILE, "a photo")
    return hashlib.sha256(path.read_bytes()).hexdigest()
