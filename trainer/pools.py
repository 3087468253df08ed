"""The prompt pools: which sample of a batch sees which prompt, with which weight in the loss (paper, section 3.2)."""

from dataclasses import dataclass

import torch

from .dataset import Batch
from .interfaces import TextEncoder
from .methods import BACKGROUND, JOINT, PRIOR, SUBJECT
from .own_prompts import own_templates, photo_captions
from .reading import shown_text
from .settings import TrainingSettings

# The paper's 30 training templates; `{}` is a slot.
ONE_SLOT = (
    "a photo of a {}",
    "a rendering of a {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of a nice {}",
)
TWO_SLOTS = (
    "a photo of a {} in the {}",
    "a rendering of a {} in the {}",
    "a cropped photo of the {} in the {}",
    "the photo of a {} in the {}",
    "a photo of a clean {} in the {}",
    "a photo of my {} in the {}",
    "a photo of the nice {} in the {}",
    "a good photo of a {} in the {}",
    "a rendition of a {} in the {}",
    "a photo of the clean {} in the {}",
    "a photo of a cool {} in the {}",
    "a close-up photo of a {} in the {}",
    "a photo of the cool {} in the {}",
    "a cropped photo of a {} in the {}",
    "a photo of one {} in the {}",
)


def attractor_name(photo: int) -> str:
    """Name of a photo's attractor A*_i among the learnable tokens; the subject's v* is called `subject`."""
    return f"attractor_{photo}"


@dataclass(frozen=True)
class Slot:
    """A hole in a template that a learnable token fills, by the token's name. count: of its vectors, one after another."""

    token: str
    count: int = 1


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: `ids` (S,) with the end token at each slot, and the position of each token's first vector."""

    ids: tuple[int, ...]
    positions: dict[str, int]


def build_prompt(text: TextEncoder, template: str, *fillings: str | Slot) -> Prompt:
    """Tokenise a template with `{}` holes; pieces around a slot are tokenised apart, as the host does.

    Raises:
        ValueError: the prompt does not fit the text encoder's sequence.
    """
    # A word is put in before tokenising, so that it merges with its neighbours as in any prompt.
    words = iter(fillings)
    pieces: list[str | Slot] = []
    piece = ""
    for i, part in enumerate(template.split("{}")):
        filling = next(words) if i else ""
        if isinstance(filling, Slot):
            pieces += [piece, filling]
            piece = part
        else:
            piece += filling + part
    pieces.append(piece)
    ids, positions = [text.bos], {}
    for item in pieces:
        if isinstance(item, Slot):
            positions[item.token] = len(ids)
            ids += [text.eos] * item.count
        elif item:
            ids += text.tokenize(item)
    if len(ids) >= text.length:
        raise ValueError(f"The prompt {template!r} takes {len(ids) + 1} tokens; the text encoder holds {text.length}.")
    return Prompt(tuple(ids + [text.eos] * (text.length - len(ids))), positions)


@dataclass(frozen=True)
class PromptRow:
    """A prompt of a step and what becomes of it.

    pool, template: where the prompt is from. sample: of the batch. seen: whether the U-Net gets it; a joint prompt may be
    there for InfoNCE alone. weight: of its denoising loss in the total. prior: of its prior loss, 0 except on subject prompts.
    """

    pool: str
    sample: int
    template: int
    prompt: Prompt
    seen: bool = True
    weight: float = 0.0
    prior: float = 0.0


def pool_prompt(settings: TrainingSettings, text: TextEncoder, pool: str, template: int, photo: int) -> Prompt:
    """The prompt of a pool: subject "a photo of a {v*}", background "a {S} in the {A*}", joint "a {v*} in the {A*}"."""
    subject = Slot(SUBJECT, settings.vectors)
    if pool == SUBJECT:
        return build_prompt(text, subject_template(settings, template, photo), subject)
    first = settings.super_category if pool == BACKGROUND else subject
    return build_prompt(text, TWO_SLOTS[template], first, Slot(attractor_name(photo)))


def subject_template(settings: TrainingSettings, template: int, photo: int) -> str:
    """Of a subject prompt: the photo's caption, a template of one's own, or one of the paper's."""
    captions = photo_captions(settings)
    return captions[photo] if captions and captions[photo] else (own_templates(settings) or ONE_SLOT)[template]


