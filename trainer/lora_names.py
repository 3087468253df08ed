"""Names of a LoRA's tensors: the host's, which a token's file has, and kohya's, which every program reads."""

from torch import Tensor

from .custom_diffusion import BLOCKS
from .tuned import PREFIX

_THEIRS = {ours: theirs for theirs, ours in BLOCKS.items()}


def in_kohyas_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Low-rank additions to attention as kohya's scripts name them, `lora_unet_down_blocks_0_attentions_0_..`; differences,
    which those have no name for, as they are."""
    return {_kohyas(name): value for name, value in weights.items()}


def _kohyas(name: str) -> str:
    module, kind = name, ""
    for kind in (".lora_up.weight", ".lora_down.weight", ".alpha"):
        if name.endswith(kind):
            module = name.removesuffix(kind).removeprefix(PREFIX)
            break
    block, found, rest = module.partition(".transformer_blocks.")
    if not found or module == name or block not in _THEIRS:
        return name
    return f"lora_unet_{_THEIRS[block]}{found}{rest}".replace(".", "_") + kind
