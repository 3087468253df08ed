"""What a conditioning carries for a NeTI token: contexts for any denoising time, encoded when asked for."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import comfy.model_management as mm
import torch
from comfy.sd import CLIP
from torch import Tensor

from ...trainer.concept import LAYERS, Embedding, Representation, Represented, represent
from ...trainer.conditioning import BYPASS_SCALE, TokenRows, encode_layers
from .text_encoder import HostTextEncoder

CACHED_TIMES = 64  # about 4 MB each for a prompt of one chunk
SEQUENCES_AT_ONCE = {"cpu": 64, "gpu": 256}


Item = int | Tensor | dict  # of a tokenized prompt: an id, a stock embedding, or one with what it belongs to
Chunk = list[tuple[Item, float]]  # 77 items and their weights


@dataclass(frozen=True, eq=False)
class AppliedToken:
    """A token as an Apply node set it up.

    anchor: (width,) the super-category's embedding, towards which `strength` below 1 pulls; None at strength 1.
    phrase: what the placeholder becomes, `{}` is the token's vectors.
    """

    placeholder: str
    concept: Representation
    strength: float = 1.0
    truncation: int | None = None
    anchor: Tensor | None = None
    phrase: str = "{}"

    @property
    def varies(self) -> bool:
        """Whether it depends on time and layer; if not, the host's own path is all it needs."""
        return not isinstance(self.concept, Embedding)

    @torch.no_grad()
    def at(self, timesteps: Tensor, layers: Tensor) -> Represented:
        """The token at R (time, layer) pairs, on the CPU in float32."""
        device = next(self.concept.parameters()).device  # in training it is on the GPU
        found = represent(self.concept, timesteps.to(device), layers.to(device), self.truncation)
        vectors = found.vectors.cpu()
        if self.anchor is not None:
            vectors = self.anchor + self.strength * (vectors - self.anchor)
        bypass, share = (None if part is None else part.cpu() for part in found[1:])
        return Represented(vectors, bypass, share)

    def bypass_scale(self, share: Tensor | None) -> Tensor | float:
        """Of a token's bypass, where it has this share of its usual strength."""
        return BYPASS_SCALE * self.strength if share is None else BYPASS_SCALE * self.strength * share

    def representative(self) -> Tensor:
        """(n, width) that stands for the token where only one embedding can: t = 500, the layers' mean at
        the layers' mean norm."""
        vectors = self.at(torch.full((LAYERS,), 500.0), torch.arange(LAYERS)).vectors
        if not self.varies:
            return vectors[0]  # as it is: a mean of equal numbers is not always equal to them
        mean = vectors.mean(0)
        return mean * vectors.norm(dim=-1).mean(0)[:, None] / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True, eq=False)
class StepContexts:
    """Contexts of one prompt at one time. V equals K except where the tokens are, so only those rows are kept."""

    k: Tensor  # (layers, S, width)
    v_rows: Tensor  # (layers, M, width)
    positions: Tensor  # (M,)

    @property
    def v(self) -> Tensor:
        """(layers, S, width)."""
        return self.k.index_copy(1, self.positions, self.v_rows)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "StepContexts":
        return StepContexts(self.k.to(device, dtype), self.v_rows.to(device, dtype), self.positions.to(device))


