"""From prompts with learnable tokens to the U-Net's per-layer contexts (NeTI: 16 layers in one batched pass)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .concept import Representation, represent
from .interfaces import Past, TextEncoder
from .mapper import NeTIMapper, draw_nested_dropout
from .pools import Prompt

BYPASS_SCALE = 0.2  # alpha of NeTI's text encoder (neti_clip_text_encoder.py)


class TokenRows(NamedTuple):
    """Learnable vectors and where they go: M places (row, position) of a set of sequences."""

    rows: Tensor  # (M,) int64, row of the flattened set
    positions: Tensor  # (M,) int64
    vectors: Tensor  # (M, width)
    bypass: Tensor | None  # (M, width) or None
    bypass_scale: Tensor | float = BYPASS_SCALE  # (M,), or one for all; 0 where a place has no bypass

    def within(self, start: int, stop: int) -> "TokenRows":
        """Those of rows start..stop-1, counted from `start`."""
        here = ((self.rows >= start) & (self.rows < stop)).nonzero().squeeze(1)
        return self._only(here, self.rows[here] - start)

    def of_prompts(self, members: Tensor, count: int) -> "TokenRows":
        """Those of some prompts, where row l * count + n is prompt n's; counted as if there were no others.

        members: (m,) int64, prompts in ascending order.
        """
        layer, prompt = self.rows // count, self.rows % count
        here = torch.isin(prompt, members).nonzero().squeeze(1)
        return self._only(here, layer[here] * len(members) + torch.searchsorted(members, prompt[here]))

    def _only(self, here: Tensor, rows: Tensor) -> "TokenRows":
        """The places `here` (m,), in other rows (m,)."""
        bypass = None if self.bypass is None else self.bypass[here]
        scale = self.bypass_scale[here] if isinstance(self.bypass_scale, Tensor) else self.bypass_scale
        return TokenRows(rows, self.positions[here], self.vectors[here], bypass, scale)


def draw_truncations(
    concepts: Mapping[str, Representation],
    prompts: Sequence[Prompt],
    layers: int,
    probability: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Nested dropout of a step (NeTI: one gate per mapper call, that is per layer; one index per row).

    Returns, by the name of each mapper that is in use, the hidden units kept (layers, prompts that hold it).
    """
    kept = {}
    for name, concept in concepts.items():
        count = sum(name in prompt.positions for prompt in prompts)
        if count and isinstance(concept, NeTIMapper) and probability > 0:
            kept[name] = draw_nested_dropout(count, layers, generator, probability, concept.hidden)
    return kept


def place_tokens(
    concepts: Mapping[str, Representation],
    prompts: Sequence[Prompt],
    times: Tensor,
    layers: int,
    truncations: Mapping[str, Tensor],
    device: torch.device,
) -> list[TokenRows]:
    """Every learnable token's vectors at its places in the flattened (layer, prompt) rows.

    Args:
        times: (N,) denoising time of each prompt.
        truncations: as of `draw_truncations`; a mapper that is not in it keeps all its hidden units.
    """
    count = len(prompts)
    every_layer, every_time = torch.arange(layers).repeat_interleave(count), times.repeat(layers)
    placed = []
    for name, concept in concepts.items():
        index = [n for n, prompt in enumerate(prompts) if name in prompt.positions]
        if not index:
            continue
        rows = (torch.arange(layers)[:, None] * count + torch.tensor(index)).flatten()
        positions = torch.tensor([prompts[n].positions[name] for n in index]).repeat(layers)
        truncation = truncations[name].flatten().to(device) if name in truncations else None
        moments = every_time[rows].float().to(device), every_layer[rows].float().to(device)
        vectors, bypass, _ = represent(concept, *moments, truncation)
        for number, own in enumerate(vectors.unbind(1)):
            placed.append(TokenRows(rows.to(device), positions.to(device) + number, own, bypass))
    return placed


def add_bypass(states: Tensor, bypass: Tensor, scale: Tensor | float) -> Tensor:
    """NeTI's textual bypass: h + alpha * ||h|| * b / ||b|| for a token's states (M, width) before the final LayerNorm.

    scale: alpha, for all or (M,) for each.
    """
    direction = bypass / bypass.norm(dim=-1, keepdim=True)
    scale = scale[:, None] if isinstance(scale, Tensor) else scale
    return states + scale * direction * states.norm(dim=-1, keepdim=True)


