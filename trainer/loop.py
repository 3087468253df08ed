"""The training loop: one step of Eq. 6 with exact micro-batching, and nothing that knows ComfyUI.

A step costs one batched text-encoder pass over every (prompt, layer), the U-Net over (pool, sample) rows in
micro-batches, and one backward pass through text encoder and mappers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .concept import LAYERS, Embedding, PersonalizedToken, random_like, represent
from .conditioning import Prompt, Slot, TextEncoder, TokenRows, build_prompt, encode_layers
from .dataset import Batch, Photos, draw_batch, fixed_batch, step_generator
from .losses import info_nce, masked_loss
from .mapper import NeTIMapper, draw_nested_dropout
from .pools import ONE_SLOT, TWO_SLOTS
from .schedules import contrast_weight
from .settings import TrainingSettings, fingerprint

SUBJECT = "subject"


class UNet(Protocol):
    """The frozen noise predictor, with gradients into its contexts."""

    device: torch.device
    loss_scale: float  # above 1 where half precision would lose small gradients

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t of (B, 4, h, w) latents."""

    def predict_noise(self, noisy: Tensor, timesteps: Tensor, context_k: Tensor, context_v: Tensor) -> Tensor:
        """eps of (B, 4, h, w); contexts (layers, B, S, width), one layer standing for all."""


class NonFiniteLoss(ArithmeticError):
    """A loss is NaN or infinite; the parameters are those of the last good step."""


class GradientOverflow(NonFiniteLoss):
    """The losses are finite, the gradient is not."""


@dataclass(frozen=True)
class StepResult:
    """What a step did. `losses` by name, unweighted; `fixed_loss` where it was evaluated this step."""

    step: int  # steps done, this one included
    losses: dict[str, float]
    contrast_weight: float
    fixed_loss: float | None


@dataclass(frozen=True, eq=False)
class _Rows:
    """The U-Net rows of a step: which sample, template and prompt each has, and its weights in the total loss.

    priors: weights of the prior loss, 0 but on subject prompts.
    """

    pools: list[str]
    samples: list[int]
    templates: list[int]
    prompts: list[int]
    weights: list[float]
    priors: list[float]


