"""The training loop: plain torch, nothing that knows ComfyUI. One step minimises Eq. 6,

    L = w_s L_sub + w_b L_bg + w_i L_joint + w_c(step) L_InfoNCE

    1  batch       B photos of one shape, t ~ U{0..999}, eps ~ N(0, I), z_t          dataset.py
    2  rows        a subject, a background and a joint prompt for each sample        pools.py
    3  contexts    C_l = text(prompt with v*(t, l), A*(t, l)), all layers l at once  conditioning.py
    4  U-Net       L_sub, L_bg, L_joint (Eq. 4) on detached C, micro-batch by        denoising.py
                   micro-batch: gathers dL/dC
    5  contrast    L_InfoNCE (Eq. 5) on C at the places of v* and A*                 losses.py
    6  backward    dL/dC and w_c L_InfoNCE through text encoder and mappers, once
    7  AdamW

Methods that learn weights of the U-Net (DreamBooth, Custom Diffusion) have two pools, their subject's and the class's, whose
prior loss is on pictures of the class or on what the model predicted before; stage 4 gathers dL/dweights too (tuning.py).

Micro-batches are exact: the U-Net is frozen, so its gradients end at C and add up there. The reference, the same equations
written out plainly (a text pass for each prompt and layer, a U-Net call for each row, one graph), is `slow_total_loss` in
tests/host/test_training_step.py; gradients agree to 1e-5.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .concept import LAYERS, PersonalizedToken, Representation
from .conditioning import draw_truncations, encode_layers, place_tokens
from .dataset import Batch, Photos, draw_batch, fixed_batch, step_generator
from .denoising import denoising_losses, predict, prior_losses
from .interfaces import TextEncoder, UNet
from .losses import info_nce
from .methods import SUBJECT
from .pools import Prompt, PromptRow, attractor_name, draw_prompt_rows, subject_prompt
from .schedules import contrast_weight
from .settings import TrainingSettings
from .storage import fingerprint

Contexts = tuple[Tensor, Tensor]  # K and V, each (layers, prompts, S, width), on the text encoder's device


class NonFiniteLoss(ArithmeticError):
    """A loss is NaN or infinite; the parameters are those of the last good step."""


class GradientOverflow(NonFiniteLoss):
    """The losses are finite, the gradient is not."""


@dataclass(frozen=True)
class StepResult:
    """What a step did. `losses` by name, unweighted; `contrast_weight` is w_c; `fixed_loss` where it was evaluated."""

    step: int  # steps done, this one included
    losses: dict[str, float]
    contrast_weight: float
    fixed_loss: float | None


class Trainer:
    """A run's learnable state and its step. Build with `build_trainer` (build.py)."""

    def __init__(
        self,
        settings: TrainingSettings,
        photos: Photos,
        text: TextEncoder,
        unet: UNet,
        concepts: dict[str, Representation],
        held_out: Photos | None = None,
    ):
        """concepts: the learnable tokens by name. held_out: photos that are not trained on, for the fixed-batch loss; without
        them it is the training photos'."""
        self.settings, self.photos, self.text, self.unet = settings, photos, text, unet
        self.held_out, self._tokens, self.concepts = held_out, concepts, nn.ModuleDict(concepts)
        optimizer = torch.optim.Adafactor if settings.optimizer == "adafactor" else torch.optim.AdamW
        self.optimizer = optimizer(self.learnables().values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.layers = LAYERS if settings.kind == "neti" else 1
        self.micro_batch = settings.micro_batch or settings.batch_size * len(settings.loss_weights)
        self.scales_loss = unet.loss_scale > 1
        self.text_chunk, self.recompute_text = settings.text_chunk or 32, False
        self.step_count = 0
        self.curves: dict[str, list[float]] = {}
        size = max(4, min(8, settings.batch_size))
        if held_out:
            size = max(size, min(held_out.count, 16))
        self._fixed = fixed_batch(held_out or photos, size, settings.seed)

    # -- the step --------------------------------------------------------------------------------------

    def step(self) -> StepResult:
        """One optimiser step.

        Raises:
            NonFiniteLoss: names step and loss; parameters and optimiser are untouched by the bad step.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            generator = step_generator(self.settings.seed, self.step_count)
            batch = draw_batch(self.photos, self.settings.batch_size, generator)
            try:
                losses, w_c = self.backward(batch, generator)
                break
            except GradientOverflow:
                if self.unet.loss_scale <= 1:
                    raise
                self.unet.loss_scale /= 16  # half precision overflowed: the same step again, scaled less
        self.optimizer.step()
        self.step_count += 1
        self._record(losses, w_c)
        fixed = None
        if self.step_count % self.settings.fixed_loss_every == 0 or self.step_count in (1, self.settings.steps):
            fixed = self.curves["fixed"][-1] = self.fixed_loss()  # a user may cancel in here: the step is whole already
        return StepResult(self.step_count, losses, w_c, fixed)

    def backward(self, batch: Batch, generator: torch.Generator) -> tuple[dict[str, float], float]:
        """Gradients of Eq. 6 into the parameters' `.grad`; the same whatever the micro-batch is, beyond rounding.

        Returns:
            the unweighted losses by name, and w_c of this step.
        """
        rows = draw_prompt_rows(self.settings, self.text, batch.photos, generator)
        contexts = self._contexts([row.prompt for row in rows], batch.timesteps[[row.sample for row in rows]], generator)
        losses, context_grads = self._denoise(batch, rows, contexts)
        contrast, w_c = self._contrast(contexts[0], rows, batch.photos)
        if contrast is not None:
            losses["contrast"] = contrast.item()
        self._check_finite(losses, context_grads)
        self._backward_through_text(rows, contexts, context_grads, contrast, w_c)
        return losses, w_c

    def learnables(self) -> dict[str, nn.Parameter]:
        """Everything that is learnt, by its name in a saved state."""
        return dict(self.concepts.named_parameters()) if self.settings.learns_token else {}

    def _contexts(self, prompts: list[Prompt], times: Tensor, generator: torch.Generator | None) -> Contexts:
        """Stage 3: contexts of prompts at their denoising times (N,), with a graph back to the tokens.

        With a generator, mappers get nested dropout.
        """
        device, truncations = self.text.device, {}
        if generator is not None:
            probability = self.settings.nested_dropout
            truncations = draw_truncations(self._tokens, prompts, self.layers, probability, generator)
        tokens = place_tokens(self._tokens, prompts, times, self.layers, truncations, device)
        with torch.no_grad():
            embeddings = self.text.embed(torch.tensor([prompt.ids for prompt in prompts], device=device))
        return encode_layers(self.text, embeddings, self.layers, tokens, self.text_chunk, self.recompute_text)

    def _denoise(
        self, batch: Batch, rows: list[PromptRow], contexts: Contexts
    ) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
        """Stage 4: the denoising losses by pool, and the gradients of their weighted sum for the K and V contexts of the rows
        that the U-Net sees."""
        scale, seen = self.unet.loss_scale, [n for n, row in enumerate(rows) if row.seen]
        values: list[Tensor] = []
        priors: list[Tensor] = []
        grads: tuple[list[Tensor], list[Tensor]] = ([], [])
        for start in range(0, len(seen), self.micro_batch):
            part = seen[start : start + self.micro_batch]
            k, v = (context.detach()[:, part].to(self.unet.device).requires_grad_() for context in contexts)
            own = [rows[n] for n in part]
            target = self._target(batch, own, k, v)
            with self._as_learnt():
                total, losses, prior = self._micro_batch(batch, own, k, v, target)
                found_grads = self._gradients(total.mul(scale), (k, v))
            values.append(losses.detach())
            priors += [prior.detach()] if prior is not None else []
            for gathered, grad in zip(grads, found_grads, strict=True):
                gathered.append(grad / scale)
        found = _mean_by_pool(torch.cat(values).tolist(), [rows[n].pool for n in seen])
        if priors:
            found["prior"] = torch.cat(priors).mean().item()
        grad_k, grad_v = (torch.cat(gathered, dim=1).to(self.text.device) for gathered in grads)
        return found, (grad_k, grad_v)

    def _micro_batch(
        self, batch: Batch, rows: list[PromptRow], context_k: Tensor, context_v: Tensor, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of some rows: the weighted sum of their losses, each row's own, and the prior losses of those that have one.

        target: (rows, 4, h, w) instead of the noise.
        """
        samples = [row.sample for row in rows]
        predicted = predict(self.unet, batch, samples, context_k, context_v)
        losses = denoising_losses(self.settings, batch, [row.pool for row in rows], samples, predicted, target)
        total = (losses * torch.tensor([row.weight for row in rows], device=losses.device)).sum()
        held = [n for n, row in enumerate(rows) if row.prior]
        if not held:
            return total, losses, None
        with_prior = [rows[n] for n in held]
        priors = prior_losses(self.settings, self.text, self.unet, batch, with_prior, predicted[held])
        weights = torch.tensor([row.prior for row in with_prior], device=losses.device)
        return total + (priors * weights).sum(), losses, priors

    def _as_learnt(self) -> AbstractContextManager[None]:
        """The U-Net with what is learnt of it, if anything is."""
        return nullcontext()

    def _gradients(self, loss: Tensor, contexts: Contexts) -> Sequence[Tensor]:
        """Of a loss for the contexts that the U-Net got."""
        return torch.autograd.grad(loss, contexts)

    def _target(self, _batch: Batch, _rows: list[PromptRow], _k: Tensor, _v: Tensor) -> Tensor | None:
        """What rows should predict (rows, 4, h, w), where that is not the noise."""
        return None

    def _contrast(self, context_k: Tensor, rows: list[PromptRow], photos: list[int]) -> tuple[Tensor | None, float]:
        """Stage 5: L_InfoNCE on the contextual embeddings of the joint prompts, which come first, and w_c; or None and 0."""
        settings = self.settings
        if not settings.uses_contrast:
            return None, 0.0
        joint = [row.prompt for row in rows[: len(photos)]]
        last = settings.vectors - 1  # of several vectors the last one has, by causality, seen them all
        sample = torch.arange(len(photos), device=context_k.device)
        subject_at, attractor_at = (
            torch.tensor([prompt.positions[name] for prompt, name in zip(joint, names, strict=True)], device=context_k.device)
            for names in ([SUBJECT] * len(photos), [attractor_name(photo) for photo in photos])
        )
        loss = info_nce(
            context_k[:, sample, subject_at + last],
            context_k[:, sample, attractor_at],
            settings.tau,
            settings.normalize_contrast,
        )
        return loss, settings.contrast_weight * contrast_weight(settings.contrast_schedule, self.step_count, settings.steps)

    def _backward_through_text(
        self,
        rows: list[PromptRow],
        contexts: Contexts,
        context_grads: tuple[Tensor, Tensor],
        contrast: Tensor | None,
        w_c: float,
    ) -> None:
        """Stage 6: one backward pass from contexts and contrast to the learnable tokens."""
        seen = [n for n, row in enumerate(rows) if row.seen]
        roots, grads = [context[:, seen] for context in contexts], list(context_grads)
        if contrast is not None:
            roots.append(contrast)
            grads.append(torch.full_like(contrast, w_c))
        torch.autograd.backward(roots, grads)

    def _check_finite(self, losses: dict[str, float], grads: tuple[Tensor, Tensor]) -> None:
        bad, step = [name for name, value in losses.items() if not math.isfinite(value)], self.step_count + 1
        if bad:
            raise NonFiniteLoss(f"step {step}: the {' and '.join(bad)} loss is not a finite number")
        if not all(torch.isfinite(grad).all() for grad in grads):
            raise GradientOverflow(f"step {step}: the gradient of the denoising losses is not finite")

    # -- what is watched -------------------------------------------------------------------------------

    @property
    def curve_names(self) -> list[str]:
        """Of the curves that a run has, in order."""
        settings = self.settings
        prior = settings.uses_prior or settings.class_prior != "none"
        more = {"contrast": settings.uses_contrast, "prior": prior, "contrast_weight": True, "fixed": True}
        return [*settings.loss_weights, *(name for name, there in more.items() if there)]

    def _record(self, losses: dict[str, float], w_c: float) -> None:
        """Append to the curves; a value that a step does not have is NaN, so that all have one length."""
        values = {**losses, "contrast_weight": w_c}
        for name in self.curve_names:
            self.curves.setdefault(name, []).append(values.get(name, math.nan))

    def fixed_batch_hash(self) -> str:
        """Tells apart the photos that the fixed-batch loss may be of."""
        return fingerprint(*(batch.latents for batch in self._fixed))

    @torch.no_grad()
    def fixed_loss(self) -> float:
        """The mean subject loss on photos, noise and timesteps that never change, with "a photo of a {v*}".

        Of held-out photos, which come without masks, it is the loss on the whole picture. Unlike the losses that a step
        minimises it can be compared between steps (DVAR, arXiv 2302.04841).
        """
        return torch.cat([self._fixed_losses(batch) for batch in self._fixed]).mean().item()

    def _fixed_losses(self, batch: Batch) -> Tensor:
        """(B,) losses of photos of one shape."""
        prompts = [subject_prompt(self.settings, self.text, photo) for photo in batch.photos]
        contexts = self._contexts(prompts, batch.timesteps, None)
        values = []
        for start in range(0, len(prompts), self.micro_batch):
            samples = list(range(start, min(start + self.micro_batch, len(prompts))))
            k, v = (context[:, samples].to(self.unet.device) for context in contexts)
            with self._as_learnt():
                predicted = predict(self.unet, batch, samples, k, v)
            values.append(denoising_losses(self.settings, batch, [SUBJECT] * len(samples), samples, predicted))
        return torch.cat(values)

    # -- the run ---------------------------------------------------------------------------------------

    def run(self) -> Iterator[StepResult]:
        """Steps until `settings.steps` are done; stop by leaving the iteration."""
        while self.step_count < self.settings.steps:
            yield self.step()

    def token(self, record: dict | None = None) -> PersonalizedToken:
        """The state as a token; shares parameters with the trainer."""
        settings = self.settings
        return PersonalizedToken(
            placeholder=settings.placeholder,
            super_category=settings.super_category,
            kind=settings.kind,
            width=self.text.width,
            subject=self._tokens[SUBJECT],
            attractors=tuple(concept for name, concept in self._tokens.items() if name != SUBJECT),
            phrase=settings.phrase,
            record={**(record or {}), "step": self.step_count, "settings": settings.to_dict()},
        )


def _mean_by_pool(values: list[float], pools: list[str]) -> dict[str, float]:
    by_pool = {pool: [v for v, p in zip(values, pools, strict=True) if p == pool] for pool in sorted(set(pools))}
    return {pool: sum(found) / len(found) for pool, found in by_pool.items()}
