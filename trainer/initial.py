"""What the tokens start from: v* from the super-category's word, each A*_i from a word plus noise of its own."""

import copy

from torch import Tensor, no_grad, randint, tensor

from .concept import Embedding, Representation, random_like
from .dataset import step_generator
from .interfaces import TextEncoder
from .mapper import NeTIMapper
from .methods import SUBJECT
from .pools import attractor_name
from .settings import TrainingSettings


def initial_concepts(
    settings: TrainingSettings, photos: int, text: TextEncoder, start_from: Representation | None = None
) -> dict[str, Representation]:
    """The learnable tokens of a run by name: the subject, and an attractor for each of so many `photos` if the method has any.

    Several vectors all start from the word, as in diffusers; their places tell them apart. start_from: what the subject starts
    from instead; it is copied. Under NeTI a mapper's output has the norm of the word's embedding (NeTI: target_norm).

    Raises:
        ValueError: a setting that should name a word is empty.
    """
    if settings.tunes:
        return {SUBJECT: _rare_word(settings, text)}
    neti = settings.kind == "neti"
    word = word_embedding(text, settings.subject_init or settings.super_category, "super_category")
    own: Representation = _mapper(settings, word, -1) if neti else Embedding(word.expand(settings.vectors, -1))
    if start_from is not None:
        own = copy.deepcopy(start_from).requires_grad_(True)
    concepts: dict[str, Representation] = {SUBJECT: own}
    if settings.uses_attractor:
        word = word_embedding(text, settings.attractor_init, "attractor_init")
        for photo in range(photos):
            as_mapper = neti and settings.attractor_kind == "mapper"
            concepts[attractor_name(photo)] = (_mapper if as_mapper else _noisy_embedding)(settings, word, photo)
    return concepts


def _rare_word(settings: TrainingSettings, text: TextEncoder) -> Embedding:
    """DreamBooth's word, as it is: all of its tokens' embeddings. Custom Diffusion's token starts from it, as one vector."""
    if settings.learns_token:
        return Embedding(word_embedding(text, settings.rare_token, "rare_token")[None])
    ids = text.tokenize(settings.rare_token)
    if not ids:
        raise ValueError("rare_token is empty: give a word.")
    with no_grad():
        return Embedding(text.embed(tensor([ids], device=text.device))[0].float().cpu()).requires_grad_(False)


def word_embedding(text: TextEncoder, words: str, name: str) -> Tensor:
    """Embedding (width,) of a word or phrase, on the CPU: the mean of its tokens' embeddings at their mean length, as the mean
    of several words is much shorter than a word is. (Official NeTI takes a phrase's first token.)

    Raises:
        ValueError: no token in `words`; `name` is the input that is to blame.
    """
    ids = text.tokenize(words)
    if not ids:
        raise ValueError(f"{name} is empty: give a word.")
    with no_grad():
        tokens = text.embed(tensor([ids], device=text.device))[0].float().cpu()
    if len(tokens) == 1:
        return tokens[0]
    mean = tokens.mean(0)
    return mean * tokens.norm(dim=1).mean() / mean.norm().clamp_min(1e-8)


def _mapper(settings: TrainingSettings, word: Tensor, index: int) -> NeTIMapper:
    seed = int(randint(2**31, (), generator=step_generator(settings.seed, f"init {index}")))
    scale = word.norm().item()
    return NeTIMapper(len(word), norm_scale=scale, seed=seed, nested_dropout=settings.nested_dropout)


def _noisy_embedding(settings: TrainingSettings, word: Tensor, index: int) -> Embedding:
    generator = step_generator(settings.seed, f"init {index}")
    return Embedding((word + random_like(word, settings.attractor_noise, generator))[None])