class Trainer:
    """A run's learnable state and its step. Build with `build_trainer`."""

    def __init__(
        self,
        settings: TrainingSettings,
        photos: Photos,
        text: TextEncoder,
        unet: UNet,
        subject: nn.Module,
        attractors: list[nn.Module],
        held_out: Photos | None = None,
    ):
        """held_out: photos that are not trained on, for the fixed-batch loss; without them it is the training photos'."""
        self.settings, self.photos, self.text, self.unet = settings, photos, text, unet
        self.held_out = held_out
        self.concepts = nn.ModuleDict({SUBJECT: subject})
        for i, attractor in enumerate(attractors):
            self.concepts[attractor_name(i)] = attractor
        self.optimizer = torch.optim.AdamW(
            self.concepts.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.layers = LAYERS if settings.kind == "neti" else 1
        self.micro_batch = settings.micro_batch or settings.batch_size * len(settings.loss_weights)
        self.step_count = 0
        self.curves: dict[str, list[float]] = {}
        size = max(4, min(8, settings.batch_size))
        if held_out:
            size = max(size, min(held_out.count, 16))
        self._fixed = fixed_batch(held_out or photos, size, settings.seed)

    # -- what a step is made of ------------------------------------------------------------------------

    def _prompt(self, pool: str, template_index: int, photo: int) -> Prompt:
        """Paper's pools: subject "a photo of a {v*}", background "{S} in the {A*}", joint "{v*} in the {A*}"."""
        if pool == "subject":
            return build_prompt(self.text, ONE_SLOT[template_index], Slot(SUBJECT))
        attractor = Slot(attractor_name(photo))
        first = self.settings.super_category if pool == "background" else Slot(SUBJECT)
        return build_prompt(self.text, TWO_SLOTS[template_index], first, attractor)

    def _draw_rows(self, batch: Batch, generator: torch.Generator) -> tuple[_Rows, list[Prompt], list[int]]:
        """Prompts of a step and the U-Net rows that see them.

        Returns rows, prompts, and for each prompt the sample it belongs to. Joint prompts come first, as the
        InfoNCE loss reads the tokens' contextual embeddings there, whether or not the U-Net sees them.
        """
        settings, size = self.settings, len(batch.photos)
        weights = settings.loss_weights
        templates = torch.randint(len(ONE_SLOT), (3, size), generator=generator).tolist()
        choice = torch.rand(size, generator=generator).tolist()
        total = sum(weights.values())
        rows, prompts, owners = _Rows([], [], [], [], [], []), [], []
        prior = settings.prior_weight / settings.subject_weight if settings.uses_prior else 0.0
        for pool, indices in zip(("joint", "subject", "background"), templates, strict=True):
            in_loss = pool in weights
            for_contrast = pool == "joint" and settings.uses_contrast
            if not (in_loss or for_contrast):
                continue
            for sample, photo in enumerate(batch.photos):
                seen, weight = in_loss, weights.get(pool, 0.0)
                if settings.prompts_per_step == "one":
                    # One pool a sample, in the weights' proportion: an unbiased estimate of the weighted sum.
                    seen, weight = in_loss and _pick(weights, choice[sample] * total) == pool, total
                if not (seen or for_contrast):
                    continue
                if seen:
                    rows.pools.append(pool)
                    rows.samples.append(sample)
                    rows.templates.append(indices[sample])
                    rows.prompts.append(len(prompts))
                    rows.weights.append(weight / size)
                    rows.priors.append(prior * weight / size if pool == SUBJECT else 0.0)
                prompts.append(self._prompt(pool, indices[sample], photo))
                owners.append(sample)
        return rows, prompts, owners

    def _truncations(self, prompts: list[Prompt], generator: torch.Generator | None) -> dict:
        """Nested dropout of a step (NeTI: one gate per mapper call, that is per layer; one index per row).

        Returns, by token name, the prompts that hold it and the hidden units kept (layers, prompts) or None.
        """
        drawn = {}
        for name, concept in self.concepts.items():
            index = [n for n, prompt in enumerate(prompts) if name in prompt.positions]
            if not index:
                continue
            kept = None
            if generator is not None and isinstance(concept, NeTIMapper) and self.settings.nested_dropout > 0:
                kept = draw_nested_dropout(len(index), self.layers, generator, self.settings.nested_dropout, concept.hidden)
            drawn[name] = index, kept
        return drawn

    def _token_rows(
        self, prompts: list[Prompt], owners: list[int], timesteps: Tensor, generator: torch.Generator | None
    ) -> list[TokenRows]:
        """Every learnable token's vectors at its places in the flattened (layer, prompt) rows.

        With a generator, mappers get nested dropout.
        """
        device, count = self.text.device, len(prompts)
        layers = torch.arange(self.layers).repeat_interleave(count)
        times = timesteps[owners].repeat(self.layers)
        found = []
        for name, (index, kept) in self._truncations(prompts, generator).items():
            rows = (torch.arange(self.layers)[:, None] * count + torch.tensor(index)).flatten()
            positions = torch.tensor([prompts[n].positions[name] for n in index]).repeat(self.layers)
            truncation = None if kept is None else kept.flatten().to(device)
            moments = times[rows].float().to(device), layers[rows].float().to(device)
            vectors, bypass = represent(self.concepts[name], *moments, truncation)
            found.append(TokenRows(rows.to(device), positions.to(device), vectors[:, 0], bypass))
        return found

    def _contexts(self, prompts: list[Prompt], tokens: list[TokenRows]) -> tuple[Tensor, Tensor]:
        """K and V contexts (layers, prompts, S, width) on the text encoder's device."""
        ids = torch.tensor([p.ids for p in prompts], device=self.text.device)
        with torch.no_grad():
            embeddings = self.text.embed(ids)
        return encode_layers(self.text, embeddings, self.layers, tokens, self.settings.text_chunk)

    def _contrast(self, context_k: Tensor, prompts: list[Prompt], size: int, photos: list[int]) -> Tensor:
        """Eq. 5 on the contextual embeddings of the joint prompts, which come first. Scalar."""
        sample = torch.arange(size, device=context_k.device)
        subject_at = torch.tensor([p.positions[SUBJECT] for p in prompts[:size]], device=context_k.device)
        attractor_at = torch.tensor(
            [p.positions[attractor_name(photo)] for p, photo in zip(prompts, photos, strict=False)],
            device=context_k.device,
        )
        settings = self.settings
        return info_nce(
            context_k[:, sample, subject_at],
            context_k[:, sample, attractor_at],
            settings.tau,
            settings.normalize_contrast,
        )

    def _predict(self, batch: Batch, samples: list[int], k: Tensor, v: Tensor) -> Tensor:
        """The noise (rows, 4, h, w) that the U-Net sees in samples of the batch."""
        device = self.unet.device
        latents, noise = batch.latents[samples].to(device), batch.noise[samples].to(device)
        timesteps = batch.timesteps[samples].to(device)
        return self.unet.predict_noise(self.unet.add_noise(latents, noise, timesteps), timesteps, k, v)

    def _row_losses(self, batch: Batch, pools: list[str], samples: list[int], predicted: Tensor) -> Tensor:
        """Eq. 4 for U-Net rows: (rows,) masked losses; joint prompts, and methods without attractor, unmasked."""
        device = self.unet.device
        subject_mask = batch.masks[samples].to(device)
        mask = torch.stack([self._mask(pool, subject_mask[i]) for i, pool in enumerate(pools)])
        return masked_loss(predicted, batch.noise[samples].to(device), mask, self.settings.loss_mean)

    def _prior_losses(self, batch: Batch, samples: list[int], templates: list[int], predicted: Tensor) -> Tensor:
        """(rows,) losses of subject prompts against what the model predicts for the super-category's plain word in their
        place, outside the mask. The idea is masked prior preservation's: without a reason to, leave alone what is not the
        subject.
        """
        device = self.unet.device
        plain = [build_prompt(self.text, ONE_SLOT[template], self.settings.super_category) for template in templates]
        with torch.no_grad():
            ids = torch.tensor([prompt.ids for prompt in plain], device=self.text.device)
            k, v = encode_layers(self.text, self.text.embed(ids), 1, [], self.settings.text_chunk)
            target = self._predict(batch, samples, k.to(device), v.to(device))
        return masked_loss(predicted, target, 1 - batch.masks[samples].to(device), self.settings.loss_mean)

    def _mask(self, pool: str, subject_mask: Tensor) -> Tensor:
        if not self.settings.uses_attractor or pool == "joint":
            return torch.ones_like(subject_mask)
        return subject_mask if pool == "subject" else 1 - subject_mask

    # -- the step --------------------------------------------------------------------------------------

    def backward(self, batch: Batch, generator: torch.Generator) -> tuple[dict[str, float], float]:
        """Gradients of Eq. 6 into the parameters' `.grad`, micro-batch by micro-batch.

        The U-Net's gradients are gathered on detached contexts; one backward pass then takes them through
        text encoder and mappers. The result does not depend on the micro-batch beyond rounding.

        Returns:
            the unweighted losses by name, and w_c of this step.
        """
        settings, unet = self.settings, self.unet
        rows, prompts, owners = self._draw_rows(batch, generator)
        tokens = self._token_rows(prompts, owners, batch.timesteps, generator)
        context_k, context_v = self._contexts(prompts, tokens)

        weights, priors = (torch.tensor(values, device=unet.device) for values in (rows.weights, rows.priors))
        row_losses, prior_losses, grads_k, grads_v = [], [], [], []
        for start in range(0, len(rows.pools), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            k = context_k.detach()[:, rows.prompts[part]].to(unet.device).requires_grad_()
            v = context_v.detach()[:, rows.prompts[part]].to(unet.device).requires_grad_()
            predicted = self._predict(batch, rows.samples[part], k, v)
            losses = self._row_losses(batch, rows.pools[part], rows.samples[part], predicted)
            total = (losses * weights[part]).sum()
            row_losses.append(losses.detach())
            with_prior = priors[part].nonzero().flatten().tolist()
            if with_prior:
                samples, templates = ([values[part][i] for i in with_prior] for values in (rows.samples, rows.templates))
                losses = self._prior_losses(batch, samples, templates, predicted[with_prior])
                total = total + (losses * priors[part][with_prior]).sum()
                prior_losses.append(losses.detach())
            total.mul(unet.loss_scale).backward()
            grads_k.append(k.grad / unet.loss_scale)
            grads_v.append(v.grad / unet.loss_scale)
        losses = self._mean_by_pool(torch.cat(row_losses).tolist(), rows.pools)
        if prior_losses:
            losses["prior"] = torch.cat(prior_losses).mean().item()

        seen = context_k[:, rows.prompts], context_v[:, rows.prompts]
        roots = list(seen)
        grads = [torch.cat(part, dim=1).to(context_k.device) for part in (grads_k, grads_v)]
        peak = 0.0
        if settings.uses_contrast:
            contrast = self._contrast(context_k, prompts, len(batch.photos), batch.photos)
            peak = settings.contrast_weight * contrast_weight(settings.contrast_schedule, self.step_count, settings.steps)
            losses["contrast"] = contrast.item()
            roots.append(contrast)
            grads.append(torch.full_like(contrast, peak))
        _check_finite(losses, grads, self.step_count + 1)
        torch.autograd.backward(roots, grads)
        return losses, peak

    def _mean_by_pool(self, values: list[float], pools: list[str]) -> dict[str, float]:
        by_pool = {pool: [v for v, p in zip(values, pools, strict=True) if p == pool] for pool in sorted(set(pools))}
        return {pool: sum(found) / len(found) for pool, found in by_pool.items()}

    def step(self) -> StepResult:
        """One optimiser step.

        Raises:
            NonFiniteLoss: names step and loss; parameters and optimiser are untouched by the bad step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        while True:
            generator = step_generator(self.settings.seed, self.step_count)
            batch = draw_batch(self.photos, self.settings.batch_size, generator)
            try:
                losses, weight = self.backward(batch, generator)
                break
            except GradientOverflow:
                if self.unet.loss_scale <= 1:
                    raise
                self.unet.loss_scale /= 16  # half precision overflowed: the same step again, scaled less
        self.optimizer.step()
        self.step_count += 1
        fixed = None
        if self.step_count % self.settings.fixed_loss_every == 0 or self.step_count in (1, self.settings.steps):
            fixed = self.fixed_loss()
        self._record(losses, weight, fixed)
        return StepResult(self.step_count, losses, weight, fixed)

    def _record(self, losses: dict[str, float], weight: float, fixed: float | None) -> None:
        """Append to the curves; a value that a step does not have is NaN, so that all have one length."""
        pools = [*self.settings.loss_weights, *(["contrast"] if self.settings.uses_contrast else [])]
        values = {**dict.fromkeys(pools, math.nan), **losses, "contrast_weight": weight}
        values["fixed"] = math.nan if fixed is None else fixed
        for name, value in values.items():
            self.curves.setdefault(name, []).append(value)

    def fixed_batch_hash(self) -> str:
        """Tells apart the photos that the fixed-batch loss may be of."""
        return fingerprint(self._fixed.latents)

    @torch.no_grad()
    def fixed_loss(self) -> float:
        """The subject loss on a batch, noise and timesteps that never change, with "a photo of a {v*}".

        Of held-out photos, which come without masks, it is the loss on the whole picture. Unlike the losses a step
        minimises it can be compared between steps (DVAR, arXiv 2302.04841).
        """
        batch = self._fixed
        size = len(batch.photos)
        prompts = [self._prompt("subject", 0, photo) for photo in batch.photos]
        tokens = self._token_rows(prompts, list(range(size)), batch.timesteps, None)
        k, v = self._contexts(prompts, tokens)
        values = []
        for start in range(0, size, self.micro_batch):
            samples = list(range(start, min(start + self.micro_batch, size)))
            part_k, part_v = k[:, samples].to(self.unet.device), v[:, samples].to(self.unet.device)
            predicted = self._predict(batch, samples, part_k, part_v)
            values.append(self._row_losses(batch, [SUBJECT] * len(samples), samples, predicted))
        return torch.cat(values).mean().item()

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
            subject=self.concepts[SUBJECT],
            attractors=tuple(c for name, c in self.concepts.items() if name != SUBJECT),
            record={**(record or {}), "step": self.step_count, "settings": settings.to_dict()},
        )


def attractor_name(photo: int) -> str:
    """Name of a photo's attractor A*_i among the learnable tokens."""
    return f"attractor_{photo}"


def _pick(weights: dict[str, float], point: float) -> str:
    """The pool in which `point`, uniform on [0, sum of weights), falls."""
    for pool, weight in weights.items():
        point -= weight
        if point < 0:
            return pool
    return pool


def _check_finite(losses: dict[str, float], grads: list[Tensor], step: int) -> None:
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise NonFiniteLoss(f"step {step}: the {' and '.join(bad)} loss is not a finite number")
    if not all(torch.isfinite(g).all() for g in grads):
        raise GradientOverflow(f"step {step}: the gradient of the denoising losses is not finite")


def word_embedding(text: TextEncoder, words: str, name: str) -> Tensor:
    """Mean token embedding (width,) of a word or phrase.

    Raises:
        ValueError: no token in `words`; `name` is the input that is to blame.
    """
    ids = text.tokenize(words)
    if not ids:
        raise ValueError(f"{name} is empty: give a word.")
    with torch.no_grad():
        return text.embed(torch.tensor([ids], device=text.device))[0].mean(0).float().cpu()


def build_trainer(
    settings: TrainingSettings, photos: Photos, text: TextEncoder, unet: UNet, held_out: Photos | None = None
) -> Trainer:
    """Initial representations: v* from the super-category's word, A*_i from a word plus noise of its own.

    Under NeTI a mapper's output has the norm of the word's embedding (NeTI: target_norm).
    """
    subject_word = word_embedding(text, settings.subject_init or settings.super_category, "super_category")
    attractor_word = word_embedding(text, settings.attractor_init, "attractor_init")

    def learnable(word: Tensor, index: int, mapper: bool) -> nn.Module:
        generator = step_generator(settings.seed, f"init {index}")
        if mapper:
            seed = int(torch.randint(2**31, (), generator=generator))
            return NeTIMapper(text.width, norm_scale=word.norm().item(), seed=seed, nested_dropout=settings.nested_dropout)
        noise = 0.0 if index < 0 else random_like(word, settings.attractor_noise, generator)
        return Embedding((word + noise)[None])

    neti = settings.kind == "neti"
    subject = learnable(subject_word, -1, neti)
    attractors = []
    if settings.uses_attractor:
        as_mapper = neti and settings.attractor_kind == "mapper"
        attractors = [learnable(attractor_word, i, as_mapper) for i in range(photos.count)]
    trainer = Trainer(settings, photos, text, unet, subject, attractors, held_out)
    trainer.concepts.to(text.device)
    return trainer
