"""Which images an evaluation makes, with which seeds, and in which batches."""

import hashlib
from dataclasses import dataclass, replace

from .pdst import SLOT, Dataset, Subject

_SEED_BITS = 53  # what a widget in the browser can hold, so that any image can be made again by hand in a KSampler


@dataclass(frozen=True)
class Shot:
    """One image to make.

    number: its place in the plan. photo, caption: indices into the subject's test photos and that photo's captions.
    text: the caption, with {} for the subject. index: which of the caption's images.
    """

    number: int
    subject: str
    photo: int
    caption: int
    text: str
    index: int
    seed: int


def shot_seed(base: int, subject: str, photo: str, caption: str, index: int) -> int:
    """A seed that depends on these alone: any shard, order or resume gives the same image.

    photo: the file's name without extension.
    """
    parts = "\0".join(["attractor-pdst", str(base), subject, photo, caption, str(index)])
    return int.from_bytes(hashlib.sha256(parts.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def limited(dataset: Dataset, max_photos: int = 0, max_captions: int = 0) -> Dataset:
    """The data set with only the first test photos and captions; 0: all of them."""

    def cut(subject: Subject) -> Subject:
        photos = subject.test[: max_photos or None]
        return replace(subject, test=tuple(replace(photo, captions=photo.captions[: max_captions or None]) for photo in photos))

    return replace(dataset, subjects=tuple(cut(subject) for subject in dataset.subjects))


def make_plan(subjects: tuple[Subject, ...], images_per_caption: int, seed: int) -> list[Shot]:
    """Every image of these subjects: by subject, photo, caption and index."""
    shots: list[Shot] = []
    for subject in subjects:
        for p, photo in enumerate(subject.test):
            for c, caption in enumerate(photo.captions):
                for i in range(images_per_caption):
                    own = shot_seed(seed, subject.name, photo.path.stem, caption, i)
                    shots.append(Shot(len(shots), subject.name, p, c, caption, i, own))
    return shots


def make_batches(shots: list[Shot], size: int) -> list[list[Shot]]:
    """Images that are sampled together: at most `size`, of one caption.

    Depends on the whole plan, not on what is left of it: an image always has the same neighbours, so that resuming and
    sharding change nothing, not even by rounding.
    """
    batches: list[list[Shot]] = []
    for shot in shots:
        last = batches[-1] if batches else None
        if (
            last
            and len(last) < size
            and (last[0].subject, last[0].photo, last[0].caption) == (shot.subject, shot.photo, shot.caption)
        ):
            last.append(shot)
        else:
            batches.append([shot])
    return batches


def shard_of(batches: list[list[Shot]], shard: int, shards: int) -> list[list[Shot]]:
    """Every `shards`-th batch, from the `shard`-th (1 is the first)."""
    return batches[shard - 1 :: shards]


def prompt_for(text: str, name: str) -> str:
    """A caption as a prompt, with `name` for the subject. Parentheses are escaped: ComfyUI would read them as weights."""
    return text.replace("(", "\\(").replace(")", "\\)").replace(SLOT, name)
