"""Images from the host's own sampler: for evaluations, and during training with the copies in training."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor

from ...trainer.concept import PersonalizedToken
from .payload import AppliedToken
from .personalized_clip import PersonalizedCLIP
from .personalized_model import add_wrappers, personalize_model
from .progress import check_interrupt
from .unet import HostUNet
from .weights import with_weights

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
# These samplers add no noise along the way and do not adapt their steps to the images, so an image does not depend on its
# neighbours in a batch. With all others, images are sampled one at a time.
_BATCHED = {
    "euler",
    "euler_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "dpm_2",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "ipndm",
    "ipndm_v",
    "deis",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
}

MakeImages = Callable[[Sequence[str], Sequence[int]], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How images are sampled; as in the host's KSampler. width, height: pixels, multiples of 8."""

    sampler: str = "euler"
    scheduler: str = "normal"
    steps: int = 30
    cfg: float = 7.0
    width: int = 512
    height: int = 512
    negative: str = ""

    def to_dict(self) -> dict:
        return asdict(self)


class ImageMaker:
    """Makes an image for each prompt and seed: up to rounding, what a KSampler makes of that prompt and seed alone.

    An image's noise depends on its seed only, so neither batch size nor order changes the image beyond rounding.
    """

    def __init__(self, patcher: ModelPatcher, clip: CLIP, vae: VAE, sampling: Sampling):
        """patcher, clip: with the token applied. vae: decodes the latents."""
        self._patcher, self._clip, self._vae, self.sampling = patcher, clip, vae, sampling
        self._negative: list | None = None

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Images (n, height, width, 3) float32 in 0..1 on the CPU. Neighbours with the same prompt are sampled together.

        Raises:
            Interrupted: the user has cancelled.
        """
        at_once = len(prompts) if self.sampling.sampler in _BATCHED else 1
        images, start = [], 0
        while start < len(prompts):
            end = start + 1
            while end < len(prompts) and end - start < at_once and prompts[end] == prompts[start]:
                end += 1
            with torch.inference_mode():  # as the host runs its nodes: its fallbacks when memory runs out need it
                images.append(self._sample(prompts[start], seeds[start:end]))
            start = end
        return torch.cat([part.clone() for part in images])

    def _sample(self, prompt: str, seeds: Sequence[int]) -> Tensor:
        check_interrupt()
        setting = self.sampling
        if self._negative is None:
            self._negative = self._encode(setting.negative)
        latents = torch.zeros(len(seeds), 4, setting.height // 8, setting.width // 8)
        latents = comfy.sample.fix_empty_latent_channels(
            self._patcher, latents, 8
        )  # as the host's KSampler does for each family
        noise = torch.cat([comfy.sample.prepare_noise(latents[:1], seed) for seed in seeds])
        samples = comfy.sample.sample(
            self._patcher,
            noise,
            setting.steps,
            setting.cfg,
            setting.sampler,
            setting.scheduler,
            self._encode(prompt),
            self._negative,
            latents,
            disable_pbar=True,
            seed=seeds[0],
            callback=lambda *_: check_interrupt(),
        )
        images = self._vae.decode(samples).to("cpu", torch.float32).clamp(0, 1)
        return images.reshape(-1, *images.shape[-3:])  # VAEs of video give (n, 1, H, W, 3)

    def _encode(self, text: str) -> list:
        return self._clip.encode_from_tokens_scheduled(self._clip.tokenize(text))


def evaluation_maker(
    model: ModelPatcher, clip: CLIP, vae: VAE, token: PersonalizedToken | None, sampling: Sampling
) -> ImageMaker:
    """With the graph's models, with a token or without."""
    if token is None:
        return ImageMaker(model, clip, vae, sampling)
    applied = AppliedToken(token.placeholder, token.subject.train(False), phrase=token.phrase)
    personalized = PersonalizedCLIP.with_token(clip, applied)
    return ImageMaker(with_weights(personalize_model(model), token.weights), personalized, vae, sampling)


def training_maker(
    unet: HostUNet, text_patcher: ModelPatcher, clip: CLIP, vae: VAE, token: PersonalizedToken, sampling: Sampling
) -> ImageMaker:
    """With the copies in training, and the token as it is now.

    unet: the one in training; images are sampled with its patcher, so that no second copy takes memory. Call
    `load_for_training` before training goes on.
    """
    copied = clip.clone()
    copied.patcher, copied.cond_stage_model = text_patcher, text_patcher.model
    personalized = PersonalizedCLIP.with_token(copied, AppliedToken(token.placeholder, token.subject, phrase=token.phrase))
    add_wrappers(unet.patcher)
    return ImageMaker(with_weights(unet.patcher, token.weights), personalized, vae, sampling)
