"""Nodes that make a data set of a person's own photos: Split Subject Photos, Make PDST Captions."""

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

from comfy_api.latest import io

from ...trainer.storage import replacing
from ..errors import UserError
from ..host import folders
from ..host.progress import Progress
from ..link_types import Florence2Type
from ..pictures import natural_order, read_picture
from .captions import is_edited, subject_words, write_drafts
from .nodes_dataset import CATEGORY, folder_input, known_folder
from .pdst import KINDS, UNREADABLE, brief, captions_path, pictures, subject_names
from .same_photo import look_at, same_photo

_FEWEST = 6
_BY_NAME, _SHUFFLED = "by name", "shuffled"


class SplitSubjectPhotos(io.ComfyNode):
    """A folder of photos -> a subject of a PDST data set, some photos to train on and the others held back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorSplitSubjectPhotos",
            display_name="Split Subject Photos",
            category=CATEGORY,
            description="Copies a subject's photos into a data set under models/pdst: some to train on, the others held back "
            "for the test. Go on with Make PDST Captions.",
            search_aliases=["train test split", "held-out", "make dataset"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "photos",
                    options=folders.picture_folders(),
                    tooltip="A folder with 6 or more photos under ComfyUI's input folder; they are copied. "
                    "Press R to refresh the list.",
                ),
                io.String.Input("dataset", default="my-subjects", tooltip="Name of the data set's folder under models/pdst."),
                io.String.Input(
                    "subject",
                    default="my-dog",
                    tooltip="Name of the subject's folder. A token called <my-dog> finds the subject my-dog.",
                ),
                io.String.Input("super_category", default="dog", tooltip="What the subject is, in a word."),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    tooltip="living: people, animals, plants. rigid: things. The report tells them apart.",
                ),
                io.Int.Input(
                    "train_photos",
                    default=5,
                    min=1,
                    max=1000,
                    tooltip="How many to train on (paper: 5 of 15). The others are held back.",
                ),
                io.Combo.Input(
                    "order",
                    options=[_SHUFFLED, _BY_NAME],
                    default=_SHUFFLED,
                    tooltip="shuffled: drawn by the seed. by name: the first ones are trained on.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="For shuffled: the same seed and photos give the same split.",
                ),
                io.String.Input(
                    "source", default="", optional=True, advanced=True, tooltip="Where the photos come from; kept in meta.json."
                ),
                io.String.Input("licence", default="", optional=True, advanced=True, tooltip="Their licence; goes there too."),
            ],
            outputs=[
                io.Image.Output("train_images", is_output_list=True, tooltip="The photos to train on."),
                io.String.Output("train_names", is_output_list=True, tooltip="Their names."),
                io.String.Output("folder", tooltip="The data set, as in the lists of the other nodes."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, photos, **_):
        return [(path.name, path.stat().st_mtime) for path in folders.pictures_in(photos)]

    @classmethod
    def execute(
        cls, photos, dataset, subject, super_category, kind, train_photos, order, seed, source="", licence=""
    ) -> io.NodeOutput:
        dataset, subject = dataset.strip(), subject.strip()
        paths = sorted(folders.pictures_in(photos), key=lambda path: natural_order(path.name))
        problems = folders.name_problems(dataset, "dataset") + folders.name_problems(subject, "subject")
        problems += [
            f"{field}: {name!r} has a /: use a plain name."
            for field, name in (("dataset", dataset), ("subject", subject))
            if "/" in name
        ]
        word = super_category.strip()
        if not word or any(mark in word for mark in "{}<>\n"):
            problems.append(f"super_category is {word!r}: say what the subject is, such as dog.")
        problems += _photo_problems(photos, paths, train_photos)
        if problems:
            raise UserError.of(problems)
        if order == _SHUFFLED:
            random.Random(seed).shuffle(paths)
        by_name = {"train": paths[:train_photos], "test": paths[train_photos:]}
        parts = {part: sorted(chosen, key=lambda path: natural_order(path.name)) for part, chosen in by_name.items()}
        meta = {"super_category": word, "kind": kind, "source": source.strip(), "licence": licence.strip()}
        text = _place(folders.new_dataset_path(dataset) / subject, parts, meta)
        images = [read_picture(path)[0][None] for path in parts["train"]]
        return io.NodeOutput(images, [path.name for path in parts["train"]], f"pdst/{dataset}", ui={"text": [text]})


def _photo_problems(folder: str, paths: list[Path], train: int) -> list[str]:
    if len(paths) < _FEWEST:
        return [
            f"photos: {folder!r} holds {len(paths)} photos: {_FEWEST} or more are needed, to train on some and hold back "
            "the others."
        ]
    problems, looks = [], {}
    if train >= len(paths):
        problems.append(f"train_photos is {train} of {len(paths)}: none would be held back. Use {len(paths) - 1} or fewer.")
    for path in paths:
        try:
            looks[path] = look_at(path)
        except UNREADABLE as error:
            problems.append(f"photos: {path.name} cannot be read ({brief(error)}). Replace or remove it.")
    seen = list(looks)
    problems += [
        f"photos: {other.name} and {path.name} are the same picture: remove one, or training might see a test photo."
        for i, path in enumerate(seen)
        for other in seen[:i]
        if same_photo(looks[path], looks[other])
    ]
    stems = [path.stem.lower() for path in paths]
    problems += [
        f"photos: {path.name} and another differ in their ending only: rename one."
        for i, path in enumerate(paths)
        if path.stem.lower() in stems[:i]
    ]
    return problems


def _place(folder: Path, parts: dict[str, list[Path]], meta: dict) -> str:
    """Copy the photos to a subject's folder, which is whole or absent; a line on what was done.

    Raises:
        UserError: something else is there already, or it cannot be written.
    """
    lines = [f"{part}: {', '.join(path.name for path in paths)}" for part, paths in parts.items()]
    if folder.exists():
        if _is_this(folder, parts, meta):
            return "\n".join([f"{folder.name} is there already, split like this.", *lines])
        raise UserError(
            f"subject: {folder.parent.name}/{folder.name} is there already with other photos, another split or "
            "other facts. Give another name, or delete its folder under models/pdst first."
        )
    temporary = folder.with_name(f".{folder.name}.tmp")
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
            f"dataset: {folder.parent.name}/{folder.name} could not be written ({brief(error)}). Free space or "
            "choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return "\n".join([f"{folder.parent.name}/{folder.name} is made.", *lines])


def _is_this(folder: Path, parts: dict[str, list[Path]], meta: dict) -> bool:
    """Whether a subject's folder is just what would be made."""
    try:
        there = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return there == meta and all(
            {path.name: _hash(path) for path in pictures(folder / part)} == {path.name: _hash(path) for path in paths}
            for part, paths in parts.items()
        )
    except (OSError, ValueError):
        return False


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class MakePDSTCaptions(io.ComfyNode):
    """Drafts the captions of a subject's test photos, to be edited by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorMakePDSTCaptions",
            display_name="Make PDST Captions",
            category=CATEGORY,
            description="Writes a text file with captions beside each test photo, {} where the subject goes, and says which of "
            "them to look at. Edit the files by hand: edited ones are never overwritten unless you ask.",
            search_aliases=["caption", "describe photos", "florence2 caption"],
            is_output_node=True,
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                folder_input(),
                io.String.Input("subject", default="my-dog", tooltip="The subject's folder in the data set."),
                io.String.Input(
                    "subject_words",
                    default="dog, puppy",
                    tooltip="Words that captions call the subject by, parted by commas; they become {}. Florence-2 "
                    "says dog, puppy, animal of the same dog: name all.",
                ),
                io.Int.Input(
                    "captions_per_photo",
                    default=10,
                    min=1,
                    max=30,
                    tooltip="How many to draft with Florence-2 (paper: 10). It may find fewer that differ: write the "
                    "rest by hand.",
                ),
                io.Boolean.Input(
                    "replace_edited",
                    default=False,
                    tooltip="Overwrite caption files that were written or changed by hand, too.",
                ),
                Florence2Type.Input("florence2", optional=True, tooltip="From Load Florence-2, unless texts are wired."),
                io.String.Input(
                    "texts",
                    optional=True,
                    force_input=True,
                    tooltip="Captions from elsewhere, in the photos' order by name: a list with a text for each "
                    "photo, or one text with a blank line between photos. A caption a line.",
                ),
            ],
            outputs=[
                io.String.Output("captions", tooltip="All captions as they now are in the files."),
                io.String.Output("to_check", tooltip="What to look at, a line each; empty if nothing."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder) -> bool | str:
        return known_folder(folder[0] if isinstance(folder, list) else folder)

    @classmethod
    def fingerprint_inputs(cls, folder, subject, **_):
        (folder,), (subject,) = ([value] if isinstance(value, str) else value for value in (folder, subject))
        # Not when the caption files were written: this node writes them itself, and would run again each time.
        test = folders.dataset_path(folder) / subject / "test"
        photos = pictures(test) if test.is_dir() else []
        texts = [captions_path(photo) for photo in photos]
        return [
            (photo.name, photo.stat().st_mtime, text.exists() and (not is_edited(photo) or _hash(text)))
            for photo, text in zip(photos, texts, strict=True)
        ]

    @classmethod
    def execute(
        cls, folder, subject, subject_words, captions_per_photo, replace_edited, florence2=None, texts=None
    ) -> io.NodeOutput:
        (folder,), (subject,), (typed,), (count,) = folder, subject, subject_words, captions_per_photo
        root = folders.dataset_path(folder)
        words = words_of(typed)
        photos = _test_photos(root, subject.strip())
        progress = Progress(len(photos), cls.hidden.unique_id)
        if texts is not None:
            drafts = _from_texts(texts, photos)
        else:
            drafts = _from_florence(florence2, photos, count, replace_edited[0], progress)
        try:
            done = write_drafts(root / subject.strip(), photos, drafts, words, replace_edited[0])
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"folder: captions in {folder}/{subject} could not be read or written ({brief(error)}). Free "
                "space, or save the files as UTF-8 text."
            ) from error
        progress.update(len(photos))
        captions = "\n\n".join("\n".join([draft.photo.name, *draft.captions]) for draft in done)
        to_check = "\n".join(flag for draft in done for flag in draft.flags)
        kept = [draft.photo.name for draft in done if draft.kept]
        shown = [f"{len(done) - len(kept)} caption files written" + (f", {len(kept)} edited by hand and kept" if kept else "")]
        fewer = [f"{draft.photo.name} has {len(draft.captions)}" for draft in done if len(draft.captions) < count]
        if fewer:
            shown.append(f"fewer than {count} captions: {', '.join(fewer)}")
        return io.NodeOutput(captions, to_check, ui={"text": ["\n".join([*shown, *filter(None, [to_check])])]})


def words_of(typed: str) -> list[str]:
    """The subject's words.

    Raises:
        UserError: there are none.
    """
    words = subject_words(typed)
    if not words:
        raise UserError("subject_words is empty: write what captions call the subject, such as dog, puppy.")
    return words


def _test_photos(root: Path, subject: str) -> list[Path]:
    if subject not in subject_names(root):
        raise UserError(f"subject: {root.name} has no subject {subject!r}. It has: {', '.join(subject_names(root)) or 'none'}.")
    test = root / subject / "test"
    photos = pictures(test) if test.is_dir() else []
    if not photos:
        raise UserError(f"subject: {subject}/test holds no photo: put the photos there that training must not see.")
    stems = [path.stem for path in photos]
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
    if doubled:
        raise UserError(
            f"subject: several photos in {subject}/test are called {', '.join(doubled)} but for their ending, and "
            "would share their captions: rename one of each."
        )
    return photos


def _from_texts(texts: list[str], photos: list[Path]) -> list[list[str]]:
    """Captions for each photo.

    Raises:
        UserError: they do not fit the photos.
    """
    blocks = texts if len(texts) > 1 else [block for block in re.split(r"\n\s*\n", texts[0]) if block.strip()]
    if len(blocks) != len(photos):
        raise UserError(
            f"texts: there are {len(photos)} photos and {len(blocks)} texts. Wire a list with a text for each, "
            f"or one text with a blank line between photos, in this order: {', '.join(p.name for p in photos)}."
        )
    return [[line for line in block.splitlines() if line.strip()] for block in blocks]


def _from_florence(florence2, photos: list[Path], count: int, replace_edited: bool, progress: Progress) -> list[list[str]]:
    """Drafts by Florence-2 for the photos whose captions will be written."""
    if not florence2 or florence2[0] is None:
        raise UserError("florence2: wire Load Florence-2 to have captions drafted, or wire texts.")
    drafts = []
    for done, photo in enumerate(photos):
        progress.update(done)
        progress.text(f"{photo.name} ({done + 1} of {len(photos)})")
        if is_edited(photo) and not replace_edited:
            drafts.append([])
            continue
        try:
            image = read_picture(photo)[0]
        except UNREADABLE as error:
            raise UserError(f"subject: {photo.name} cannot be read ({brief(error)}). Replace or remove it.") from error
        drafts.append(florence2[0].captions(image, count))
    return drafts
