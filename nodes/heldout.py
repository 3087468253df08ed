"""Held-out photos while a token is trained: their loss, and the scores of samples against them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..trainer.dataset import Photos
from .evaluation.alike import look_at, look_at_pixels, same_photo
from .evaluation.dataset import Dataset, Subject
from .evaluation.encoders import EvaluationEncoders
from .evaluation.metrics import References, references
from .evaluation.quick import quick_scores
from .masking.pictures import read_picture
from .photos import fit


@dataclass(frozen=True)
class HeldOut:
    """A subject's test photos, encoded once per run.

    photos: latents for the fixed-batch loss, all of them. references: what samples are scored against; None without encoders.
    """

    subject: Subject
    photos: Photos
    encoders: EvaluationEncoders | None
    references: References | None

    @classmethod
    def of(cls, dataset: Dataset, encoders: EvaluationEncoders | None, size: tuple[int, int], encode) -> "HeldOut":
        """size: (height, width) of the training photos. encode: as of `trainer.dataset.cache_photos`."""
        (subject,) = dataset.subjects
        # One at a time: originals are large.
        latents = torch.cat([encode(fit(read_picture(photo.path)[0], size)[None]).float() for photo in subject.test])
        whole = torch.ones_like(latents[:, :1])  # these photos have no masks
        known = encoders and references(subject, encoders)
        return cls(subject, Photos(latents[None], whole[None]), encoders, known)

    def scores(self, make_images, placeholder: str, count: int, seed: int) -> dict[str, float]:
        """Mean scores of `count` samples, always of the same captions and seeds.

        make_images: prompts and seeds to images, with the token as it is now.
        """
        return quick_scores(make_images, placeholder, self.subject, self.references, self.encoders, count, seed)


def held_out_problems(
    dataset: Dataset | None, encoders: EvaluationEncoders | None, images: list[Tensor]
) -> list[str]:
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
        look = look_at(photo.path)
        same = [str(i) for i, other in enumerate(trained, 1) if same_photo(look, other)]
        if same:
            problems.append(f"dataset: the test photo {photo.path.name} is image {' and '.join(same)} of images: scores would "
                            "be of photos that training has seen. Train on the data set's training photos only.")
    return problems
