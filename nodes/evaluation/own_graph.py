"""Images that the user's own graph makes, or that were made elsewhere: what they are to show, and how they are known again."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ...trainer.reading import shown_text
from ..errors import UserError
from ..host.progress import check_interrupt
from ..pictures import BadPicture, opened, read_picture
from .image_files import pixels_hash
from .pdst import Dataset, Subject
from .plan import Shot, make_batches, make_plan, prompt_for, shard_of
from .triggers import read_triggers

_Image = TypeVar("_Image", Tensor, Path)
NO_TRIGGER = (
    "trigger is empty: type what stands for the subject in prompts, such as sks dog; or {super_category}, if a reference image "
    "and not a word tells the model what it looks like."
)
_STOCK_NUMBER = re.compile(r"(.+)_\d{5,}_?")  # what Save Image adds to a name


@dataclass(frozen=True, eq=False)
class Plan:
    """The images that PDST Prompts asks for.

    dataset: only with the photos and captions that are used. phrases: what stands for each subject in prompts. shard: 1 is the
    first of `shards`. settings: as the header of a results file has them.
    """

    dataset: Dataset
    phrases: dict[str, str]
    settings: dict
    shard: int = 1
    shards: int = 1

    @cached_property
    def everything(self) -> dict[str, Shot]:
        """Every image of all shares, by its name."""
        return {name: shot for subject in self.dataset.subjects for name, shot in self._named(subject, self._shots(subject))}

    @cached_property
    def share(self) -> dict[str, Shot]:
        """The images of this share, by their names, in order."""
        found: dict[str, Shot] = {}
        for subject in self.dataset.subjects:
            batches = shard_of(make_batches(self._shots(subject), 1), self.shard, self.shards)
            found.update(self._named(subject, [shot for batch in batches for shot in batch]))
        return found

    def prompt(self, shot: Shot) -> str:
        return prompt_for(shot.text, self.phrases[shot.subject])

    def _shots(self, subject: Subject) -> list[Shot]:
        return make_plan((subject,), self.settings["images_per_caption"], self.settings["seed"])

    def _named(self, subject: Subject, shots: list[Shot]) -> list[tuple[str, Shot]]:
        return [(image_stem(subject, shot), shot) for shot in shots]


def image_stem(subject: Subject, shot: Shot) -> str:
    """An image's name, fit for a file, without extension: subject, photo, caption and number, from 1."""
    photo = subject.test[shot.photo].path.stem
    return f"{_plain(subject.name)}--{_plain(photo)}--{shot.caption + 1:02d}-{shot.index + 1}"


def _plain(text: str) -> str:
    plain = re.sub(r"-{2,}", "-", re.sub(r"[^\w.+-]+", "-", text)).strip("-.")
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def phrases_of(typed: str, dataset: Dataset) -> dict[str, str]:
    """{subject: its phrase}, exactly one for each subject. typed: as of `read_triggers`.

    Raises:
        UserError: everything that is wrong with what was typed.
    """
    if not typed.strip():
        raise UserError(NO_TRIGGER)
    found, problems = read_triggers(typed, dataset)
    phrases = {subject.name: phrase for subject, phrase in found}
    if not problems:
        bare = [subject.name for subject in dataset.subjects if subject.name not in phrases]
        problems += [f"trigger: {name} has no line. Write what stands for it, such as {name}: sks dog." for name in bare]
        if len(phrases) < len(found):
            problems.append("trigger: a subject has several phrases, and each has one here. Use a second PDST Prompts node.")
    if problems:
        raise UserError.of(problems)
    return phrases


class Pictures:
    """The images of a plan's share, in memory or in files."""

    def __init__(self, plan: Plan, named: Mapping[str, Tensor | Path]):
        """named: {name: image (H, W, C) in 0..1, or a file}."""
        self._by_seed = {shot.seed: named[name] for name, shot in plan.share.items()}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Images (n, H, W, 3) in 0..1 by their seeds, which tell them apart; those asked for at once are of one size.

        Raises:
            Interrupted: the user has cancelled.
            UserError: a file cannot be read.
        """
        check_interrupt()
        return torch.stack([self._read(seed) for seed in seeds])

    def unchanged(self, record: dict) -> bool:
        """Whether an image is the one that was scored."""
        check_interrupt()
        return record.get("pixels") == pixels_hash(self._read(record["seed"]))

    def _read(self, seed: int) -> Tensor:
        picture = self._by_seed[seed]
        image = read_picture(picture)[0] if isinstance(picture, Path) else picture
        return image[..., :3].clamp(0, 1)


def match(plan: Plan, names: Sequence[str], images: Sequence[_Image], field: str) -> dict[str, _Image]:
    """Each image of the plan's share by its name; images of other shares are left out.

    names: of the images; Save Image's number may follow. field: the input that they come from, for messages.

    Raises:
        UserError: names that are unknown, there twice or missing, all of them in one message.
    """
    found: dict[str, list[_Image]] = {}
    unknown = []
    for typed, image in zip(names, images, strict=True):
        numbered = _STOCK_NUMBER.fullmatch(typed)
        name = typed if typed in plan.everything or not numbered else numbered[1]
        if name in plan.everything:
            found.setdefault(name, []).append(image)
        else:
            unknown.append(typed)
    twice = [name for name, several in found.items() if len(several) > 1]
    missing = [name for name in plan.share if name not in found]
    problems = [
        f"{field}: {what} {_listed(these)}. {remedy}"
        for what, these, remedy in (
            ("the plan knows no", unknown, "Use the names that PDST Prompts gives, with the same settings."),
            ("there are several images of", twice, "Keep one image of each name."),
            ("there is no image of", missing, "Make them all, or let PDST Prompts ask for fewer at once (shards)."),
        )
        if these
    ]
    if problems:
        raise UserError.of(problems)
    return {name: found[name][0] for name in plan.share}


def _listed(names: list[str]) -> str:
    return ", ".join(shown_text(repr(name), 80) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def readable(pictures: list[Path]) -> list[Path]:
    """The same pictures.

    Raises:
        UserError: those that cannot be opened, all of them in one message.
    """
    problems = []
    for path in pictures:
        try:
            with opened(path):
                pass
        except BadPicture as error:
            problems.append(f"folder: {error}")
    if problems:
        raise UserError.of(problems[:12])
    return pictures
