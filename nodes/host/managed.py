"""Models of other libraries under the host's memory manager: on the GPU while they work, off it when others need memory."""

from typing import Generic, TypeVar

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher

DTYPES = ("auto", "float32", "float16", "bfloat16")
_WORKING_ROOM = 2 * 1024**3  # bytes left free beside the weights, for the forward pass

_FAST_AT = {torch.float16: mm.should_use_fp16, torch.bfloat16: mm.should_use_bf16}


M = TypeVar("M", bound=torch.nn.Module)


class Managed(Generic[M]):
    """A torch module whose weights the host loads for use, and moves off the GPU when it needs the memory."""

    def __init__(self, module: M):
        self.module = module
        module.requires_grad_(False).train(False)
        holder = torch.nn.Module()  # the host sets attributes such as `device`, which models of transformers do not allow
        holder.inner = module
        self._patcher = ModelPatcher(holder, mm.get_torch_device(), mm.unet_offload_device())

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device

    def loaded(self) -> M:
        """The module, whole on `device`."""
        mm.load_models_gpu([self._patcher], memory_required=_WORKING_ROOM, force_full_load=True)
        return self.module


def resolve_dtype(name: str, preferred: tuple[torch.dtype, ...]) -> torch.dtype:
    """The dtype for one of `DTYPES`. auto: the first of `preferred` that the device computes fast, else float32."""
    if name != "auto":
        return getattr(torch, name)
    device = mm.get_torch_device()
    return next((dtype for dtype in preferred if _FAST_AT[dtype](device)), torch.float32)
