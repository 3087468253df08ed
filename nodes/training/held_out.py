"""Held-out photos while a token is trained: their loss, and the scores of samples against them."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from ...trainer.dataset import Bucket, Photos, same_shapes
from ...trainer.reading import BadFile, Checked, conform, read_json
from ...trainer.storage import fingerprint, replacing
from ..errors import UserError
from ..evaluation.encoders import EvaluationEncoders
from ..evaluation.metrics import References, references
from ..evaluation.pdst import Dataset, Subject
from ..evaluation.quick import quick_scores
from ..evaluation.same_photo import look_at, look_at_pixels, same_photo
from ..host.sampling import MakeImages
from ..pictures import BadPicture, read_picture
from .photos import fit, nearest_size

COMPARED = ("clip_t", "clip_i", "dino")  # what a checkpoint is chosen by


@dataclass(frozen=True)
class HeldOut:
    """A subject's test photos, encoded once per run.

    photos: latents for the fixed-batch loss. references: what samples are scored against; None without encoders.
    """

    subject: Subject
    photos: Photos
    encoders: EvaluationEncoders | None
    references: References | None

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        encoders: EvaluationEncoders | None,
        sizes: list[tuple[int, int]],
        encode: Callable[[Tensor], Tensor],
    ) -> "HeldOut":
        """sizes: (height, width) of the training photos; each photo gets the nearest. encode: as of
        `trainer.views.cache_photos`."""
        (subject,) = dataset.subjects
        latents = []
        for photo in subject.test:  # one at a time: originals are large
            pixels = read_picture(photo.path)[0]
            latents.append(encode(fit(pixels, nearest_size(pixels, sizes))[None]).float())
        photos = _in_buckets(latents)
        with torch.inference_mode():  # as the host runs its nodes
            known = None if encoders is None else references(subject, encoders)
        return cls(subject, photos, encoders, known)

    def scored_with(self, **settings: object) -> dict | None:
        """What the scores depend on beside the token; None without encoders."""
        if self.encoders is None:
            return None
        captions = [photo.captions for photo in self.subject.test]
        return json.loads(
            json.dumps(
                {
                    "encoders": self.encoders.describe(),
                    "photos": fingerprint(*(bucket.latents for bucket in self.photos.buckets)),
                    "captions": captions,
                    "super_category": self.subject.super_category,
                    **settings,
                }
            )
        )  # as it comes back from a file

    def scores(self, make_images: MakeImages, placeholder: str, count: int, seed: int) -> dict[str, float]:
        """Mean scores of `count` samples, always of the same captions and seeds.

        make_images: prompts and seeds to images, with the token as it is now.
        """
        assert self.references is not None and self.encoders is not None, "nothing to score with"
        with torch.inference_mode():
            return quick_scores(make_images, placeholder, self.subject, self.references, self.encoders, count, seed)


def _in_buckets(latents: list[Tensor]) -> Photos:
    """Photos out of (1, 4, h, w) latents each, which have no masks."""
    buckets = []
    for numbers in same_shapes(tuple(own.shape) for own in latents):
        together = torch.cat([latents[n] for n in numbers])
        buckets.append(Bucket(tuple(numbers), together[None], torch.ones_like(together[None, :, :1])))
    return Photos(tuple(buckets))


class _Entry(Checked):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)  # the scores

    step: Annotated[int, Field(ge=0)]


class _ScoreFile(Checked):
    scored_with: dict[str, Any]
    scores: list[_Entry]


class ScoreLog:
    """Held-out scores of a run by step, `{"step": ..., "clip_t": ..., ...}` as `metrics.score` names them, and their file."""

    def __init__(self, path: Path, scored_with: dict | None):
        """scored_with: what they depend on, JSON-able; None: nothing is scored."""
        self._path, self._scored_with = path, scored_with
        self.scores: list[dict[str, float]] = []

    def resume(self, step: int) -> str:
        """Read the scores up to `step` if they can be compared with further ones; else a note that they cannot.

        Raises:
            UserError: the file is damaged.
        """
        if self._scored_with is None or not self._path.exists():
            return ""
        remedy = "Delete it from the run's folder, and scores start again."
        try:
            saved = conform(_ScoreFile, read_json(self._path, remedy=remedy), self._path.name, remedy)
        except BadFile as error:
            raise UserError(str(error)) from error
        old, scores = saved.scored_with, [entry.model_dump() for entry in saved.scores if entry.step <= step]
        if old == self._scored_with:
            self.scores = scores
            return ""
        changed = [name.replace("_", " ") for name, value in self._scored_with.items() if old.get(name) != value]
        return f"held-out scores start again from nothing, as {' and '.join(changed)} changed"

    def of_step(self, step: int) -> dict[str, float] | None:
        return next((entry for entry in self.scores if entry["step"] == step), None)

    def best(self) -> dict[str, float] | None:
        """The scores of the best step so far; of equal ones the earliest. One that lacks a score cannot be compared."""
        names = [name for name in COMPARED if any(name in entry for entry in self.scores)]
        complete = [entry for entry in self.scores if all(name in entry for name in names)]
        return max(complete, key=overall_score, default=None)

    def has_stalled(self, patience: int) -> bool:
        """Whether the last `patience` scores were no better than the best before them; with 0 never."""
        best = self.best()
        since = 0 if best is None else sum(entry["step"] > best["step"] for entry in self.scores)
        return 0 < patience <= since

    def add(self, step: int, scores: dict[str, float]) -> None:
        """Scores that are not finite are left out."""
        self.scores.append({"step": step, **{name: value for name, value in scores.items() if math.isfinite(value)}})

    def save(self) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(
                json.dumps({"scored_with": self._scored_with, "scores": self.scores}, indent=1), encoding="utf-8"
            )

    def why_empty(self) -> str:
        """For a curve that has nothing to show yet."""
        if self._scored_with is None:
            return "Wire dataset and encoders to see when the token overfits."
        return "No step was scored: see score_every."


def overall_score(scores: dict[str, float]) -> float:
    """One number to choose a checkpoint by: the geometric mean of the held-out CLIP-T, CLIP-I and DINO that are there.

    Relative changes count alike, whatever the scores' sizes; a token that trades all of one for another does not win.
    """
    values = [max(scores[name], 0.0) for name in COMPARED if name in scores]
    return math.prod(values) ** (1 / len(values)) if values else 0.0


def held_out_problems(dataset: Dataset | None, encoders: EvaluationEncoders | None, images: list[Tensor]) -> list[str]:
    """What is wrong with the inputs for held-out scores of a run on `images` (H, W, C); empty if nothing is."""
    if dataset is None:
        return ["encoders: there is nothing to score on. Wire dataset as well, or remove encoders."] if encoders else []
    if len(dataset.subjects) != 1:
        return [f"dataset: it has {len(dataset.subjects)} subjects, and a training is of one: choose it in Load PDST Dataset."]
    problems = []
    if encoders is not None and not encoders.describe():
        problems.append("encoders: there is neither CLIP nor DINO. Choose one in Load Evaluation Encoders, or remove the wire.")
    trained = [look_at_pixels(image) for image in images]
    for photo in dataset.subjects[0].test:
        try:
            look = look_at(photo.path)
        except BadPicture as error:
            problems.append(
                f"dataset: the test photo {photo.path.name} cannot be read any more ({error.reason}): put it back, or load the "
                "data set again."
            )
            continue
        same = [str(i) for i, other in enumerate(trained, 1) if same_photo(look, other)]
        if same:
            problems.append(
                f"dataset: the test photo {photo.path.name} is image {' and '.join(same)} of images: scores would "
                "be of photos that training has seen. Train on the data set's training photos only."
            )
    return problems
