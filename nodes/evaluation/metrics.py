"""CLIP-T, CLIP-I and DINO, computed in the same way for the evaluation node and while training. All are cosines."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..pictures import read_picture
from .encoders import ClipEncoder, DinoEncoder, EvaluationEncoders

if TYPE_CHECKING:
    from .pdst import Subject

SCORES = ("clip_t", "clip_i", "dino", "clip_i_train", "dino_train")
TITLES = {
    "clip_t": "CLIP-T",
    "clip_i": "CLIP-I",
    "dino": "DINO",
    "clip_i_train": "CLIP-I, training photos",
    "dino_train": "DINO, training photos",
}
DEFINITIONS = {
    "clip_t": "cosine of CLIP features: the prompt, with the super-category word for the subject, and the generated image",
    "clip_i": "cosine of CLIP features: the generated image and the held-out photo that its caption was written for",
    "dino": "cosine of DINO features: the generated image and the held-out photo that its caption was written for",
    "clip_i_train": "cosine of CLIP features: the generated image and each training photo, mean over the photos (biased)",
    "dino_train": "cosine of DINO features: the generated image and each training photo, mean over the photos (biased)",
}
_IMAGE_SCORES = {"clip": "clip_i", "dino": "dino"}  # encoder: its score between images


@dataclass(frozen=True)
class References:
    """A subject's real photos as the scores see them.

    test, train: features (photos, d) by encoder, `clip` and `dino`, in the data set's order, L2-normalised.
    ceiling: by score, what real photos reach. clip_t: test photos and their own captions; clip_i, dino: test photos among
    themselves; clip_i_train, dino_train: training photos among themselves. None if there is only one photo.
    """

    test: dict[str, Tensor]
    train: dict[str, Tensor]
    ceiling: dict[str, float | None]


def references(subject: "Subject", encoders: EvaluationEncoders) -> References:
    """Encode a subject's photos.

    Raises:
        OSError, ValueError: a photo cannot be read (a validated data set has none).
    """
    test, train = {}, {}
    ceiling: dict[str, float | None] = {}
    for name, score_name in _IMAGE_SCORES.items():
        encoder = getattr(encoders, name)
        if encoder is not None:
            test[name] = _photo_features(encoder, [photo.path for photo in subject.test])
            train[name] = _photo_features(encoder, list(subject.train))
            ceiling |= {score_name: _among(test[name]), f"{score_name}_train": _among(train[name])}
    if encoders.clip is not None:
        pairs = [(row, caption) for row, photo in enumerate(subject.test) for caption in photo.captions]
        texts = encoders.clip_text([caption.replace("{}", subject.super_category) for _, caption in pairs])
        ceiling["clip_t"] = _rows(texts, test["clip"][[row for row, _ in pairs]]).mean().item()
    return References(test, train, {name: ceiling[name] for name in SCORES if name in ceiling})


def score(
    images: Tensor, prompts: list[str], references: References, photo_indices: list[int], encoders: EvaluationEncoders
) -> dict[str, list[float]]:
    """Scores of generated images by name (`SCORES`), for the encoders that are loaded; one number per image.

    images: (n, H, W, 3) in 0..1. prompts: their captions with the super-category word in place of the subject.
    photo_indices: for each image, the index of the subject's test photo that its caption was written for.
    """
    if not len(images) == len(prompts) == len(photo_indices):
        raise ValueError(f"{len(images)} images have {len(prompts)} prompts and {len(photo_indices)} photos, not one each")
    found = {}
    for name, score_name in _IMAGE_SCORES.items():
        encoder = getattr(encoders, name)
        if encoder is None:
            continue
        features = encoder.image(images)
        if name == "clip":
            found["clip_t"] = _rows(encoders.clip_text(prompts), features).tolist()
        found[score_name] = _rows(features, references.test[name][photo_indices]).tolist()
        found[f"{score_name}_train"] = [_rows(row, references.train[name]).mean().item() for row in features]
    return {name: found[name] for name in SCORES if name in found}


def mean_scores(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over images, which all have the same scores."""
    return {name: sum(own[name] for own in scores) / len(scores) for name in scores[0]} if scores else {}


def _photo_features(encoder: ClipEncoder | DinoEncoder, paths: list[Path]) -> Tensor:
    """One photo at a time: they differ in size, and originals are large."""
    return torch.cat([encoder.image(read_picture(path)[0][None]) for path in paths])


def _rows(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of matching rows of normalised features. Summed in float64: in float32 the order of summation would show."""
    return (a.double() * b.double()).sum(-1)


def _among(features: Tensor) -> float | None:
    """Mean cosine over all pairs of different photos; None if there is no pair."""
    pairs = list(combinations(range(len(features)), 2))
    if not pairs:
        return None
    one, other = zip(*pairs, strict=True)
    return _rows(features[list(one)], features[list(other)]).mean().item()
