"""One training, from wired inputs to a finished run: latents, private models, trainer, samples and scores."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...trainer.build import build_trainer
from ...trainer.checkpoint import FROM_WORD, START_FROM
from ...trainer.concept import PersonalizedToken
from ...trainer.custom_diffusion import save_for_diffusers
from ...trainer.dataset import Photos, mask_problems
from ...trainer.disk import smaller_offer
from ...trainer.loop import Trainer
from ...trainer.methods import KEYS_VALUES
from ...trainer.own_prompts import sample_prompts
from ...trainer.qualities import quality_note
from ...trainer.settings import TrainingSettings
from ...trainer.storage import fingerprint
from ...trainer.tuning import TuningTrainer
from ...trainer.views import cache_photos
from ..errors import UserError
from ..host import folders
from ..host.compiling import compile_parts
from ..host.identity import token_identity
from ..host.memory import load_for_training, plan_memory, shrink
from ..host.placeholders import bracket_warning
from ..host.private_models import private_models
from ..host.progress import Progress
from ..host.sampling import ImageMaker, Sampling, training_maker
from ..host.text_encoder import HostTextEncoder
from ..host.unet import HostUNet
from ..locks import only_writer
from ..pictures import read_picture, to_picture
from .class_images import ClassImages
from .held_out import HeldOut
from .input_checks import Wired, files_of
from .live import Live
from .photos import cut_note, photo_sizes, resize_photos
from .run import Run

_PHOTO_SIDE = 512  # pixels of the photo beside the samples


def train(wired: Wired, settings: TrainingSettings, name: str, resume: bool, node_id: str) -> Run:
    """Carry out a run, or the rest of it. Must be called under `torch.inference_mode(False)` with gradients on.

    Raises:
        Interrupted: the user has cancelled; what was learnt is saved.
        UserError: it cannot be resumed, or as `Run.train`.
    """
    folder = folders.output_path(name)
    progress = Progress(settings.steps, node_id)
    with only_writer(folder, f"name: the run '{name}'", "Wait until it is done, or give this run another name."):
        with Live(folder, name, settings.steps, progress) as live:
            return _train(wired, settings, folder, resume, progress, live)


def _train(wired: Wired, settings: TrainingSettings, folder: Path, resume: bool, progress: Progress, live: Live) -> Run:
    live.say("preparing", f"Preparing: {len(wired.images)} photos become latents.")
    photos, held_out = _encode_photos(wired, settings)
    class_photos, of_class = _class_photos(wired, settings, folder, live)
    live.say("preparing", "Preparing: loading private copies of the models.")
    with private_models(wired.model, wired.clip) as (unet, text):
        start = wired.start_from.subject if wired.start_from else None
        trainer = build_trainer(settings, photos, text, unet, held_out.photos if held_out else None, class_photos, start)
        uncompiled = _compile(settings, unet, text, photos)
        plan_memory(trainer, unet, text)
        identity = {
            "base_model": fingerprint(*unet.sample_weights(), *text.sample_weights()),
            **_photos_identity(wired, settings),
            **({"class_images": of_class} if class_photos else {}),
            START_FROM: _start_identity(wired.start_from),
        }
        studio = Studio(wired, settings, unet, text, held_out, photos.usual_size)
        scored_with = studio.scored_with
        run = Run(trainer, folder, identity, {"images": photos.count}, partial(shrink, unet), live, scored_with)
        offer = smaller_offer(settings, photos.count, text.width)
        cut = cut_note(wired.images, _sizes(wired, settings))
        notes = quality_note(settings), uncompiled, cut, bracket_warning(settings.placeholder), offer
        run.notes += filter(None, notes)
        if resume:
            run.resume()
        run.compare_with(*_photo_to_compare(wired, held_out))
        live.say("preparing", f"The run writes {files_of(wired, settings)}.", notes=run.notes)
        run.train(progress, studio.sample, studio.score if scored_with else None)
        if settings.learns == KEYS_VALUES:
            _save_for_diffusers(trainer, run)
        trainer.concepts.to("cpu").requires_grad_(False)
    return run


def _compile(settings: TrainingSettings, unet: HostUNet, text: HostTextEncoder, photos: Photos) -> str:
    """Compile the U-Net if that is wanted; a note if it is not done."""
    if not settings.compile:
        return ""
    if settings.tunes:
        return f"compile: not done, as {settings.method} changes the U-Net's weights in every step"
    why = compile_parts(unet, text, photos.largest_size)
    return why and f"compile: torch could not, and training goes on without ({why})"


def _save_for_diffusers(trainer: Trainer, run: Run) -> None:
    """Custom Diffusion's weights and token as diffusers' own files, beside the run's."""
    if isinstance(trainer, TuningTrainer):
        with run.writing():
            save_for_diffusers(trainer.tuned.parameters, run.token(), run.folder / "diffusers")


def _photo_to_compare(wired: Wired, held_out: HeldOut | None) -> tuple[Image.Image, str]:
    """A photo to look at beside the samples, and what it is."""
    photo = wired.images[0] if held_out is None else read_picture(held_out.subject.test[0].path, _PHOTO_SIDE)[0]
    picture = to_picture(photo[None])
    picture.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    return picture, "training photo" if held_out is None else "held-out photo"


def _start_identity(token: PersonalizedToken | None) -> str:
    return FROM_WORD if token is None else f"{token.placeholder} {token_identity(token)}"


