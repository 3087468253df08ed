"""Prompts of one's own, as they are written into the settings: a prompt a line, `{}` for the subject."""

from .settings import TrainingSettings


def sample_prompts(settings: TrainingSettings) -> list[str]:
    """Of the sample images."""
    return _lines(f"{settings.sample_prompt}\n{settings.more_sample_prompts}")


def own_templates(settings: TrainingSettings) -> list[str]:
    """Subject templates instead of the paper's; empty if there are none."""
    return _lines(settings.templates)


def photo_captions(settings: TrainingSettings) -> list[str]:
    """A subject template for each photo, "" where it has none; empty if no photo has one."""
    lines = [line.strip() for line in settings.captions.removesuffix("\n").split("\n")]
    return lines if any(lines) else []


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
