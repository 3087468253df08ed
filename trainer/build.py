"""A trainer for each method, at its start."""

from .concept import Representation
from .dataset import Photos
from .initial import initial_concepts
from .interfaces import TextEncoder, UNet
from .loop import Trainer
from .settings import TrainingSettings
from .tuned import build_tuned
from .tuning import TuningTrainer


def build_trainer(
    settings: TrainingSettings,
    photos: Photos,
    text: TextEncoder,
    unet: UNet,
    held_out: Photos | None = None,
    class_photos: Photos | None = None,
    start_from: Representation | None = None,
) -> Trainer:
    """A trainer at step 0, its tokens at their initial values (`initial.py`) on the text encoder's device.

    class_photos: pictures of the class, for methods with a prior loss on them. start_from: what the subject starts from, if not
    from the word; it is of the method's kind, and copied.
    """
    concepts = initial_concepts(settings, photos.count, text, start_from)
    if settings.tunes:
        tuned = build_tuned(settings, unet.tunable(settings.learns))
        trainer: Trainer = TuningTrainer(settings, photos, text, unet, concepts, held_out, tuned, class_photos)
    else:
        trainer = Trainer(settings, photos, text, unet, concepts, held_out)
    trainer.concepts.to(text.device)
    return trainer
