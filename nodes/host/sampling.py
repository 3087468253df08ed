"""Sample images while training, with the host's own sampler on the training copies."""

import comfy.sample
import torch
from torch import Tensor

from ...trainer.concept import PersonalizedToken
from .clip import PersonalizedCLIP
from .model import add_wrappers
from .payload import AppliedToken


@torch.no_grad()
def sample_images(
    unet, text_patcher, clip, vae, token: PersonalizedToken, prompt: str, *,
    seed: int, steps: int, cfg: float, width: int, height: int, count: int = 1,
) -> Tensor:
    """Images (count, height, width, 3) of `prompt` with the token as it is now.

    unet: the `HostUNet` in training; its patcher is sampled from, so no second copy takes memory.
    """
    copied = clip.clone()
    copied.patcher, copied.cond_stage_model = text_patcher, text_patcher.model
    personalized = PersonalizedCLIP.with_token(copied, AppliedToken(token.placeholder, token.subject))
    positive, negative = (
        personalized.encode_from_tokens_scheduled(personalized.tokenize(text)) for text in (prompt, "")
    )
    add_wrappers(unet.patcher)
    latents = torch.zeros(count, 4, height // 8, width // 8)
    noise = comfy.sample.prepare_noise(latents, seed)
    samples = comfy.sample.sample(
        unet.patcher, noise, steps, cfg, "euler", "normal", positive, negative, latents,
        disable_pbar=True, seed=seed,
    )
    return vae.decode(samples)