def _photos_identity(wired: Wired, settings: TrainingSettings) -> dict[str, str]:
    """What was trained on, in words and as hashes: of the pixels in 8 bits, not of latents, which differ in the last digit
    between drivers; each for itself, so that a run that is resumed on others can say on which."""
    masks = (wired.masks or []) if settings.uses_attractor else []
    return {
        "photos": _hashes(image[..., :3] for image in wired.images),
        "masks": _hashes(masks),
        "size_in_training": f"{' and '.join(_in_words(_sizes(wired, settings)))} (see resolution and aspect)",
    }


def _hashes(parts: Iterable[Tensor]) -> str:
    return " ".join(fingerprint((part * 255).round().byte()) for part in parts)


def _sizes(wired: Wired, settings: TrainingSettings) -> list[tuple[int, int]]:
    """Height and width of each photo in training."""
    return photo_sizes(wired.images, settings.resolution, settings.aspect)


def _in_words(sizes: list[tuple[int, int]]) -> list[str]:
    """Each that there is, once, as width x height."""
    return [f"{width} x {height}" for height, width in dict.fromkeys(sizes)]


def _encode_photos(wired: Wired, settings: TrainingSettings) -> tuple[Photos, HeldOut | None]:
    """The photos as latents and masks, and the held-out ones if a data set is wired."""
    sizes = _sizes(wired, settings)
    images, masks = resize_photos(wired.images, wired.masks, sizes)
    if settings.uses_attractor and masks is not None and (problems := mask_problems(masks)):
        cut = f"(As cut to {' or '.join(_in_words(sizes))}.)"
        raise UserError.of([f"{problem} {cut}" for problem in problems])

    encode = partial(_encode, wired)
    with torch.no_grad():
        photos = cache_photos(images, masks if settings.uses_attractor else None, encode, settings)
        _check_latents(photos)
        if wired.dataset is None:
            return photos, None
        return photos, HeldOut.of(wired.dataset, wired.encoders, list(dict.fromkeys(sizes)), encode)


def _class_photos(wired: Wired, settings: TrainingSettings, folder: Path, live: Live) -> tuple[Photos | None, str]:
    """Pictures of the class as latents, and their hash, where the method's prior loss needs them."""
    if settings.class_prior != "generated":
        return None, ""
    with torch.no_grad():
        photos, identity = ClassImages(wired, settings, folder).photos(live, partial(_encode, wired))
    _check_latents(photos)
    return photos, identity


def _encode(wired: Wired, pixels: Tensor) -> Tensor:
    """(k, H, W, 3) -> (k, 4, h, w) latents, scaled as the U-Net takes them."""
    with torch.inference_mode():  # as the host runs its nodes: its fallback to tiles when memory runs out needs it
        latents = wired.vae.encode(pixels)
    return wired.model.model.process_latent_in(latents.clone())


def _check_latents(photos: Photos) -> None:
    """Whether the VAE could encode every photo.

    Raises:
        UserError: names those that it could not.
    """
    bad = [
        photo + 1
        for bucket in photos.buckets
        for place, photo in enumerate(bucket.numbers)
        if not torch.isfinite(bucket.latents[:, place]).all()
    ]
    if bad:
        raise UserError(
            f"vae: it turns image {' and '.join(map(str, sorted(bad)))} into numbers that are not finite. Start ComfyUI with "
            "--fp32-vae, or wire another VAE."
        )


class Studio:
    """Makes pictures with the token in training, by the very copies in training: no second model takes memory."""

    def __init__(
        self,
        wired: Wired,
        settings: TrainingSettings,
        unet: HostUNet,
        text: HostTextEncoder,
        held_out: HeldOut | None,
        latent_size: tuple[int, int],
    ):
        """latent_size: (height, width) of the latents of most training photos."""
        self._wired, self._settings, self._unet, self._text, self._held_out = wired, settings, unet, text, held_out
        height, width = (8 * side for side in latent_size)
        self._sampling = Sampling(steps=settings.sample_steps, cfg=settings.sample_cfg, width=width, height=height)

    @property
    def scored_with(self) -> dict | None:
        """What held-out scores depend on beside the token; None if there are none."""
        if self._held_out is None:
            return None
        settings = self._settings
        return self._held_out.scored_with(sampling=self._sampling.to_dict(), images=settings.score_images, seed=settings.seed)

    def sample(self, token: PersonalizedToken) -> list[Image.Image]:
        """A picture of each sample prompt with a token."""
        prompts = [prompt.replace("{}", self._settings.placeholder) for prompt in sample_prompts(self._settings)]
        pictures = self._maker(token)(prompts, [self._settings.seed] * len(prompts))
        load_for_training(self._unet, self._text)
        return [to_picture(picture[None]) for picture in pictures]

    def score(self, token: PersonalizedToken, report: Callable[[int], None]) -> dict[str, float]:
        """Mean held-out scores of a token. report: called with the number of each image before it is made."""
        maker, made, settings = self._maker(token), itertools.count(1), self._settings

        def make_images(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
            report(next(made))
            return maker(prompts, seeds)

        assert self._held_out is not None, "there are no held-out photos to score on"
        scores = self._held_out.scores(make_images, settings.placeholder, settings.score_images, settings.seed)
        load_for_training(self._unet, self._text)
        return scores

    def _maker(self, token: PersonalizedToken) -> ImageMaker:
        return training_maker(self._unet, self._text.patcher, self._wired.clip, self._wired.vae, token, self._sampling)
