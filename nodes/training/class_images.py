"""Pictures of the class, for the prior loss of DreamBooth and Custom Diffusion: made by the model itself, and kept."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...trainer.dataset import Bucket, Photos
from ...trainer.settings import TrainingSettings
from ...trainer.storage import fingerprint, replacing
from ..host.identity import clip_identity, model_identity, vae_identity
from ..host.sampling import Sampling, evaluation_maker
from ..pictures import is_no_photo, is_picture, natural_order, read_picture, to_picture
from .input_checks import Wired
from .live import Live
from .photos import fit

FOLDER = "class"
_MADE = re.compile(r"made-[0-9a-f]{8}-\d{5}\.png")


class ClassImages:
    """The folder with a run's pictures of its class: those that the model makes, and any that a person puts there.

    A made one is named by what it was made with, so other models or settings make others.
    """

    def __init__(self, wired: Wired, settings: TrainingSettings, run: Path):
        self._wired, self._settings, self.folder = wired, settings, run / FOLDER
        side = settings.resolution
        self._sampling = Sampling(steps=settings.sample_steps, cfg=settings.sample_cfg, width=side, height=side)
        identities = model_identity(wired.model), clip_identity(wired.clip), vae_identity(wired.vae)
        made_with = (*identities, settings.class_words, settings.seed, self._sampling.to_dict())
        self._hash = fingerprint(*made_with)[:8]

    def own(self) -> list[Path]:
        """Pictures that a person has put there, in order; no more than are wanted."""
        found = list(self.folder.iterdir()) if self.folder.is_dir() else []
        pictures = [
            path for path in found if not _MADE.fullmatch(path.name) and not is_no_photo(path.name) and is_picture(path)
        ]
        return sorted(pictures, key=lambda path: natural_order(path.name))[: self._settings.class_images]

    def files(self, live: Live) -> list[Path]:
        """All of them; what is missing is made.

        Raises:
            Interrupted: the user has cancelled; those that are made are kept.
        """
        own, maker = self.own(), evaluation_maker(self._wired.model, self._wired.clip, self._wired.vae, None, self._sampling)
        made = [self.folder / f"made-{self._hash}-{n:05d}.png" for n in range(self._settings.class_images - len(own))]
        for number, path in enumerate(made):
            if path.exists():
                continue
            done = f"picture {number + 1} of {len(made)} of the class"
            live.say("preparing", f"Preparing: {done} ({self._settings.class_words}). They are kept.")
            picture = to_picture(maker([self._settings.class_words], [self._settings.seed + number]))
            with replacing(path) as temporary:
                picture.save(temporary, format="PNG")
        return [*own, *made]

    def photos(self, live: Live, encode: Callable[[Tensor], Tensor]) -> tuple[Photos, str]:
        """Latents of all of them, and a hash of their pixels. encode: as of `trainer.views.cache_photos`."""
        side, latents, hashes = self._settings.resolution, [], []
        for path in self.files(live):
            pixels = fit(read_picture(path)[0], (side, side))
            hashes.append(fingerprint((pixels * 255).round().byte()))
            latents.append(encode(pixels[None]).float())
        together = torch.cat(latents)
        bucket = Bucket(tuple(range(len(latents))), together[None], torch.ones_like(together[None, :, :1]))
        return Photos((bucket,)), fingerprint(*hashes)
