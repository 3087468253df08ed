"""What of the U-Net's weights is learnt: tensors as a whole (DreamBooth, Custom Diffusion), or low-rank additions (LoRA).

The U-Net itself stays as it is: `UNet.tuned` puts the learnt tensors in their places for as long as a forward and backward
pass takes. They are float32, for a step changes a weight by less than half precision can tell.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .dataset import step_generator
from .methods import LOW_RANK
from .settings import TrainingSettings

PREFIX = "diffusion_model."  # of the host's LoRA files: the U-Net's own names follow


class WholeTensors:
    """Tensors that are learnt themselves, from the model's own values on."""

    def __init__(self, base: Mapping[str, Tensor]):
        """base: the U-Net's tensors by name; a copy is kept on the CPU, to tell the difference."""
        self._base = {name: tensor.detach().to("cpu", copy=True) for name, tensor in base.items()}
        self.parameters = {name: nn.Parameter(tensor.detach().float().clone()) for name, tensor in base.items()}

    def tensors(self, _base: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The U-Net's tensors as learnt, by name."""
        return self.parameters

    def patch(self) -> dict[str, Tensor]:
        """What the host's LoRA loader adds to a model, on the CPU: differences, in float32 so that none is rounded away."""
        difference = {name: value.detach().cpu() - self._base[name].float() for name, value in self.parameters.items()}
        return {_patch_name(name): value for name, value in difference.items()}


class LowRank:
    """LoRA: up @ down * alpha / rank on each weight, with alpha = rank, so that other programs apply the same strength."""

    def __init__(self, base: Mapping[str, Tensor], rank: int, seed: int):
        """base: weights (out, in) by name. up starts at zero, down uniform, as in kohya's scripts."""
        self.rank = rank
        self.parameters = {}
        for name, weight in base.items():
            drawn = torch.rand(rank, weight.shape[1], generator=step_generator(seed, f"init {name}"))
            down = (2 * drawn - 1) / math.sqrt(weight.shape[1])
            module = PREFIX + name.removesuffix(".weight")
            self.parameters[f"{module}.lora_down.weight"] = nn.Parameter(down.to(weight.device))
            self.parameters[f"{module}.lora_up.weight"] = nn.Parameter(torch.zeros(weight.shape[0], rank).to(weight.device))

    def tensors(self, base: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The U-Net's tensors as learnt, by name. base: as they are without it."""
        found = {}
        for name, weight in base.items():
            module = PREFIX + name.removesuffix(".weight")
            up, down = (self.parameters[f"{module}.lora_{part}.weight"] for part in ("up", "down"))
            found[name] = weight.detach().float() + up @ down
        return found

    def patch(self) -> dict[str, Tensor]:
        """A LoRA file's tensors, on the CPU."""
        found = {name: value.detach().cpu().clone() for name, value in self.parameters.items()}
        for name in list(found):
            if name.endswith(".lora_down.weight"):
                found[name.replace(".lora_down.weight", ".alpha")] = torch.tensor(float(self.rank))
        return found


Tuned = WholeTensors | LowRank


def build_tuned(settings: TrainingSettings, base: Mapping[str, Tensor]) -> Tuned:
    """What a method learns of the U-Net's tensors `base`, at its start."""
    return LowRank(base, settings.rank, settings.seed) if settings.learns == LOW_RANK else WholeTensors(base)


def learnt_numbers(settings: TrainingSettings, base: Mapping[str, Tensor]) -> int:
    """How many numbers are learnt of the U-Net's tensors `base`."""
    if settings.learns == LOW_RANK:
        return sum(settings.rank * sum(weight.shape) for weight in base.values())
    return sum(tensor.numel() for tensor in base.values())


def _patch_name(name: str) -> str:
    """`x.weight` -> `diffusion_model.x.diff`, `x.bias` -> `diffusion_model.x.diff_b`."""
    module, _, kind = name.rpartition(".")
    return f"{PREFIX}{module}.{'diff_b' if kind == 'bias' else 'diff'}"
