"""A run's state on disk, so that N steps straight equal k steps, a kill, and N - k steps, bit for bit.

Random numbers are a function of (seed, step), so the step count is all the state they need.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import save_file

from .loop import Trainer
from .reading import BadFile, Checked, conform, read_safetensors, reading, safetensors_header
from .settings import TrainingSettings
from .storage import replacing
from .token_check import check_shapes, numbers
from .tuning import TuningTrainer

START_FROM, FROM_WORD = "start_from", "the word"  # part of a run's identity that older states do not have, and what they had
FORMAT = "attractor-training-state"
VERSION = 1
_HASH = re.compile(r"[0-9a-f]{16}")  # of `storage.fingerprint`


class CannotResume(BadFile):
    """The saved state belongs to other settings, photos or another base model, or is damaged; the message says what it is."""


class _Header(Checked):
    step: Annotated[int, Field(ge=0, le=100_000)]
    identity: dict[str, str]
    settings: dict[str, Any]
    fixed_batch: str | None = None
    loss_scale: Annotated[float, Field(ge=1, le=2**24)] | None = None  # of runs in half precision


def save_state(trainer: Trainer, path: str | os.PathLike, identity: dict[str, str]) -> None:
    """Write parameters, optimiser state, curves, step, and the loss scale if the run has one.

    identity: what the run depends on beside the settings, by names in plain words (`base_model`, `photos`): a hash, or one for
    each thing with spaces between, or words.
    """
    tensors = {f"concept/{k}": v.detach().cpu().clone() for k, v in trainer.concepts.state_dict().items()}
    tensors |= {f"weights/{k}": v.detach().to("cpu", copy=True) for k, v in _weights(trainer).items()}
    for name, parameter in trainer.learnables().items():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value.detach().to("cpu", copy=True)
    for name, curve in trainer.curves.items():
        tensors[f"curve/{name}"] = torch.tensor(curve, dtype=torch.float64)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "step": trainer.step_count,
        "identity": identity,
        "fixed_batch": trainer.fixed_batch_hash(),
        "settings": trainer.settings.to_dict(),
        **({"loss_scale": trainer.unet.loss_scale} if trainer.scales_loss else {}),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"attractor": json.dumps(header)})


def load_state(trainer: Trainer, path: str | os.PathLike, identity: dict[str, str]) -> None:
    """Bring a freshly built trainer to the saved state.

    Raises:
        CannotResume: what differs between the saved run and this one, or that the file is damaged.
    """
    name = Path(path).name
    try:
        with reading(name, "a run's state", ""):
            metadata, shapes = safetensors_header(path)
            header = json.loads(metadata["attractor"])
            check_resume(header, trainer.settings, identity, name)
            own = {f"concept/{key}": tuple(value.shape) for key, value in trainer.concepts.state_dict().items()}
            own |= {f"weights/{key}": tuple(value.shape) for key, value in _weights(trainer).items()}
            check_shapes(name, own, {key: shape for key, shape in shapes.items() if key.startswith(("concept/", "weights/"))})
            tensors = read_safetensors(path)
            concept = {key: numbers(name, key, value) for key, value in _under(tensors, "concept/").items()}
            weights = {key: numbers(name, key, value) for key, value in _under(tensors, "weights/").items()}
            optimizer = {key: _moments(trainer, name, key, value, tensors) for key, value in trainer.learnables().items()}
            if any(curve.shape != (header["step"],) for curve in _under(tensors, "curve/").values()):
                raise ValueError("a curve is not as long as the run")
    except CannotResume:
        raise
    except BadFile as error:
        raise CannotResume(str(error).removesuffix(" Get it again.")) from error

    trainer.concepts.load_state_dict(concept)
    with torch.no_grad():
        for key, parameter in _weights(trainer).items():
            parameter.copy_(weights[key])
    for key, parameter in trainer.learnables().items():
        if state := optimizer[key]:
            # The optimiser counts its steps in a CPU tensor; its moments live with the parameter.
            trainer.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
    curves = _under(tensors, "curve/")
    trainer.curves = {name: curves[name].tolist() for name in trainer.curve_names if name in curves}
    if header.get("fixed_batch", trainer.fixed_batch_hash()) != trainer.fixed_batch_hash() and "fixed" in trainer.curves:
        # of other photos: its points cannot be compared with those to come
        trainer.curves["fixed"] = [math.nan] * len(trainer.curves["fixed"])
    if trainer.scales_loss and (scale := header.get("loss_scale")):
        trainer.unet.loss_scale = scale
    trainer.step_count = header["step"]


def _weights(trainer: Trainer) -> dict[str, torch.nn.Parameter]:
    """What is learnt of the U-Net, if anything is."""
    return trainer.tuned.parameters if isinstance(trainer, TuningTrainer) else {}


def _moments(
    trainer: Trainer, name: str, key: str, parameter: torch.Tensor, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The optimiser's state of a parameter; empty where it has none yet.

    Raises:
        BadFile: it does not fit. name: of the file.
    """
    state = {part: numbers(name, f"optimizer/{key}", value) for part, value in _under(tensors, f"optimizer/{key}/").items()}
    if state:
        wanted = _state_shapes(trainer.settings.optimizer, tuple(parameter.shape))
        check_shapes(name, wanted, {part: tuple(value.shape) for part, value in state.items()})
        if any(bool((state[part] < 0).any()) for part in wanted if part != "exp_avg"):
            raise ValueError(f"the optimiser's state of {key} is impossible")
    return state


def _state_shapes(optimizer: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What the optimiser keeps of a parameter: two moments, or under Adafactor the variances of rows and columns."""
    if optimizer == "adamw":
        return {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
    if len(shape) < 2:
        return {"step": (), "variance": shape}
    return {"step": (), "row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}


def check_resume(header: dict, settings: TrainingSettings, identity: dict[str, str], name: str = "its state") -> None:
    """Compare a saved state's header with what is asked for now. name: of the file.

    Raises:
        CannotResume: lists every difference.
        BadFile: the header is damaged.
    """
    if header.get("format") != FORMAT or header.get("version", 0) > VERSION:
        raise CannotResume(
            f"its format is {header.get('format')} version {header.get('version')}, this pack reads {FORMAT} up to {VERSION}."
        )
    conform(_Header, header, name, "")
    saved = {START_FROM: FROM_WORD, **header["identity"]}
    if missing := [name.replace("_", " ") for name in identity if name not in saved]:
        raise CannotResume(f"an earlier version of this pack wrote it, and did not record {' and '.join(missing)}.")
    different = [_in_words(name, saved[name], value) for name, value in identity.items() if saved[name] != value]
    different += settings.differences(header["settings"])
    if header["step"] > settings.steps:
        different.append(f"{header['step']} steps are done already, steps is {settings.steps}")
    if different:
        raise CannotResume("; ".join(different) + ".")


def _in_words(name: str, saved: str, now: str) -> str:
    """What differs in a part of the identity: hashes say nothing to people."""
    label, before, after = name.replace("_", " "), saved.split(), now.split()
    if not all(_HASH.fullmatch(part) for part in (*before, *after)):
        return f"{label} was {saved}, is {now}"
    if len(before) != len(after):
        return f"there were {len(before) or 'no'} {label}, and are {len(after) or 'none'}"
    if len(after) == 1 and not label.endswith("s"):
        return f"the {label} is another one"
    if sorted(before) == sorted(after):
        return f"the {label} are in another order"
    others = [str(i) for i, (one, other) in enumerate(zip(before, after, strict=True), 1) if one != other]
    shown = ", ".join(others[:8]) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    return f"other {label} than before: {shown}"


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
