"""Load PDST Dataset, and Split Subject Photos, which makes a data set from your own photos."""

import random
import re
from pathlib import Path

from comfy_api.latest import io
from torch import Tensor

from ..errors import UserError, validated
from ..host import folders
from ..host.progress import said
from ..link_types import PdstDatasetType
from ..pictures import natural_order, read_picture
from .pdst import KINDS, Dataset, looks_like_dataset, read_dataset
from .splitting import naming_problems, photo_problems, place

CATEGORY = "attractor/evaluation"
ALL = "all"
_BY_NAME, _SHUFFLED = "by name", "shuffled"


def folder_input(to_write: bool = False) -> io.Combo.Input:
    """The choice of a data set. to_write: of one that is the user's own."""
    return io.Combo.Input(
        "folder",
        options=[name for name in folders.dataset_folders(looks_like_dataset) if not to_write or name != folders.EXAMPLE],
        tooltip="A data set in models/pdst or in ComfyUI's input folder: a folder with one folder per subject. Press R to "
        "refresh the list.",
    )


def known_folder(folder: str | None, to_write: bool = False) -> bool | str:
    """For `validate_inputs`: True, or why there is no such folder. folder: empty if it is wired."""
    return validated(folder or None, lambda name: folders.dataset_path(name, to_write))


