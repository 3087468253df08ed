"""Everything that can be wrong with the training node's inputs, found before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...trainer.concept import PersonalizedToken, placeholder_problem
from ...trainer.disk import RunFiles, megabytes, run_files, smaller_offer
from ...trainer.methods import METHODS
from ...trainer.own_prompts import sample_prompts
from ...trainer.pools import template_problems
from ...trainer.reading import shown_text
from ...trainer.settings import ROWS, TrainingSettings
from ...trainer.tuned import learnt_numbers
from ..errors import UserError
from ..evaluation.encoders import EvaluationEncoders
from ..evaluation.pdst import Dataset
from ..host import folders
from ..host.checks import clip_problems, model_problems, vae_problems
from ..host.links import Clip, Model, Vae
from ..host.text_encoder import HostTextEncoder
from ..host.unet import HostUNet
from .held_out import held_out_problems
from .photos import photo_problems

_LONGEST_PHRASE = 8  # tokens of the vocabulary


@dataclass(frozen=True, eq=False)
class Wired:
    """What is wired to the training node. images: (H, W, C) each, masks: (H, W) each, float32 on the CPU."""

    model: Model
    clip: Clip
    vae: Vae
    images: list[Tensor]
    masks: list[Tensor] | None
    dataset: Dataset | None
    encoders: EvaluationEncoders | None
    start_from: PersonalizedToken | None = None


def check_inputs(wired: Wired, settings: TrainingSettings, name: str) -> None:
    """name: of the run.

    Raises:
        UserError: every problem at once, each with its input and remedy.
    """
    problems = settings.problems() + model_problems(wired.model, training=True) + vae_problems(wired.vae)
    problems += folders.run_problems(name)
    problems += photo_problems(wired.images, wired.masks, settings.uses_attractor)
    problems += held_out_problems(wired.dataset, wired.encoders, wired.images)
    problems += clip_problems(wired.clip) or _prompt_problems(wired, settings, HostTextEncoder(wired.clip))
    if problems:
        raise UserError.of(problems)
    _check_disk(wired, settings, folders.output_path(name))


def files_of(wired: Wired, settings: TrainingSettings) -> RunFiles:
    """How large the run's files will be."""
    weights = learnt_numbers(settings, HostUNet(wired.model).tunable(settings.learns)) if settings.tunes else 0
    return run_files(settings, len(wired.images), HostTextEncoder(wired.clip).width, weights)


def _check_disk(wired: Wired, settings: TrainingSettings, folder: Path) -> None:
    """Whether the run's files fit on the disk. What an earlier run has left in the folder is its own, or will be replaced.

    Raises:
        UserError: says how much is needed for what, and how to need less.
    """
    files, free = files_of(wired, settings), folders.free_bytes(folder)
    there = sum(path.stat().st_size for path in (*folder.glob("*"), *folder.glob("samples/*")) if path.is_file())
    if free + there < files.total:
        smaller = smaller_offer(settings, len(wired.images), HostTextEncoder(wired.clip).width)
        raise UserError(
            f"The output folder's disk has {megabytes(free)} left, and this run writes {files}. Free some space, or write "
            f"fewer step files (checkpoint_every in Training Options).{f' {smaller}.' if smaller else ''}"
        )


def widget_problems(name: Any, placeholder: Any, method: Any, batch_size: Any, options_wired: bool) -> list[str]:
    """What the widgets alone show to be wrong, before anything is loaded. None: a widget that is wired."""
    problems = folders.name_problems(name.strip()) if isinstance(name, str) else []
    if isinstance(placeholder, str):
        problems += filter(None, [placeholder_problem(placeholder, lambda word: False)])
    if isinstance(method, str):
        problems += filter(None, [ROWS["method"].problem("method", method)])
    if isinstance(batch_size, int):
        problems += filter(None, [ROWS["batch_size"].problem("batch_size", batch_size)])
        if not options_wired and method in METHODS:  # Training Options may turn the contrast off
            problems += TrainingSettings(method=method, batch_size=batch_size).problems()
    return list(dict.fromkeys(problems))


def _prompt_problems(wired: Wired, settings: TrainingSettings, text: HostTextEncoder) -> list[str]:
    """What is wrong with the words of the settings, with prompts of one's own, and with the token to start from."""
    problems = _text_problems(settings, text)
    if settings.method in METHODS:
        problems += template_problems(settings, text, len(wired.images))
        problems += _start_problems(wired.start_from, settings, text.width)
    prompts = sample_prompts(settings) if settings.sample_every else []
    silent = [prompt for prompt in prompts if "{}" not in prompt and settings.placeholder not in prompt]
    if silent or (settings.sample_every and not prompts):
        which = f" in {shown_text(silent[0], 60)!r}" if len(prompts) > 1 else ""
        problems.append(
            f"sample_prompt does not mention the subject{which}: write {{}} or {settings.placeholder} where it goes, or set "
            "sample_every to 0."
        )
    return problems


def _start_problems(token: PersonalizedToken | None, settings: TrainingSettings, width: int) -> list[str]:
    """Why training cannot start from a token, which has to be what the method learns."""
    if token is None:
        return []
    name, count = token.placeholder, token.subject.count
    if settings.tunes or token.weights:
        return ["start_from is for Textual Inversion and NeTI, whose tokens have no weights of the U-Net: unwire it."]
    if token.kind != settings.kind:
        return [
            f"start_from: {name} is of the kind {token.kind}, and {settings.method} learns {settings.kind}. Choose a method "
            "that learns such a token, or another token."
        ]
    if token.width != width:
        return [
            f"start_from: {name} has width {token.width}, this text encoder {width}: it was made for another model family. Use "
            "one that was trained on Stable Diffusion 1.5."
        ]
    if count != settings.vectors:
        return [f"start_from: {name} has {count} vectors, and vectors is {settings.vectors}. Set vectors to {count}."]
    return []


def _text_problems(settings: TrainingSettings, text: HostTextEncoder) -> list[str]:
    """What is wrong with the words of the settings."""
    problem = placeholder_problem(settings.placeholder, text.is_word)
    problems = [problem] if problem else []
    problems += _word_problems("super_category", settings.super_category, text)
    if settings.subject_init:
        problems += _word_problems("subject_init", settings.subject_init, text)
    if settings.uses_attractor:
        problems += _word_problems("attractor_init", settings.attractor_init, text)
    if settings.tunes:
        problems += _word_problems("rare_token", settings.rare_token, text)
        if len(text.tokenize(settings.class_words)) > text.length - 2:
            problems.append(f"class_prompt takes more than the {text.length - 2} tokens that a prompt has: shorten it.")
    return problems


def _word_problems(field: str, words: str, text: HostTextEncoder) -> list[str]:
    count = len(text.tokenize(words))
    if count == 0:
        return [f"{field} is empty: give a word for what it is, such as dog."]
    if count > _LONGEST_PHRASE:
        return [
            f"{field} {shown_text(words, 60)!r} takes {count} tokens of the vocabulary, and {_LONGEST_PHRASE} is the most: say "
            "in a word or two what kind of thing it is, such as dog, teddy bear or alarm clock."
        ]
    return []
