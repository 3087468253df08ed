"""Everything that can be wrong with an evaluation, checked before anything is sampled."""

import os
from pathlib import Path

from ...trainer.concept import PersonalizedToken, placeholder_problem
from ..errors import UserError
from ..host import folders
from ..host.checks import clip_problems, model_problems, sampling_problems, vae_problems
from ..host.identity import token_identity
from ..host.links import Clip, Model, Vae
from ..host.text_encoder import HostTextEncoder
from .encoders import EvaluationEncoders
from .entries import Entry, make_entries
from .image_files import image_name
from .options import EvaluateOptions, EvaluateSettings
from .pdst import Dataset
from .results import file_name, known_tokens

ROOM = 100 * 1024**2  # bytes kept free beside the images


def check(
    models: tuple[Model, Clip, Vae],
    tokens: list[PersonalizedToken],
    dataset: Dataset,
    encoders: EvaluationEncoders | None,
    settings: EvaluateSettings,
    options: EvaluateOptions,
) -> list[Entry]:
    """The entries, if nothing is wrong.

    Raises:
        UserError: every problem at once, each with its input and remedy.
    """
    model, clip, vae = models
    name = settings.name.strip()
    problems = model_problems(model) + vae_problems(vae) if tokens else sampling_problems(model, clip, vae)
    problems += _token_problems(clip, tokens)
    problems += evaluation_name_problems(name)
    if settings.metrics and (encoders is None or not encoders.describe()):
        problems.append(
            "encoders: scores need CLIP, DINO or both. Wire Load Evaluation Encoders, or turn metrics off to make images only."
        )
    if options.shard > options.shards:
        problems.append(f"shard is {options.shard} of {options.shards}: use 1 to {options.shards}.")
    known = frozenset() if problems else known_tokens(folders.evaluation_path(name))
    identities = [token_identity(token) for token in tokens]
    typed = (settings.pairs, settings.labels, settings.include_floor)
    entries, wrong = make_entries(tokens, identities, dataset, *typed, known, settings.trigger)
    problems += wrong
    problems = problems or room_problems(entries, settings, options)
    if problems:
        raise UserError.of(list(dict.fromkeys(problems)))
    return entries


def evaluation_name_problems(name: str) -> list[str]:
    """Why an evaluation cannot have this name; empty if it can."""
    return folders.name_problems(name, "name", folders.evaluations_folder(), [f"{name}/photos/photo.jpg"])


def room_problems(entries: list[Entry], settings: EvaluateSettings, options: EvaluateOptions) -> list[str]:
    """Why the files of these entries cannot be written; empty if they can. The evaluation's name is a right one."""
    problems = _file_problems(folders.evaluation_path(settings.name.strip()), entries, settings, options)
    return problems + disk_problems(folders.evaluations_folder(), ROOM + _bytes_of_images(entries, settings, options))


def _token_problems(clip: Clip, tokens: list[PersonalizedToken]) -> list[str]:
    """Why this CLIP cannot take these tokens; empty if it can."""
    problems = clip_problems(clip) if tokens else []
    if problems:
        return problems
    if getattr(clip, "applied", ()):
        known = ", ".join(token.placeholder for token in clip.applied)
        return [
            f"clip: {known} is applied to it already. Wire MODEL and CLIP from before Apply Personalized Token, and the "
            "tokens to tokens."
        ]
    if not tokens:
        return []
    text = HostTextEncoder(clip)
    for token in tokens:
        wrong = placeholder_problem(token.placeholder, text.is_word)
        problems += [f"tokens: {wrong}"] if wrong else []
        if token.width != text.width:
            problems.append(
                f"tokens: {token.placeholder} has width {token.width}, this text encoder {text.width}: it was made for "
                "another model family. Use a token that was trained on Stable Diffusion 1.5."
            )
    return problems


def _file_problems(folder: Path, entries: list[Entry], settings: EvaluateSettings, options: EvaluateOptions) -> list[str]:
    """Names of tokens and photos that are too long, or are none, for the files that are named after them."""
    problems = []
    for entry in entries:
        results = [file_name(entry.label, shard, options.shards) for shard in {options.shard, options.shards}]
        problems += folders.place_problems(folder, results, f"labels: {entry.label}")
        photo = max((photo.path for photo in entry.subject.test), key=lambda path: len(os.fsencode(path.name)))
        files = [f"photos/{entry.subject.name}/{photo.stem}.jpg"]
        if settings.save_images:
            most = max(len(test.captions) for test in entry.subject.test)
            files.append(image_name(entry.label, entry.subject.name, photo, most, settings.images_per_caption))
        problems += folders.place_problems(folder, files, f"dataset: {entry.subject.name}/test/{photo.name}")
    return problems


def _bytes_of_images(entries: list[Entry], settings: EvaluateSettings, options: EvaluateOptions) -> int:
    if not settings.save_images:
        return 0
    captions = sum(len(photo.captions) for entry in entries for photo in entry.subject.test)
    images = captions * settings.images_per_caption // options.shards
    return images * options.width * options.height * 2  # a PNG has 1 to 2 bytes a pixel


def disk_problems(folder: Path, needed: int) -> list[str]:
    """Whether the folder's disk has `needed` bytes left."""
    free = folders.free_bytes(folder)
    if free >= needed:
        return []
    return [
        f"name: the output folder's disk has {free // 1024**2} MB left and this evaluation may need {needed // 1024**2} MB. "
        "Free some space, or turn save_images off."
    ]