class Payload:
    """A prompt with NeTI tokens. It never changes, and caches what it encodes.

    Nodes copy conditionings freely, so a copy is the object itself.
    """

    def __init__(self, clip: CLIP, tokens: list[Chunk], base: Tensor):
        """clip: gives weights (with its LoRA patches) and clip skip. tokens: per 77-token chunk, pairs of
        (id, vector or token dict) and weight, from the tokenizer. base: (1, S, width), the conditioning's own."""
        self.base = base
        self._text = HostTextEncoder(clip)
        self._tokens = tokens
        self._cache: OrderedDict[int, StepContexts] = OrderedDict()
        self._lock = threading.Lock()

    def __copy__(self) -> "Payload":
        return self

    def __deepcopy__(self, _memo: dict) -> "Payload":
        return self

    @property
    def length(self) -> int:
        return self.base.shape[1]

    def get(self, timestep: int, device: torch.device, dtype: torch.dtype) -> StepContexts:
        """Contexts at a denoising time 0..999, on `device` in `dtype`; encoded now unless `prepare` did it."""
        with self._lock:
            if timestep not in self._cache:
                self._encode([timestep])
            contexts = self._cache[timestep].to(device, dtype)
            self._cache[timestep] = contexts
            self._cache.move_to_end(timestep)
            return contexts

    def prepare(self, timesteps: list[int]) -> None:
        """Encode the times of a schedule in batches before sampling."""
        with self._lock:
            missing = [t for t in timesteps[:CACHED_TIMES] if t not in self._cache]
            if missing:
                self._encode(missing)

    def rest(self) -> None:
        """After sampling: move the cache off the GPU and keep it for the next image."""
        with self._lock:
            for timestep, contexts in self._cache.items():
                self._cache[timestep] = contexts.to("cpu", contexts.k.dtype)

    @torch.no_grad()
    def _encode(self, timesteps: list[int]) -> None:
        text, patcher = self._text, self._text.patcher
        if patcher.model.current_weight_patches_uuid != patcher.patches_uuid:
            mm.load_models_gpu([patcher])
        chunks = len(self._tokens)
        ids, slots = _split(self._tokens, text)
        base = text.embed(ids)
        sequences = SEQUENCES_AT_ONCE["cpu" if text.device.type == "cpu" else "gpu"]
        at_once = max(1, sequences // (LAYERS * chunks))
        empty = self._empty(ids)
        for start in range(0, len(timesteps), at_once):
            mm.throw_exception_if_processing_interrupted()
            times = timesteps[start : start + at_once]
            # Rows are (time, layer, chunk); each time and layer counts as a "layer" of the batched encode.
            layers = torch.arange(LAYERS).repeat(len(times))
            moments = torch.tensor(times, dtype=torch.float32).repeat_interleave(LAYERS)
            rows = [_token_rows(slot, moments, layers, chunks, text.device) for slot in slots]
            k, v = encode_layers(text, base, len(layers), rows, sequences)
            k, v = (self._weighted(context, empty).flatten(1, 2) for context in (k, v))
            places = torch.tensor(sorted({slot.chunk * text.length + slot.position for slot in slots}), device=k.device)
            for i, time in enumerate(times):
                part = slice(i * LAYERS, (i + 1) * LAYERS)
                self._cache[time] = StepContexts(k[part].clone(), v[part][:, places].clone(), places)
        while len(self._cache) > CACHED_TIMES:
            self._cache.popitem(last=False)

    def _empty(self, ids: Tensor) -> Tensor | None:
        """(1, S, width) context of the empty prompt; None where no prompt weight needs it."""
        if all(weight == 1.0 for chunk in self._tokens for _, weight in chunk):
            return None
        text = self._text
        empty = torch.tensor([[text.bos] + [text.eos] * (ids.shape[1] - 1)])
        return text.final_layer_norm(text.hidden_states(text.embed(empty)))

    def _weighted(self, context: Tensor, empty: Tensor | None) -> Tensor:
        """Prompt weights on (rows, chunks, S, width), as the host does it: interpolated from the empty prompt's context."""
        if empty is None:
            return context
        weights = torch.tensor([[weight for _, weight in chunk] for chunk in self._tokens]).to(context)
        return torch.lerp(empty, context, weights[..., None])


class _Slot(NamedTuple):
    """A place in a prompt that an embedding takes."""

    source: AppliedToken | Tensor
    vector: int  # which one of the source
    chunk: int
    position: int  # in the chunk


def is_applied(item: Item) -> TypeGuard[dict]:
    """Whether an item from the tokenizer is a token of ours that varies with time and layer."""
    return isinstance(item, dict) and isinstance(item.get("applied"), AppliedToken) and item["applied"].varies


def _split(tokens: list[Chunk], text: HostTextEncoder) -> tuple[Tensor, list[_Slot]]:
    """Ids (chunks, S), the end token at every embedding, and the embeddings' slots."""
    ids, slots = [], []
    for chunk, items in enumerate(tokens):
        row = []
        for position, (item, _) in enumerate(items):
            if isinstance(item, int):
                row.append(item)
                continue
            row.append(text.eos)
            if is_applied(item):
                slots.append(_Slot(item["applied"], item["vector"], chunk, position))
            else:
                slots.append(_Slot(item["data"] if isinstance(item, dict) else item, 0, chunk, position))
        ids.append(row)
    return torch.tensor(ids), slots


def _token_rows(slot: _Slot, moments: Tensor, layers: Tensor, chunks: int, device: torch.device) -> TokenRows:
    """A slot's vectors at every (time, layer); a stock embedding is the same at all of them."""
    rows = torch.arange(len(layers)) * chunks + slot.chunk
    positions = torch.full_like(rows, slot.position)
    places = rows.to(device), positions.to(device)
    if not isinstance(slot.source, AppliedToken):
        return TokenRows(*places, slot.source.reshape(1, -1).float().to(device).expand(len(rows), -1), None)
    vectors, bypass, share = slot.source.at(moments, layers)
    vectors = vectors[:, slot.vector].to(device)
    if bypass is None:
        return TokenRows(*places, vectors, None)
    scale = slot.source.bypass_scale(None if share is None else share.to(device))
    return TokenRows(*places, vectors, bypass.to(device), scale)
