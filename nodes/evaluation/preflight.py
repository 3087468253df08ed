"""Everything that can be wrong with an evaluation, before anything is sampled."""

from pathlib import Path

from ...trainer.concept import placeholder_problem
from ..errors import UserError
from ..host import folders
from ..host.checks import clip_problems, model_problems, vae_problems
from ..host.identity import token_identity
from ..host.text_encoder import HostTextEncoder
from .entries import Entry, make_entries
from .results import known_tokens

ROOM = 100 * 1024**2  # bytes kept free beside the images


def check(model, clip, vae, dataset, tokens, encoders, inputs) -> list[Entry]:
    """Everything that can be wrong, before anything is sampled; the entries.

    Raises:
        UserError: every problem at once, each with its input and remedy.
    """
    problems = model_problems(model) + vae_problems(vae) + folders.name_problems(inputs["name"].strip())
    text_problems = clip_problems(clip)
    problems += text_problems
    if getattr(clip, "applied", ()):
        known = ", ".join(token.placeholder for token in clip.applied)
        problems.append(
            f"clip: it knows {known} already. Wire MODEL and CLIP from before Apply Personalized Token, and the "
            "tokens to tokens."
        )
    elif not text_problems:
        text = HostTextEncoder(clip)
        for token in tokens:
            wrong = placeholder_problem(token.placeholder, text.is_word)
            problems += [f"tokens: {wrong}"] if wrong else []
            if token.width != text.width:
                problems.append(
                    f"tokens: {token.placeholder} has width {token.width}, this text encoder {text.width}: it was "
                    "made for another model family."
                )
    if inputs["metrics"] and (encoders is None or not encoders.describe()):
        problems.append(
            "encoders: scores need CLIP, DINO or both. Wire Load Evaluation Encoders, or turn metrics off to make images only."
        )
    if inputs["shard"] > inputs["shards"]:
        problems.append(f"shard is {inputs['shard']} of {inputs['shards']}: use 1 to {inputs['shards']}.")
    known = frozenset() if problems else known_tokens(folders.evaluation_path(inputs["name"].strip()))
    entries, wrong = make_entries(
        tokens,
        [token_identity(token) for token in tokens],
        dataset,
        inputs["pairs"],
        inputs["labels"],
        inputs["include_floor"],
        known,
    )
    problems += list(dict.fromkeys(wrong))
    if not problems:
        captions = sum(len(photo.captions) for entry in entries for photo in entry.subject.test)
        images = captions * inputs["images_per_caption"] // inputs["shards"]
        size = images * inputs["width"] * inputs["height"] * 2 if inputs["save_images"] else 0  # a PNG has 1 to 2 bytes a pixel
        problems += disk_problems(folders.evaluations_folder(), ROOM + size)
    if problems:
        raise UserError.of(list(dict.fromkeys(problems)))
    return entries


def disk_problems(folder: Path, needed: int) -> list[str]:
    """Whether the folder's disk has `needed` bytes left."""
    free = folders.free_bytes(folder)
    if free >= needed:
        return []
    return [
        f"The output folder's disk has {free // 1024**2} MB left and this evaluation may need {needed // 1024**2} MB. Free "
        "some space, or turn save_images off."
    ]