def encode_rows(
    text: TextEncoder, embeddings: Tensor, tokens: list[TokenRows], past: Past | None = None
) -> tuple[Tensor, Tensor]:
    """Contexts of R sequences in one pass.

    Args:
        embeddings: (R, S, width) token embeddings; the tokens' vectors are written into a copy.
        past: of the positions before them, if they are not the whole sequences; the tokens' positions count from there.

    Returns:
        K and V contexts (R, S, width). They differ at the places of tokens that have a bypass, only.
    """
    for token in tokens:
        embeddings = embeddings.index_put((token.rows, token.positions), token.vectors.to(embeddings))
    hidden = text.hidden_states(embeddings, past)
    context_k = context_v = text.final_layer_norm(hidden)
    for token in tokens:
        if token.bypass is not None and len(token.rows):
            places = (token.rows, token.positions)
            moved = add_bypass(hidden[places], token.bypass, token.bypass_scale)
            context_v = context_v.index_put(places, text.final_layer_norm(moved))
    return context_k, context_v


def encode_layers(
    text: TextEncoder, prompts: Tensor, layers: int, tokens: list[TokenRows], chunk: int, recompute: bool = False
) -> tuple[Tensor, Tensor]:
    """Contexts of N prompts at each of `layers` layers; the row of prompt n at layer l is l * N + n.

    By causality nothing before a prompt's first learnable token depends on layer or time, so those positions are encoded once a
    prompt, without a graph (exact). Where a chunk is smaller than all rows, prompts are sorted by that position, or else the
    first position of all counts: few large products suit a GPU.

    Args:
        prompts: (N, S, width) token embeddings, see `TextEncoder.embed`.
        tokens: places counted in rows of the flattened (layers * N).
        chunk: rows that are encoded at a time.
        recompute: with gradients on, drop a chunk's activations and compute them again in the backward pass, so that memory
            does not grow with the number of layers (exact; one more forward pass).

    Returns:
        K and V contexts (layers, N, S, width).
    """
    count = len(prompts)
    firsts = torch.full((count,), prompts.shape[1], device=prompts.device)
    for token in tokens:
        firsts.scatter_reduce_(0, token.rows % count, token.positions, "amin")
    starts = firsts.unique().tolist()
    if len(starts) == 1 or chunk >= layers * count:
        return _encode_group(text, prompts, layers, tokens, chunk, recompute, min(starts))
    found, order = [], []
    for start in starts:
        members = (firsts == start).nonzero().squeeze(1)
        own = [token.of_prompts(members, count) for token in tokens]
        found.append(_encode_group(text, prompts[members], layers, own, chunk, recompute, start))
        order.append(members)
    back = torch.cat(order).argsort()
    context_k, context_v = (torch.cat(parts, dim=1)[:, back] for parts in zip(*found, strict=True))
    return context_k, context_v


def _encode_group(
    text: TextEncoder, prompts: Tensor, layers: int, tokens: list[TokenRows], chunk: int, recompute: bool, first: int
) -> tuple[Tensor, Tensor]:
    """`encode_layers` of prompts whose first learnable token stands at `first` or after it."""
    count, size = len(prompts), prompts.shape[1]
    first = min(first, size - 1)  # without any token, the last position alone is encoded for each layer
    tokens = [token._replace(positions=token.positions - first) for token in tokens]
    with torch.no_grad():
        before, past = text.read(prompts[:, :first])

    def encode_chunk(start: int, stop: int, *parts: TokenRows) -> tuple[Tensor, Tensor]:
        index = torch.arange(start, stop, device=prompts.device) % count
        own_past = [(k[index], v[index]) for k, v in past]
        return encode_rows(text, prompts[index, first:], [part.within(start, stop) for part in parts], own_past)

    pieces = []
    for start in range(0, layers * count, chunk):
        stop = min(start + chunk, layers * count)
        if torch.is_grad_enabled() and recompute:
            pieces.append(checkpoint(encode_chunk, start, stop, *tokens, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(encode_chunk(start, stop, *tokens))
    same = text.final_layer_norm(before).expand(layers, -1, -1, -1)
    context_k, context_v = (
        torch.cat([same, torch.cat(part).unflatten(0, (layers, count))], dim=2) for part in zip(*pieces, strict=True)
    )
    return context_k, context_v
