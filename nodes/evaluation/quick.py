"""Held-out scores on a few images, the same ones every time: for checkpoints while training."""

from collections.abc import Callable

from torch import Tensor

from .encoders import EvaluationEncoders
from .metrics import References, mean_scores, score
from .pdst import SLOT, Subject
from .plan import Shot, make_plan, prompt_for
from .preprocessing import in_8_bits


def quick_shots(subject: Subject, count: int, seed: int) -> list[Shot]:
    """Up to `count` captions, spread over the test photos: each photo's first, then each one's second, and so on."""
    shots = make_plan((subject,), 1, seed)
    return sorted(shots, key=lambda shot: (shot.caption, shot.photo))[:count]


def quick_scores(
    make_images: Callable[[list[str], list[int]], Tensor],
    placeholder: str,
    subject: Subject,
    references: References,
    encoders: EvaluationEncoders,
    count: int,
    seed: int,
) -> dict[str, float]:
    """Mean of each score over `quick_shots`.

    make_images(prompts, seeds): images (n, H, W, 3), for example by `host.sampling.training_maker`. references: of `subject`.

    Raises:
        UserError: an image contains NaN.
    """
    shots = quick_shots(subject, count, seed)
    # One at a time: training leaves little memory, and the captions differ anyway.
    found = []
    for shot in shots:
        image = in_8_bits(make_images([prompt_for(shot.text, placeholder)], [shot.seed]), placeholder)
        plain = shot.text.replace(SLOT, subject.super_category)
        scores = score(image, [plain], references, [shot.photo], encoders)
        found.append({name: value for name, (value,) in scores.items()})
    return mean_scores(found)
