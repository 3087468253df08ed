"""Models of other libraries under the host's memory manager: on the GPU while they work, off it when others need room."""

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher

DTYPES = ("auto", "float32", "float16", "bfloat16")


class Managed:
    """A torch module whose weights the host loads for use and takes off the GPU when it needs the memory."""

    def __init__(self, module: torch.nn.Module):
        self.module = module.requires_grad_(False).train(False)
        self._patcher = ModelPatcher(module, mm.get_torch_device(), mm.unet_offload_device())

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def loaded(self) -> torch.nn.Module:
        """The module, whole on `device`."""
        mm.load_models_gpu([self._patcher], force_full_load=True)
        return self.module

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device


def resolve_dtype(name: str) -> torch.dtype:
    """The weights' type for a choice of `DTYPES`; auto: half precision where the device is fast at it."""
    if name != "auto":
        return getattr(torch, name)
    return torch.float16 if mm.should_use_fp16(mm.get_torch_device()) else torch.float32
