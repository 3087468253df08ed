"""From prompts with learnable tokens to the U-Net's per-layer contexts (NeTI: 16 layers in one batched pass)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .concept import Representation, represent
from .interfaces import TextEncoder
from .mapper import NeTIMapper, draw_nested_dropout
from .pools import Prompt

BYPASS_SCALE = 0.2  # alpha of NeTI's text encoder (neti_clip_text_encoder.py)


class TokenRows(NamedTuple):
    """Learnable vectors and where they go: M places (row, position) of a set of sequences."""

    rows: Tensor  # (M,) int64, row of the flattened set
    positions: Tensor  # (M,) int64
    vectors: Tensor  # (M, width)
    bypass: Tensor | None  # (M, width) or None
    bypass_scale: float = BYPASS_SCALE

    def within(self, start: int, stop: int) -> "TokenRows":
        """Those of rows start..stop-1, counted from `start`."""
        here = ((self.rows >= start) & (self.rows < stop)).nonzero().squeeze(1)
        bypass = None if self.bypass is None else self.bypass[here]
        return self._replace(
            rows=self.rows[here] - start, positions=self.positions[here], vectors=self.vectors[here], bypass=bypass
        )


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
        vectors, bypass = represent(concept, *moments, truncation)
        placed.append(TokenRows(rows.to(device), positions.to(device), vectors[:, 0], bypass))
    return placed


def add_bypass(hidden: Tensor, tokens: TokenRows) -> Tensor:
    """NeTI's textual bypass: h + alpha * ||h|| * b / ||b|| at the token's place, before the final LayerNorm.

    hidden: (R, S, width); rows without bypass are returned as they are.
    """
    if tokens.bypass is None:
        return hidden
    state = hidden[tokens.rows, tokens.positions]
    direction = tokens.bypass / tokens.bypass.norm(dim=-1, keepdim=True)
    moved = state + tokens.bypass_scale * direction * state.norm(dim=-1, keepdim=True)
    return hidden.index_put((tokens.rows, tokens.positions), moved)


def encode_rows(text: TextEncoder, embeddings: Tensor, tokens: list[TokenRows]) -> tuple[Tensor, Tensor]:
    """Contexts of R sequences in one pass.

    Args:
        embeddings: (R, S, width) token embeddings; the tokens' vectors are written into a copy.

    Returns:
        K and V contexts (R, S, width). They differ at the places of tokens that have a bypass, only.
    """
    for token in tokens:
        embeddings = embeddings.index_put((token.rows, token.positions), token.vectors.to(embeddings))
    hidden = text.hidden_states(embeddings)
    context_k = text.final_layer_norm(hidden)
    bypassed = hidden
    for token in tokens:
        if token.bypass is not None and len(token.rows):
            bypassed = add_bypass(bypassed, token)
    context_v = context_k if bypassed is hidden else text.final_layer_norm(bypassed)
    return context_k, context_v


def encode_layers(
    text: TextEncoder, prompts: Tensor, layers: int, tokens: list[TokenRows], chunk: int
) -> tuple[Tensor, Tensor]:
    """Contexts of N prompts at each of `layers` layers; the row of prompt n at layer l is l * N + n.

    Rows are encoded `chunk` at a time. With gradients on, a chunk's activations are dropped and recomputed in
    the backward pass, so memory does not grow with the number of layers (exact; one more forward pass).

    Args:
        prompts: (N, S, width) token embeddings, see `TextEncoder.embed`.
        tokens: places counted in rows of the flattened (layers * N).

    Returns:
        K and V contexts (layers, N, S, width).
    """
    count = len(prompts)
    rows = layers * count

    def encode_chunk(start: int, stop: int, *parts: TokenRows) -> tuple[Tensor, Tensor]:
        index = torch.arange(start, stop, device=prompts.device) % count
        return encode_rows(text, prompts[index], [part.within(start, stop) for part in parts])

    pieces = []
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        if torch.is_grad_enabled() and rows > chunk:
            pieces.append(checkpoint(encode_chunk, start, stop, *tokens, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(encode_chunk(start, stop, *tokens))
    context_k, context_v = (torch.cat(part).unflatten(0, (layers, count)) for part in zip(*pieces, strict=True))
    return context_k, context_v
