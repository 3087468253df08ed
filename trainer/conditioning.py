"""From prompts with learnable tokens to the U-Net's per-layer contexts (NeTI: 16 layers in one batched pass)."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BYPASS_SCALE = 0.2  # alpha of NeTI's text encoder (neti_clip_text_encoder.py)


class TextEncoder(Protocol):
    """The frozen CLIP text model, opened where NeTI needs it. Everything differentiable with respect to inputs."""

    width: int
    bos: int
    eos: int
    length: int  # positions of a sequence, 77

    def tokenize(self, text: str) -> list[int]:
        """Vocabulary ids of a piece of text, without start and end tokens."""

    def embed(self, ids: Tensor) -> Tensor:
        """(N, S) ids -> (N, S, width) token embeddings, positions not yet added."""

    def hidden_states(self, embeddings: Tensor) -> Tensor:
        """(N, S, width) token embeddings -> (N, S, width) states before the final LayerNorm."""

    def final_layer_norm(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""


@dataclass(frozen=True)
class Slot:
    """A hole in a template that a learnable token fills, by the token's name."""

    token: str


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: `ids` (S,) with the end token at each slot, and the position of each token."""

    ids: tuple[int, ...]
    positions: dict[str, int]


def build_prompt(text: TextEncoder, template: str, *fillings: str | Slot) -> Prompt:
    """Tokenise a template with `{}` holes; pieces around a slot are tokenised apart, as the host does.

    Raises:
        ValueError: the prompt does not fit the text encoder's sequence.
    """
    # A word is put in before tokenising, so that it merges with its neighbours as in any prompt.
    words = iter(fillings)
    pieces: list[str | Slot] = [""]
    for i, part in enumerate(template.split("{}")):
        if i:
            filling = next(words)
            pieces += [filling, ""] if isinstance(filling, Slot) else []
            if isinstance(filling, str):
                pieces[-1] += filling
        pieces[-1] += part
    ids, positions = [text.bos], {}
    for piece in pieces:
        if isinstance(piece, Slot):
            positions[piece.token] = len(ids)
            ids.append(text.eos)
        elif piece:
            ids += text.tokenize(piece)
    if len(ids) >= text.length:
        raise ValueError(f"The prompt {template!r} takes {len(ids) + 1} tokens; the text encoder holds {text.length}.")
    return Prompt(tuple(ids + [text.eos] * (text.length - len(ids))), positions)


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


def add_bypass(hidden: Tensor, tokens: TokenRows) -> Tensor:
    """NeTI's textual bypass: h + alpha * ||h|| * b / ||b|| at the token's place, before the final LayerNorm.

    hidden: (R, S, width); rows without bypass are returned as they are.
    """
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

    def encode_chunk(start: int, stop: int, *parts: TokenRows):
        index = torch.arange(start, stop, device=prompts.device) % count
        return encode_rows(text, prompts[index], [part.within(start, stop) for part in parts])

    pieces = []
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        if torch.is_grad_enabled() and rows > chunk:
            kept = {"use_reentrant": False, "preserve_rng_state": False}
            pieces.append(checkpoint(encode_chunk, start, stop, *tokens, **kept))
        else:
            pieces.append(encode_chunk(start, stop, *tokens))
    context_k, context_v = (torch.cat(part).unflatten(0, (layers, count)) for part in zip(*pieces, strict=True))
    return context_k, context_v
