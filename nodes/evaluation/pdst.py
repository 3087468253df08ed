"""The PDST layout on disk, and everything that can be wrong with it.

<root>/<subject>/meta.json          {"super_category": "dog", "kind": "living" | "rigid", "source": ..., "licence": ...}
<root>/<subject>/train/*            photos
<root>/<subject>/test/*             photos that training never sees
<root>/<subject>/test/<photo>.txt   captions of the photo of that name, one per line, {} where the subject goes
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ...trainer.concept import LONGEST_TEXT, is_text
from ...trainer.reading import MEGABYTE, BadFile, check_size, read_json, shown_text
from ..errors import UserError
from ..pictures import BadPicture, is_no_photo, is_picture, natural_order, printable
from .same_photo import Look, look_at, same_photo

KINDS = ("living", "rigid")
SLOT = "{}"
MOST_CAPTIONS, LONGEST_CAPTION = 1_000, 1_000  # of a photo; a prompt's chunk holds about 300 characters


@dataclass(frozen=True)
class TestPhoto:
    path: Path
    captions: tuple[str, ...]

    __test__ = False  # not a test class, although pytest would take it for one


@dataclass(frozen=True)
class Subject:
    name: str
    super_category: str
    kind: str
    train: tuple[Path, ...]
    test: tuple[TestPhoto, ...]


@dataclass(frozen=True)
class Dataset:
    root: Path
    subjects: tuple[Subject, ...]


def looks_like_dataset(folder: Path) -> bool:
    """Whether a folder holds a subject, or what was meant to be one."""
    try:
        return any(
            (child / "meta.json").is_file() or ((child / "train").is_dir() and (child / "test").is_dir())
            for child in folder.iterdir()
            if child.is_dir() and not is_no_photo(child.name)
        )
    except OSError:
        return False


def subject_names(root: Path) -> list[str]:
    """The subjects' folders, in natural order."""
    return sorted((p.name for p in root.iterdir() if p.is_dir() and not is_no_photo(p.name)), key=natural_order)


def subject_folder(root: Path, name: str) -> Path:
    """The folder of a subject that a user named.

    Raises:
        UserError: there is none.
    """
    known = subject_names(root)
    if name not in known:
        raise UserError(f"subject: {root.name} has no subject {shown_text(repr(name))}. It has: {', '.join(known) or 'none'}.")
    return root / name


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder, in natural order."""
    return sorted(filter(is_picture, folder.iterdir()), key=lambda path: natural_order(path.name))


def captions_path(photo: Path) -> Path:
    """The caption file of a test photo."""
    return photo.with_suffix(".txt")


def read_captions(path: Path) -> tuple[str, ...]:
    """The captions of a file, blank lines left out.

    Raises:
        BadFile: it is missing, no file, or larger than any captions.
        OSError, UnicodeDecodeError: it cannot be read.
    """
    check_size(path, MEGABYTE, "a file of captions")
    return tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())


def read_dataset(root: Path, subjects: list[str] | None = None, captions: int = 10) -> Dataset:
    """Read and check subjects of a data set; all subjects if none are named.

    Args:
        captions: how many each test photo must have; 0: any number, at least one.

    Raises:
        UserError: every problem of every subject at once.
    """
    names = subject_names(root) if root.is_dir() else []
    problems = (
        []
        if names
        else [f"the folder {root.name} has no subjects: make a folder for each subject in it, with meta.json, train and test."]
    )
    if names:
        unknown = [name for name in subjects or [] if name not in names]
        problems += [f"subjects: there is no subject {name!r}. Available: {', '.join(names)}." for name in unknown]
    found = []
    for name in subjects or names:
        if name in names:
            subject, wrong = _read_subject(root / name, captions)
            problems += [f"{name}{text}" for text in wrong]
            found += [subject] if subject else []
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise UserError(f"The data set {root.name} has {count}:\n" + "\n".join(f"- {text}" for text in problems))
    return Dataset(root, tuple(found))


def _read_subject(folder: Path, count: int) -> tuple[Subject | None, list[str]]:
    """The subject if nothing is wrong, and the problems; their texts continue the subject's name."""
    meta, problems = _read_meta(folder / "meta.json")
    looks: dict[Path, Look] = {}
    paths = {}
    for part in ("train", "test"):
        paths[part], wrong = _read_part(folder / part, looks)
        problems += wrong
    photos = []
    for path in paths["test"]:
        texts, wrong = _read_photo_captions(captions_path(path), count)
        problems += wrong
        photos.append(TestPhoto(path, texts))
    problems += _misplaced(folder, paths)
    problems += _repeated(looks, paths)
    if problems:
        return None, problems
    return Subject(folder.name, meta["super_category"].strip(), meta["kind"], tuple(paths["train"]), tuple(photos)), []


