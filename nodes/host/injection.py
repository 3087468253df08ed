"""Per-layer K and V contexts for the host's U-Net: which block is which layer, and the patch that swaps them."""

from collections.abc import Callable

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

# NeTI's layer index is the execution order, which is the host's order of blocks (facts: NeTI constants.UNET_LAYERS).
BLOCKS = (
    ("input", 1),
    ("input", 2),
    ("input", 4),
    ("input", 5),
    ("input", 7),
    ("input", 8),
    ("middle", 0),
    ("output", 3),
    ("output", 4),
    ("output", 5),
    ("output", 6),
    ("output", 7),
    ("output", 8),
    ("output", 9),
    ("output", 10),
    ("output", 11),
)
LAYER_OF_BLOCK = {block: layer for layer, block in enumerate(BLOCKS)}

Contexts = Callable[[int, Tensor], tuple[Tensor, Tensor]]
Attn2Patch = Callable[[Tensor, Tensor, Tensor, dict], tuple[Tensor, Tensor, Tensor]]


def cross_attention_blocks(unet: UNetModel) -> list[tuple[str, int]]:
    """Ids of the U-Net's blocks with cross-attention, in execution order."""

    def has_attention(block: nn.Module) -> bool:
        return any(isinstance(m, SpatialTransformer) for m in block.modules())

    found = [("input", i) for i, block in enumerate(unet.input_blocks) if has_attention(block)]
    if unet.middle_block is not None and has_attention(unet.middle_block):
        found.append(("middle", 0))
    return found + [("output", i) for i, block in enumerate(unet.output_blocks) if has_attention(block)]


def context_patch(contexts: Contexts) -> Attn2Patch:
    """An `attn2_patch` that takes each layer's K and V contexts from `contexts(layer, context)`.

    The layer comes with the call (`block`), not from a counter as in NeTI: so a checkpointed block that is recomputed in
    the backward pass still gets its own contexts.
    """

    def patch(query: Tensor, context: Tensor, value: Tensor, extra_options: dict) -> tuple[Tensor, Tensor, Tensor]:
        block = extra_options.get("block")
        layer = None if block is None else LAYER_OF_BLOCK.get(block)
        if layer is None:
            return query, context, value
        context_k, context_v = contexts(layer, context)
        return query, context_k.to(query), context_v.to(query)

    return patch
