"""A run's state on disk, so that N steps straight equal k steps, a kill, and N - k steps, bit for bit.

Random numbers are a function of (seed, step), so the step count is all the state they need.
"""

import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .loop import Trainer
from .settings import TrainingSettings
from .storage import replacing

FORMAT = "attractor-training-state"
VERSION = 1


class CannotResume(ValueError):
    """The saved state belongs to other settings, photos or another base model; the message says what differs."""


def save_state(trainer: Trainer, path: str | os.PathLike, identity: dict[str, str]) -> None:
    """Write parameters, optimiser state, curves and step.

    identity: names and hashes of what the run depends on beside the settings (`base_model`, `photos`).
    """
    tensors = {f"concept/{k}": v.detach().cpu().clone() for k, v in trainer.concepts.state_dict().items()}
    for name, parameter in trainer.concepts.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value.detach().cpu().clone()
    for name, curve in trainer.curves.items():
        tensors[f"curve/{name}"] = torch.tensor(curve, dtype=torch.float64)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "step": trainer.step_count,
        "identity": identity,
        "fixed_batch": trainer.fixed_batch_hash(),
        "settings": trainer.settings.to_dict(),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"attractor": json.dumps(header)})


def load_state(trainer: Trainer, path: str | os.PathLike, identity: dict[str, str]) -> None:
    """Bring a freshly built trainer to the saved state.

    Raises:
        CannotResume: what differs between the saved run and this one, or that the file is damaged.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["attractor"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no __iter__)
        check_resume(header, trainer.settings, identity)
        trainer.concepts.load_state_dict(_under(tensors, "concept/"))
    except (SafetensorError, OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise CannotResume(f"{Path(path).name} is damaged ({error}).") from error

    for name, parameter in trainer.concepts.named_parameters():
        state = _under(tensors, f"optimizer/{name}/")
        if state:
            # AdamW counts its steps in a CPU tensor; its moments live with the parameter.
            trainer.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
    trainer.curves = {name: values.tolist() for name, values in _under(tensors, "curve/").items()}
    if header.get("fixed_batch", trainer.fixed_batch_hash()) != trainer.fixed_batch_hash() and "fixed" in trainer.curves:
        # of other photos: its points cannot be compared with those to come
        trainer.curves["fixed"] = [math.nan] * len(trainer.curves["fixed"])
    trainer.step_count = header["step"]


def check_resume(header: dict, settings: TrainingSettings, identity: dict[str, str]) -> None:
    """Compare a saved state's header with what is asked for now.

    Raises:
        CannotResume: lists every difference.
    """
    if header.get("format") != FORMAT or header.get("version", 0) > VERSION:
        raise CannotResume(
            f"its format is {header.get('format')} version {header.get('version')}, this pack reads {FORMAT} up to {VERSION}."
        )
    saved = header["identity"]
    different = [
        f"{name.replace('_', ' ')} was {saved.get(name)}, is {value}"
        for name, value in identity.items()
        if saved.get(name) != value
    ]
    different += settings.differences(header["settings"])
    if header["step"] > settings.steps:
        different.append(f"{header['step']} steps are done already, steps is {settings.steps}")
    if different:
        raise CannotResume("; ".join(different) + ".")


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