def template_problems(settings: TrainingSettings, text: TextEncoder, photos: int) -> list[str]:
    """What is wrong with templates and captions of one's own, for so many photos; each with its remedy."""
    captions = photo_captions(settings)
    found = []
    if captions and len(captions) != photos:
        found.append(
            f"captions: there are {len(captions)} lines and {photos} photos. Give one line a photo, in order; an empty line "
            "means the templates."
        )
    for name, lines in (("templates", own_templates(settings)), ("captions", captions)):
        for number, line in enumerate(lines, 1):
            if line and line.count("{}") != 1:
                found.append(f"{name}: line {number} ({shown_text(line, 60)}) must hold {{}} once, where the subject goes.")
            elif line:
                try:
                    build_prompt(text, line, Slot(SUBJECT, settings.vectors))
                except ValueError as error:
                    found.append(f"{name}: line {number} is too long. {error} Shorten it.")
    return found


def subject_prompt(settings: TrainingSettings, text: TextEncoder, photo: int, wording: str = "{}") -> Prompt:
    """What the subject is called when nothing else is said: "a photo of a {v*}", or the one prompt of a method that has one.

    wording: what the prompt becomes, `{}` is the prompt.
    """
    if not settings.prompt:
        return build_prompt(text, ONE_SLOT[0], Slot(SUBJECT, settings.vectors))
    word = Slot(SUBJECT) if settings.learns_token else settings.rare_token
    return build_prompt(text, wording.replace("{}", settings.prompt), word, settings.super_category)


def class_prompt(settings: TrainingSettings, text: TextEncoder) -> Prompt:
    """The prompt of the class, of which a prior loss keeps what the model makes."""
    return build_prompt(text, settings.class_prompt, *[settings.super_category] * settings.class_prompt.count("{}"))


def tuning_rows(settings: TrainingSettings, text: TextEncoder, batch: Batch) -> list[PromptRow]:
    """The prompts of a step that learns weights of the U-Net: the subject's, and with a prior as many of the class."""
    size = len(batch.photos)
    rows = [
        PromptRow(SUBJECT, n, 0, subject_prompt(settings, text, photo, wording), weight=1 / size)
        for n, (photo, wording) in enumerate(zip(batch.photos, batch.wordings, strict=True))
    ]
    if settings.class_prior != "none":
        prompt = class_prompt(settings, text)
        rows += [PromptRow(PRIOR, n, 0, prompt, weight=settings.class_weight / size) for n in range(size)]
    return rows


def draw_prompt_rows(
    settings: TrainingSettings, text: TextEncoder, photos: list[int], generator: torch.Generator
) -> list[PromptRow]:
    """The prompts of a step.

    Joint prompts come first, one a sample: the InfoNCE loss reads the tokens' contextual embeddings there, whether or not
    the U-Net sees them.

    Args:
        photos: of each sample of the batch.
        generator: the same amount of random numbers is drawn whatever the settings are, but for templates of one's own.
    """
    size, weights = len(photos), settings.loss_weights
    templates = torch.randint(len(ONE_SLOT), (3, size), generator=generator).tolist()
    choice = torch.rand(size, generator=generator).tolist()
    if own := own_templates(settings):
        templates[1] = torch.randint(len(own), (size,), generator=generator).tolist()
    total = sum(weights.values())
    prior_ratio = settings.prior_weight / settings.subject_weight if settings.uses_prior else 0.0
    rows = []
    for pool, indices in zip((JOINT, SUBJECT, BACKGROUND), templates, strict=True):
        for sample, (photo, template) in enumerate(zip(photos, indices, strict=True)):
            seen, weight = pool in weights, weights.get(pool, 0.0)
            if seen and settings.prompts_per_step == "one":
                # One pool a sample, in the weights' proportion: an unbiased estimate of the weighted sum.
                seen, weight = _pick(weights, choice[sample] * total) == pool, total
            if not seen and not (pool == JOINT and settings.uses_contrast):
                continue
            prompt = pool_prompt(settings, text, pool, template, photo)
            if seen:
                prior_weight = prior_ratio * weight / size if pool == SUBJECT else 0.0
                rows.append(PromptRow(pool, sample, template, prompt, True, weight / size, prior_weight))
            else:
                rows.append(PromptRow(pool, sample, template, prompt, False))
    return rows


def _pick(weights: dict[str, float], point: float) -> str:
    """The pool in which `point`, uniform on [0, sum of weights), falls."""
    for pool, weight in weights.items():
        point -= weight
        if point < 0:
            return pool
    return pool