def _read_meta(path: Path) -> tuple[dict, list[str]]:
    form = 'Write {"super_category": "dog", "kind": "living"} into it, with the values of this subject.'
    if not path.exists():
        return {}, [f"/meta.json is missing. {form}"]
    try:
        meta = read_json(path, MEGABYTE, form)
    except BadFile as error:
        return {}, [f"/{error}"]
    if not isinstance(meta, dict):
        return {}, [f"/meta.json is not a JSON object. {form}"]
    problems = []
    word = meta.get("super_category")
    if not isinstance(word, str) or not word.strip():
        problems.append('/meta.json: super_category is missing: say what the subject is, such as "dog".')
    elif not is_text(word):
        problems.append(
            f"/meta.json: super_category is not a text of at most {LONGEST_TEXT} characters: say what the subject is."
        )
    elif SLOT in word or any(mark in word for mark in "<>\n"):
        problems.append(f"/meta.json: super_category {word!r} is not a plain word: say what the subject is, such as dog.")
    if meta.get("kind") not in KINDS:
        problems.append(f"/meta.json: kind is {meta.get('kind')!r}: write living or rigid.")
    return meta, problems


def _read_part(folder: Path, looks: dict[Path, Look]) -> tuple[list[Path], list[str]]:
    """The photos of `train` or `test`. Adds how each of them looks to `looks`."""
    part = folder.name
    if not folder.is_dir():
        return [], [f"/{part} is missing: create this folder and put the {part} photos there."]
    photos, problems = pictures(folder), []
    if not photos:
        problems.append(f"/{part} has no photos: put at least one there.")
    for path in sorted(folder.iterdir(), key=lambda path: natural_order(path.name)):
        texts = {".txt"} if part == "test" else {".txt", ".json"}  # training tools leave captions beside photos
        name = printable(path.name)
        if name != path.name:  # which no results file could name
            problems.append(f"/{part}/{name} has a name in bytes that are no UTF-8: rename it.")
        elif path not in photos and path.suffix.lower() not in texts and not is_no_photo(path.name):
            problems.append(f"/{part}/{name} is not an image file of a known type: remove it, or save it as PNG or JPEG.")
    for path in photos:
        try:
            looks[path] = look_at(path)
        except BadPicture as error:
            problems.append(f"/{part}/{error}")
    return photos, problems


def _read_photo_captions(path: Path, count: int) -> tuple[tuple[str, ...], list[str]]:
    where = f"/test/{path.name}"
    if not os.path.exists(path):
        return (), [f"{where} is missing: write the photo's captions there, one per line, with {{}} where the subject goes."]
    try:
        captions = read_captions(path)
    except BadFile as error:
        return (), [f"/test/{error}"]
    except (OSError, UnicodeDecodeError) as error:
        return (), [f"{where} cannot be read ({brief(error)}): save it as UTF-8 text."]
    if len(captions) > MOST_CAPTIONS or any(len(caption) > LONGEST_CAPTION for caption in captions):
        most = f"{MOST_CAPTIONS:,} captions of {LONGEST_CAPTION:,} characters"
        return (), [f"{where} has more or longer captions than a photo can have ({most}): shorten it."]
    problems = []
    if not captions or (count and len(captions) != count):
        wanted = (
            f"{count} are required: add or remove captions, or set captions_per_photo to another number (0: any number)"
            if count
            else "write at least one"
        )
        problems.append(f"{where} has {len(captions)} captions; {wanted}.")
    seen: set[str] = set()
    for number, caption in enumerate(captions, 1):
        if SLOT not in caption:
            problems.append(f"{where}, caption {number} ({_short(caption)}) has no {{}}: write {{}} where the subject goes.")
        if any(mark in caption for mark in "<>"):
            problems.append(f"{where}, caption {number} ({_short(caption)}) contains < or >, which mark tokens: remove it.")
        if caption in seen:
            problems.append(f"{where}, caption {number} ({_short(caption)}) is there twice: change or remove one.")
        seen.add(caption)
    return captions, problems


def _misplaced(folder: Path, paths: dict[str, list[Path]]) -> list[str]:
    """Caption files without a photo, and photos that would share one."""
    if not (folder / "test").is_dir():
        return []
    stems = [path.stem for path in paths["test"]]
    problems = [
        f"/test/{path.name} does not belong to any photo: give it the name of its photo, or remove it."
        for path in sorted((folder / "test").glob("*.txt"))
        if path.stem not in stems
    ]
    for stem in dict.fromkeys(stem for stem in stems if stems.count(stem) > 1):
        names = " and ".join(path.name for path in paths["test"] if path.stem == stem)
        problems.append(f"/test: {names} differ only in their extension and would share their captions: rename one.")
    return problems


def _repeated(looks: dict[Path, Look], paths: dict[str, list[Path]]) -> list[str]:
    """Test photos that are also training photos, or are there twice."""
    problems = []
    tests = [path for path in paths["test"] if path in looks]
    for i, test in enumerate(tests):
        for other in [*(path for path in paths["train"] if path in looks), *tests[:i]]:
            if same_photo(looks[test], looks[other]):
                problems.append(
                    f"/test/{test.name} is the same picture as {other.parent.name}/{other.name}: remove one, because scores "
                    "must come from photos that training has never seen."
                )
    return problems


def brief(error: Exception) -> str:
    """What is wrong, without the path that Pillow and the system put into it."""
    return getattr(error, "strerror", None) or str(error).split(" '")[0]


def _short(caption: str) -> str:
    return caption if len(caption) <= 60 else caption[:57] + "..."
