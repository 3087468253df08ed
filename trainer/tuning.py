"""Steps that learn weights of the U-Net: DreamBooth as a whole or by LoRA, and Custom Diffusion.

L = L_subject + w L_prior, both plain denoising losses: of the subject's photos with "a photo of a <word> <class>", and of the
class, so that it stays what it was, with "a photo of a <class>" on pictures of it that the model made before, or against the
model's own prediction before the training (Ruiz et al. 2023, Eq. 2; Kumari et al. 2023, section 3.2; ai-toolkit for the last).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from .concept import PersonalizedToken, Representation
from .dataset import Batch, Photos, draw_batch
from .denoising import predict
from .interfaces import TextEncoder, UNet
from .loop import Contexts, GradientOverflow, Trainer
from .methods import KEYS_VALUES, PRIOR
from .pools import PromptRow, tuning_rows
from .settings import TrainingSettings
from .tuned import Tuned

CLIPPED_TO = 1.0  # the norm of all gradients together (diffusers' scripts)


class TuningTrainer(Trainer):
    """A run that learns weights of the U-Net, and under Custom Diffusion a token beside them."""

    def __init__(
        self,
        settings: TrainingSettings,
        photos: Photos,
        text: TextEncoder,
        unet: UNet,
        concepts: dict[str, Representation],
        held_out: Photos | None,
        tuned: Tuned,
        class_photos: Photos | None,
    ):
        """tuned: what is learnt of the U-Net. class_photos: pictures of the class; None without a prior loss on them."""
        self.tuned, self.class_photos = tuned, class_photos
        super().__init__(settings, photos, text, unet, concepts, held_out)

    def learnables(self) -> dict[str, nn.Parameter]:
        return {**super().learnables(), **self.tuned.parameters}

    def backward(self, batch: Batch, generator: torch.Generator) -> tuple[dict[str, float], float]:
        rows = tuning_rows(self.settings, self.text, batch)
        parts = [(batch, [row for row in rows if row.pool != PRIOR])]
        if prior := [row for row in rows if row.pool == PRIOR]:
            of_class = batch if self.class_photos is None else draw_batch(self.class_photos, len(prior), generator)
            parts.append((of_class, prior))
        losses: dict[str, float] = {}
        for own, members in parts:  # one after another: pictures of the class may have another shape
            losses |= self._backward_of(own, members)
        if self.unet.loss_scale > 1:
            for parameter in self.tuned.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.div_(self.unet.loss_scale)
        if not torch.isfinite(nn.utils.clip_grad_norm_(list(self.learnables().values()), CLIPPED_TO)):
            raise GradientOverflow(f"step {self.step_count + 1}: the gradient is not finite")
        return losses, 0.0

    def _backward_of(self, batch: Batch, rows: list[PromptRow]) -> dict[str, float]:
        contexts = self._contexts([row.prompt for row in rows], batch.timesteps, None)
        losses, context_grads = self._denoise(batch, rows, contexts)
        if contexts[0].requires_grad:
            torch.autograd.backward(contexts, context_grads)
        self._check_finite(losses, context_grads)
        return losses

    def _as_learnt(self) -> AbstractContextManager[None]:
        base = self.unet.tunable(self.settings.learns)
        return self.unet.tuned(self.tuned.tensors(base), detach_start=self.settings.learns == KEYS_VALUES)

    def _gradients(self, loss: Tensor, contexts: Contexts) -> Sequence[Tensor]:
        """Those of the learnt weights add up in their `.grad`."""
        torch.autograd.backward(loss, inputs=[*contexts, *self.tuned.parameters.values()])
        return [context.grad for context in contexts if context.grad is not None]

    @torch.no_grad()
    def _target(self, batch: Batch, rows: list[PromptRow], context_k: Tensor, context_v: Tensor) -> Tensor | None:
        """Of rows of the class what the model predicted before the training, where that is what is kept."""
        if self.settings.class_prior != "prediction" or rows[0].pool != PRIOR:
            return None
        return predict(self.unet, batch, [row.sample for row in rows], context_k, context_v)

    def token(self, record: dict | None = None) -> PersonalizedToken:
        return replace(super().token(record), weights=self.tuned.patch())