class LoadPDST(io.ComfyNode):
    """A PDST data set, checked; its photos and captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadPDST",
            display_name="Load PDST Dataset",
            category=CATEGORY,
            description="Loads subjects with photos to train on, held-out photos, which training never sees, and captions for "
            "these. PDST is the paper's data set of this kind. All problems of the files are reported in one message.",
            search_aliases=["dataset", "held-out", "test photos", "evaluation set", "captions", "textual inversion dataset"],
            inputs=[
                folder_input(),
                io.String.Input(
                    "subjects",
                    default=ALL,
                    tooltip="all, or names of subjects (their folders), separated by commas. Only these are checked and "
                    "loaded, with all their photos in memory: for training, name just one.",
                ),
                io.Int.Input(
                    "captions_per_photo",
                    default=10,
                    min=0,
                    max=1000,
                    tooltip="How many captions each test photo must have (paper: 10). 0: any number, at least one.",
                ),
                io.Int.Input(
                    "longest_side",
                    default=1024,
                    min=0,
                    max=8192,
                    step=64,
                    optional=True,
                    advanced=True,
                    tooltip="Larger photos are scaled down to this many pixels in the image outputs, to save memory. 0: "
                    "never. Scores always use the original files.",
                ),
            ],
            outputs=[
                PdstDatasetType.Output(
                    "dataset", tooltip="Wire to PDST Evaluate or Prompts, or to training for held-out scores."
                ),
                io.Image.Output(
                    "train_images",
                    is_output_list=True,
                    tooltip="The training photos. If they are of one subject, wire them to Subject Mask and training.",
                ),
                io.String.Output("train_names", is_output_list=True, tooltip="Their names: subject/file."),
                io.Image.Output("test_images", is_output_list=True, tooltip="The held-out photos: never train on these."),
                io.String.Output("test_names", is_output_list=True, tooltip="Their names: subject/file."),
                io.String.Output("captions", tooltip="All captions as text, by photo."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str) -> bool | str:
        return known_folder(folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> str:
        return folders.stamps(lambda: filter(Path.is_file, folders.dataset_path(folder).rglob("*")))

    @classmethod
    def execute(cls, folder: str, subjects: str, captions_per_photo: int, longest_side: int = 1024) -> io.NodeOutput:
        names = [name.strip() for name in re.split(r"[,\n]", subjects) if name.strip()]
        if not names:
            raise UserError("subjects is empty: type all, or names of subjects.")
        chosen = None if names == [ALL] else list(dict.fromkeys(names))
        dataset = read_dataset(folders.dataset_path(folder), chosen, captions_per_photo)
        train = [(f"{s.name}/{path.name}", path) for s in dataset.subjects for path in s.train]
        test = [(f"{s.name}/{photo.path.name}", photo.path) for s in dataset.subjects for photo in s.test]
        text = "\n\n".join(
            "\n".join([f"{s.name}/{photo.path.name}", *photo.captions]) for s in dataset.subjects for photo in s.test
        )
        return io.NodeOutput(
            dataset,
            [_load(path, longest_side) for _, path in train],
            [name for name, _ in train],
            [_load(path, longest_side) for _, path in test],
            [name for name, _ in test],
            text,
            ui=said(summary(dataset)),
        )


def summary(dataset: Dataset) -> str:
    """A line for each subject."""
    return "\n".join(
        f"{s.name}: {s.super_category}, {s.kind}, {len(s.train)} to train, {len(s.test)} held back, "
        f"{sum(len(photo.captions) for photo in s.test)} captions"
        for s in dataset.subjects
    )


def _load(path: Path, longest_side: int) -> Tensor:
    """IMAGE (1, H, W, 3) of a file, scaled down if its longest side is more than that many pixels (0: never)."""
    return read_picture(path, longest_side)[0][None]


class SplitSubjectPhotos(io.ComfyNode):
    """A folder of photos -> a subject of a PDST data set, some photos to train on and the others held back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorSplitSubjectPhotos",
            display_name="Split Subject Photos",
            category=CATEGORY,
            description="Copies a subject's photos into a data set under models/pdst: some to train on, the others held back "
            "for the test. Continue with Make PDST Captions.",
            search_aliases=["train test split", "held-out", "make dataset"],
            is_output_node=True,
            inputs=_split_inputs(),
            outputs=[
                io.Image.Output("train_images", is_output_list=True, tooltip="The photos to train on."),
                io.String.Output("train_names", is_output_list=True, tooltip="Their names."),
                io.String.Output("folder", tooltip="The data set, as the other nodes list it."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, photos: str, **_: object) -> str:
        return folders.stamps(lambda: folders.pictures_in(photos))

    @classmethod
    def execute(
        cls,
        photos: str,
        dataset: str,
        subject: str,
        super_category: str,
        kind: str,
        train_photos: int,
        order: str,
        seed: int,
        source: str = "",
        licence: str = "",
    ) -> io.NodeOutput:
        dataset, subject = dataset.strip(), subject.strip()
        paths = sorted(folders.pictures_in(photos), key=lambda path: natural_order(path.name))
        problems = naming_problems(dataset, subject, paths)
        word = super_category.strip()
        if not word or any(mark in word for mark in "{}<>\n"):
            problems.append(f"super_category is {word!r}: say what the subject is, such as dog.")
        problems += photo_problems(photos, paths, train_photos)
        if problems:
            raise UserError.of(problems)
        if order == _SHUFFLED:
            random.Random(seed).shuffle(paths)
        by_name = {"train": paths[:train_photos], "test": paths[train_photos:]}
        parts = {part: sorted(chosen, key=lambda path: natural_order(path.name)) for part, chosen in by_name.items()}
        meta = {"super_category": word, "kind": kind, "source": source.strip(), "licence": licence.strip()}
        text = place(folders.new_dataset_path(dataset) / subject, parts, meta)
        images = [read_picture(path)[0][None] for path in parts["train"]]
        return io.NodeOutput(images, [path.name for path in parts["train"]], f"pdst/{dataset}", ui=said(text))


def _split_inputs() -> list:
    return [
        io.Combo.Input(
            "photos",
            options=[name for name in folders.picture_folders() if name != folders.EXAMPLE],
            tooltip="A folder with 6 or more photos under ComfyUI's input folder; they are copied. "
            "Press R to refresh the list.",
        ),
        io.String.Input("dataset", default="my-subjects", tooltip="Name of the data set's folder under models/pdst."),
        io.String.Input(
            "subject",
            default="my-dog",
            tooltip="Name of the subject's folder. A token called <my-dog> finds the subject my-dog.",
        ),
        io.String.Input("super_category", default="dog", tooltip="What the subject is, in a word or two: dog, teddy bear."),
        io.Combo.Input(
            "kind",
            options=list(KINDS),
            tooltip="living: people, animals, plants. rigid: things. The report shows them separately.",
        ),
        io.Int.Input(
            "train_photos",
            default=5,
            min=1,
            max=1000,
            tooltip="How many photos to train on (paper: 5 of 15). The others are held back.",
        ),
        io.Combo.Input(
            "order",
            options=[_SHUFFLED, _BY_NAME],
            default=_SHUFFLED,
            tooltip="shuffled: chosen at random by the seed. by name: the first ones are for training.",
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
        io.String.Input("licence", default="", optional=True, advanced=True, tooltip="Their licence; also kept in meta.json."),
    ]
