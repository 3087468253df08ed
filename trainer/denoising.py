"""The U-Net's part of a step: noise predictions for prompt rows, and their losses (Eq. 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .conditioning import encode_layers
from .dataset import Batch
from .interfaces import TextEncoder, UNet
from .losses import masked_loss
from .methods import JOINT, PLACED, PRIOR, SUBJECT
from .pools import PromptRow, build_prompt, subject_template
from .settings import TrainingSettings


def predict(unet: UNet, batch: Batch, samples: list[int], context_k: Tensor, context_v: Tensor) -> Tensor:
    """The noise (rows, 4, h, w) that the U-Net sees in samples of the batch."""
    latents, noise = batch.latents[samples].to(unet.device), batch.noise[samples].to(unet.device)
    timesteps = batch.timesteps[samples].to(unet.device)
    return unet.predict_noise(unet.add_noise(latents, noise, timesteps), timesteps, context_k, context_v, samples)


def denoising_losses(
    settings: TrainingSettings,
    batch: Batch,
    pools: Sequence[str],
    samples: list[int],
    predicted: Tensor,
    target: Tensor | None = None,
) -> Tensor:
    """Eq. 4: (rows,) masked losses of predictions (rows, 4, h, w), one row for each of `pools` and `samples`.

    target: (rows, 4, h, w) instead of the noise.
    """
    subject_masks = batch.masks[samples].to(predicted.device)
    masks = torch.stack([pool_mask(settings, pool, mask) for pool, mask in zip(pools, subject_masks, strict=True)])
    target = batch.noise[samples].to(predicted.device) if target is None else target
    return masked_loss(predicted, target, masks, settings.loss_mean)


def pool_mask(settings: TrainingSettings, pool: str, subject_mask: Tensor) -> Tensor:
    """M_s on subject prompts, M_b = 1 - M_s on background prompts; joint prompts, and methods without attractor, unmasked.

    Placed photos count where they are.
    """
    if pool in (JOINT, PRIOR) or not settings.uses_attractor:
        return subject_mask if pool == SUBJECT and settings.views == PLACED else torch.ones_like(subject_mask)
    return subject_mask if pool == SUBJECT else 1 - subject_mask


def prior_losses(
    settings: TrainingSettings, text: TextEncoder, unet: UNet, batch: Batch, rows: Sequence[PromptRow], predicted: Tensor
) -> Tensor:
    """(rows,) losses of subject prompts against what the model predicts for the plain super-category in their place, outside
    the mask. The idea is masked prior preservation's: what is not the subject is left alone unless there is a reason.
    """
    samples = [row.sample for row in rows]
    templates = [subject_template(settings, row.template, batch.photos[row.sample]) for row in rows]
    plain = [build_prompt(text, template, settings.super_category) for template in templates]
    with torch.no_grad():
        ids = torch.tensor([prompt.ids for prompt in plain], device=text.device)
        k, v = encode_layers(text, text.embed(ids), 1, [], len(ids))
        target = predict(unet, batch, samples, k.to(unet.device), v.to(unet.device))
    return masked_loss(predicted, target, 1 - batch.masks[samples].to(predicted.device), settings.loss_mean)
