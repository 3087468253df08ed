"""Nodes that bring data sets and a training's checkpoints into the graph."""

import math
import os
import re

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ...trainer.token_file import load_token
from ..errors import UserError
from ..host import folders
from ..link_types import PdstDatasetType, PersonalizedTokenType
from ..pictures import read_picture
from .pdst import Dataset, looks_like_dataset, read_dataset

CATEGORY = "attractor/evaluation"
ALL = "all"
_CHECKPOINT = re.compile(r".*-step-(\d+)\.safetensors")


def folder_input():
    """The choice of a data set."""
    return io.Combo.Input(
        "folder",
        options=folders.dataset_folders(looks_like_dataset),
        tooltip="A data set in models/pdst or in ComfyUI's input folder: a folder with a folder for each "
        "subject. Press R to refresh the list.",
    )


def known_folder(folder: str) -> bool | str:
    """For `validate_inputs`: whether there is such a folder now, or why not. A list in the page may be older."""
    try:
        folders.dataset_path(folder)
    except UserError as error:
        return str(error)
    return True


class LoadPDST(io.ComfyNode):
    """A PDST data set, checked; its photos and captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadPDST",
            display_name="Load PDST Dataset",
            category=CATEGORY,
            description="Loads subjects with photos to train on, photos held back, and captions for these. Everything that is "
            "wrong with the files is said at once.",
            search_aliases=["dataset", "held-out", "test photos", "evaluation set", "captions"],
            inputs=[
                folder_input(),
                io.String.Input(
                    "subjects",
                    default=ALL,
                    tooltip="all, or names of subjects (their folders), parted by commas. Only these are checked "
                    "and loaded, with all their photos in memory: for training name the one.",
                ),
                io.Int.Input(
                    "captions_per_photo",
                    default=10,
                    min=0,
                    max=1000,
                    tooltip="How many captions each test photo must have (paper: 10). 0: any number but none.",
                ),
                io.Int.Input(
                    "longest_side",
                    default=1024,
                    min=0,
                    max=8192,
                    step=64,
                    optional=True,
                    advanced=True,
                    tooltip="Photos that are larger are scaled down to this many pixels in the image outputs, to "
                    "save memory; 0: as they are. Scores always use the files.",
                ),
            ],
            outputs=[
                PdstDatasetType.Output("dataset", tooltip="Wire to PDST Evaluate, or to training for held-out scores."),
                io.Image.Output(
                    "train_images",
                    is_output_list=True,
                    tooltip="The training photos. Of one subject: wire to Subject Mask and training.",
                ),
                io.String.Output("train_names", is_output_list=True, tooltip="Their names: subject/file."),
                io.Image.Output("test_images", is_output_list=True, tooltip="The photos held back: never train on these."),
                io.String.Output("test_names", is_output_list=True, tooltip="Their names: subject/file."),
                io.String.Output("captions", tooltip="All captions as text, by photo."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str) -> bool | str:
        return known_folder(folder)

    @classmethod
    def fingerprint_inputs(cls, folder, **_):
        root = folders.dataset_path(folder)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return [(str(path.relative_to(root)), os.path.getmtime(path), os.path.getsize(path)) for path in files]

    @classmethod
    def execute(cls, folder: str, subjects: str, captions_per_photo: int, longest_side: int = 1024) -> io.NodeOutput:
        names = [name.strip() for name in re.split(r"[,\n]", subjects) if name.strip()]
        if not names:
            raise UserError("subjects is empty: write all, or the names of subjects.")
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
            ui={"text": [summary(dataset)]},
        )


def summary(dataset: Dataset) -> str:
    """A line for each subject."""
    return "\n".join(
        f"{s.name}: {s.super_category}, {s.kind}, {len(s.train)} to train, {len(s.test)} held back, "
        f"{sum(len(photo.captions) for photo in s.test)} captions"
        for s in dataset.subjects
    )


def _load(path, longest_side: int) -> Tensor:
    """IMAGE (1, H, W, 3) of a file, scaled down if its longest side is more than that many pixels (0: never)."""
    image = read_picture(path)[0][None]
    scale = longest_side / max(image.shape[1:3]) if longest_side else math.inf
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1:3]]
    return F.interpolate(image.movedim(-1, 1), size=size, mode="bicubic", antialias=True).movedim(1, -1).clamp(0, 1)


class LoadTokenCheckpoints(io.ComfyNode):
    """Every checkpoint of a training run, for curves over its steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadTokenCheckpoints",
            display_name="Load Token Checkpoints",
            category=CATEGORY,
            description="Loads the tokens that a training run has saved at its steps. Wire them to PDST Evaluate to see when "
            "it was best and when it began to overfit.",
            search_aliases=["checkpoints", "overfitting curve", "steps"],
            inputs=[
                io.Combo.Input(
                    "run",
                    options=folders.runs(),
                    tooltip="A run under output/neti that has saved checkpoints (checkpoint_every). Press R to "
                    "refresh the list.",
                ),
                io.String.Input("steps", default="", tooltip="Which steps, such as 100, 200, 400. Empty: all."),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Take every so manyth of them, and always the last. 1: all.",
                ),
            ],
            outputs=[
                PersonalizedTokenType.Output("tokens", is_output_list=True, tooltip="By step. Wire to PDST Evaluate."),
                io.Int.Output("steps_out", display_name="steps", is_output_list=True, tooltip="Their steps."),
            ],
        )

    @classmethod
    def validate_inputs(cls, run: str) -> bool | str:
        try:
            return bool(checkpoints(run)) or f"run: {run!r} has saved no checkpoints: train with checkpoint_every above 0."
        except UserError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, run, **_):
        return [(path.name, os.path.getmtime(path)) for path in checkpoints(run).values()]

    @classmethod
    def execute(cls, run: str, steps: str, every: int = 1) -> io.NodeOutput:
        found = checkpoints(run)
        chosen = list(found)
        if steps.strip():
            try:
                chosen = sorted({int(part) for part in re.split(r"[\s,;]+", steps.strip()) if part})
            except ValueError as error:
                raise UserError(f"steps: {steps!r} are no numbers. Write 100, 200, or nothing for all.") from error
            missing = [str(step) for step in chosen if step not in found]
            if missing:
                raise UserError(
                    f"steps: {run} has no checkpoint of step {', '.join(missing)}. It has: {', '.join(map(str, found))}."
                )
        chosen = [step for i, step in enumerate(chosen, 1) if i % every == 0 or i == len(chosen)]
        tokens = []
        with torch.inference_mode(False):
            for step in chosen:
                try:
                    tokens.append(load_token(found[step]))
                except ValueError as error:
                    raise UserError(f"run: {error}") from error
                tokens[-1].subject.requires_grad_(False)
        return io.NodeOutput(tokens, chosen, ui={"text": [", ".join(f"step {step}" for step in chosen)]})


def checkpoints(run: str) -> dict:
    """Files of a run's checkpoints by step, in order.

    Raises:
        UserError: no such run.
    """
    found = {int(match[1]): path for path in folders.checkpoint_files(run) if (match := _CHECKPOINT.fullmatch(path.name))}
    return dict(sorted(found.items()))
