"""The MODEL side of a personalised token: wrappers that turn payloads into per-layer contexts for one call."""

import logging
import weakref
from typing import Any

import torch
from comfy.conds import CONDCrossAttn
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ...trainer.concept import LAYERS
from .conds import KEY, PersonalizedBatch, PersonalizedCond
from .injection import Contexts, context_patch
from .payload import Payload

_matches: "weakref.WeakKeyDictionary[object, bool]" = weakref.WeakKeyDictionary()


def personalize_model(model: ModelPatcher) -> ModelPatcher:
    """A clone of MODEL that serves NeTI payloads; stateless, so clones and branches share nothing."""
    personalized = model.clone()
    add_wrappers(personalized)
    return personalized


def add_wrappers(patcher: ModelPatcher) -> None:
    """Put the wrappers on a patcher; calling it again changes nothing."""
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, _prepare_schedule),
        (WrappersMP.CALC_COND_BATCH, _claim_conds),
        (WrappersMP.DIFFUSION_MODEL, _swap_contexts),
    ):
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)


def _prepare_schedule(executor: WrapperExecutor, *args: Tensor, **kwargs: object) -> Tensor:
    """Encode the schedule's times in batches before the U-Net is loaded; afterwards move them off the GPU."""
    guider, sigmas = executor.class_obj, args[3]
    payloads = {
        cond["model_conds"][KEY].payload
        for conds in guider.conds.values()
        for cond in conds
        if KEY in cond.get("model_conds", {})
    }
    sampling = guider.model_patcher.get_model_object("model_sampling")
    times = sampling.timestep(sigmas[:-1]).flatten().tolist() if len(sigmas) > 1 else []
    times = list(dict.fromkeys(round(t) for t in times))
    for payload in payloads:
        payload.prepare(times)
    try:
        return executor(*args, **kwargs)
    finally:
        for payload in payloads:
            payload.rest()


def _claim_conds(
    executor: WrapperExecutor, model: BaseModel, conds: list[list[dict] | None], *args: object, **kwargs: object
) -> list[Tensor]:
    """Give every cond of a call our key, so that the host batches prompts with and without tokens together."""
    if any(KEY in cond.get("model_conds", {}) for group in conds if group for cond in group):
        conds = [group and [_claimed(cond) for cond in group] for group in conds]
    return executor(model, conds, *args, **kwargs)


def _claimed(cond: dict) -> dict:
    entries = cond["model_conds"]
    context = entries["c_crossattn"]
    mine = entries.get(KEY)
    payload = mine.payload if mine is not None and _payload_fits(mine.payload, context) else None
    return {**cond, "model_conds": {**entries, KEY: PersonalizedCond(payload, context.cond.shape[1])}}


def _payload_fits(payload: Payload | None, context: CONDCrossAttn) -> bool:
    """Whether the conditioning is still what the payload was made for; other nodes may have changed it.

    A longer one (Conditioning Concat) fits if it starts with the payload's own.
    """
    if payload is None:
        return False
    if context not in _matches:
        own = context.cond[:1, : payload.length].float().cpu()
        base = payload.base.float().cpu()
        fits = own.shape == base.shape and torch.allclose(own, base, rtol=1e-2, atol=1e-2)
        if not fits:
            logging.warning(
                "A node changed the conditioning of a prompt with a NeTI token (average, multiply, zero "
                "out): the token falls back to a single embedding there."
            )
        _matches[context] = fits
    return _matches[context]


def _swap_contexts(
    executor: WrapperExecutor,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    y: Tensor | None,
    control: dict | None,
    transformer_options: dict,
    **kwargs: Any,
) -> Tensor:
    """The U-Net call with each row's own per-layer contexts."""
    batch: PersonalizedBatch | None = kwargs.pop(KEY, None)
    if batch is None or all(cond.payload is None for cond in batch.conds):
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    if len(x) % len(batch.conds):
        logging.warning("A node regrouped the U-Net's batch: NeTI tokens fall back to a single embedding.")
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
    # In copies: the host shares the given dict between calls.
    patches = dict(transformer_options.get("patches", {}))
    swap = context_patch(_row_contexts(batch, len(x), timesteps, context))
    patches["attn2_patch"] = [swap, *patches.get("attn2_patch", [])]
    options = {**transformer_options, "patches": patches}
    return executor(x, timesteps, context, y, control, options, **kwargs)


def _row_contexts(batch: PersonalizedBatch, rows: int, timesteps: Tensor, context: Tensor) -> Contexts:
    """`contexts(layer, context) -> (k, v)` for the rows of a call: chunk after chunk, `rows / chunks` each."""
    per_chunk = rows // len(batch.conds)
    times = [round(t) for t in timesteps.flatten().tolist()]
    owners = [batch.conds[row // per_chunk] for row in range(rows)]
    steps = [
        None if cond.payload is None else cond.payload.get(times[row], context.device, context.dtype)
        for row, cond in enumerate(owners)
    ]

    # Of all layers at once: a call has 16, and on a GPU each small copy costs more than what it copies.
    k = context.expand(LAYERS, -1, -1, -1).clone()
    v = k.clone()
    for row, (step, cond) in enumerate(zip(steps, owners, strict=True)):
        if step is None:
            continue
        # The host repeats a context up to the batch's common length; each repetition is replaced.
        for start in range(0, context.shape[1], cond.length):
            k[:, row, start : start + step.k.shape[1]] = step.k
            v[:, row, start : start + step.v.shape[1]] = step.v

    def contexts(layer: int, _context: Tensor) -> tuple[Tensor, Tensor]:
        return k[layer], v[layer]

    return contexts
