"""A trainer on the host's own models, small and random, and the gradient of its first step."""

import torch
from in_process import narrow_models

from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet
from attractor.trainer.build import build_trainer
from attractor.trainer.dataset import Photos, draw_batch, step_generator
from attractor.trainer.settings import TrainingSettings


def small_models():
    """A `HostUNet` and a `HostTextEncoder`."""
    model, clip = narrow_models()
    return HostUNet(model), HostTextEncoder(clip)


def small_photos():
    """Three photos in two views each."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 3, 4, 16, 16, generator=generator)
    masks = torch.rand(2, 3, 1, 16, 16, generator=generator)
    return Photos.of(latents, masks)


def trainer_of(models, photos, method="neti+", **changes):
    unet, text = models
    settings = {
        "method": method,
        "batch_size": 3,
        "steps": 9,
        "contrast_schedule": "one",
        "prompts_per_step": "all",
        "seed": 3,
        "text_chunk": 40,
        "tau": 1.0,
        "placeholder": "<x>",
        "super_category": "cat",
        **changes,
    }
    return build_trainer(TrainingSettings(**settings), photos, text, unet)


def gradient(trainer, micro_batch=4):
    """All parameters' gradients of the first step, as one vector."""
    trainer.micro_batch = micro_batch
    trainer.optimizer.zero_grad()
    generator = step_generator(trainer.settings.seed, 0)
    trainer.backward(draw_batch(trainer.photos, trainer.settings.batch_size, generator), generator)
    return torch.cat(
        [p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in trainer.concepts.parameters()]
    )


def relative(a, b):
    """How far `a` is from `b`, in norms of `b`."""
    return ((a - b).norm() / b.norm()).item()
