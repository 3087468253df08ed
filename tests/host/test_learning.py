"""Training on one photo set lowers each of the four losses, on the small checkpoint and real photographs."""

import comfy.sd
import pytest
import torch
from photographs import cat_photos

from attractor.nodes.host.private_models import private_models
from attractor.nodes.pictures import to_tensor
from attractor.trainer.build import build_trainer
from attractor.trainer.dataset import draw_batch, step_generator
from attractor.trainer.settings import TrainingSettings
from attractor.trainer.views import cache_photos

pytestmark = pytest.mark.one_host


@pytest.fixture(scope="module")
def models(small_checkpoint, host_base):
    """MODEL, CLIP and VAE by the host's stock loader, under the host's own conditions."""
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(small_checkpoint), embedding_directory=[])[:3]


def frozen_losses(trainer):
    """Each loss, of a draw that no step sees."""
    generator = step_generator(99, 0)
    losses, _ = trainer.backward(draw_batch(trainer.photos, 2, generator), generator)
    trainer.optimizer.zero_grad()
    return losses


def test_training_lowers_each_of_the_four_losses(models):
    model, clip, vae = models
    pairs = cat_photos(2)
    images = torch.cat([to_tensor(photo) for photo, _ in pairs])
    masks = torch.cat([to_tensor(mask)[..., 0] for _, mask in pairs])
    # The random text encoder keeps subject and attractor nearly orthogonal: at the paper's small temperature the
    # contrast would be zero from the start.
    settings = TrainingSettings(
        method="textual_inversion+",
        super_category="cat",
        steps=6,
        batch_size=2,
        learning_rate=1e-2,
        prompts_per_step="all",
        tau=1.0,
        contrast_schedule="one",
        contrast_weight=1.0,
    )
    with torch.inference_mode(False), torch.enable_grad():
        with torch.no_grad():
            photos = cache_photos(images, masks, lambda x: model.model.process_latent_in(vae.encode(x).clone()), settings)
        with private_models(model, clip) as (unet, text):
            assert not any(p.is_inference() for p in unet.model.parameters())
            trainer = build_trainer(settings, photos, text, unet)
            before, fixed = frozen_losses(trainer), trainer.fixed_loss()
            results = list(trainer.run())
            after = frozen_losses(trainer)
    assert set(before) == {"subject", "background", "joint", "contrast"}
    for name in before:
        assert after[name] < before[name], f"{name}: {before[name]} -> {after[name]}"
    assert results[-1].fixed_loss < fixed
