"""Pretrained models on disk: where they are, which model each one is, and how their files are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...trainer.reading import BadFile, read_json
from ..errors import UserError
from ..host import folders
from .download import download

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NATIVE_SINCE = "4.56"  # the first transformers with native classes for both families


@dataclass(frozen=True)
class Family:
    """A kind of model.

    folders: under ComfyUI's models folder; downloads go to the first.
    types: `model_type` in a transformers config.json. files: suffixes of models that are one file.
    repositories: on the Hugging Face hub, as the list names them. field: the input that errors name.
    """

    title: str
    folders: tuple[str, ...]
    types: tuple[str, ...]
    repositories: tuple[str, ...]
    files: tuple[str, ...] = ()
    field: str = "model"

    @property
    def places(self) -> str:
        return " or ".join(f"models/{key}" for key in self.folders)


FLORENCE2 = Family(
    "Florence-2",
    ("florence2", "LLM"),
    ("florence2",),
    tuple(f"florence-community/Florence-2-{size}" for size in ("base", "base-ft", "large", "large-ft")),
)
SAM2 = Family(
    "SAM2",
    ("sam2",),
    ("sam2", "sam2_video"),  # Meta's own converted folders say sam2_video
    tuple(f"facebook/sam2.1-hiera-{size}" for size in ("tiny", "small", "base-plus", "large")),
    files=(".pt", ".safetensors"),
)


def choices(family: Family) -> list[str]:
    """What a loader lists: local models, then names that can be downloaded (and stay valid afterwards)."""
    return [*local_models(family), *family.repositories]


def local_models(family: Family) -> dict[str, Path]:
    """Paths of what looks like a model of the family, by their names `<folder>/<entry>`."""
    return {
        name: path
        for name, path in _entries(family).items()
        if (path.suffix in family.files if path.is_file() else _config(path).get("model_type") in family.types)
    }


def _entries(family: Family) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for key in family.folders:
        for root in folders.model_folders(key):
            for path in sorted(root.iterdir()) if root.is_dir() else ():
                if not path.name.startswith("."):
                    found.setdefault(f"{key}/{path.name}", path)
    return found


def _config(path: Path) -> dict:
    try:
        content = read_json(path / "config.json")
    except BadFile:
        return {}
    return content if isinstance(content, dict) else {}


def problem(family: Family, name: str | None) -> str | None:
    """Why a loader's `model` is not one of `choices`, for the user; None if it is, or if it is wired and not known yet."""
    if name is None or name in family.repositories or name in local_models(family):
        return None
    path = _entries(family).get(name)
    if path is None:
        return (
            f"{family.field}: {name} is not in {family.places}. Put it there and press R to refresh the list, or choose "
            f"{family.repositories[0]} and turn on download_if_missing."
        )
    kind = _config(path).get("model_type") if path.is_dir() else f"{path.suffix} file"
    return (
        f"{family.field}: {name} is not a {family.title} model but "
        f"{f'of the kind {kind}' if kind else 'a folder without a readable config.json'}. Choose another."
    )


def find(family: Family, name: str, may_download: bool, node_id: str) -> Path:
    """The file or folder for a name from `choices`, downloaded if it is missing and `may_download`.

    Raises:
        UserError: it is missing, or could not be downloaded.
    """
    wrong = problem(family, name)
    if wrong:
        raise UserError(wrong)
    local = local_models(family)
    if name in local:
        return local[name]
    short = name.split("/")[1]
    for path in local.values():
        if path.name == short:
            return path
    target = folders.model_folders(family.folders[0])[0] / short
    if not may_download:
        raise UserError(
            f"{family.field}: {name} is not on this machine. Turn on download_if_missing, or put its files into "
            f"models/{family.folders[0]}/{short}."
        )
    return download(name, target, node_id, family.field)


def runs_own_code(path: Path) -> bool:
    """Whether a Florence-2 folder is in the older format, whose model is Python files of its own (microsoft/*)."""
    config = _config(path)
    text = config.get("text_config")
    return "auto_map" in config or (isinstance(text, dict) and text.get("model_type") == "florence2_language")


def native_classes(family: Family, *names: str) -> list:
    """Classes of transformers, by name.

    Raises:
        UserError: the installed transformers does not have them.
    """
    import transformers

    if not all(hasattr(transformers, name) for name in names):
        raise UserError(
            f"{family.field}: {family.title} needs transformers {NATIVE_SINCE} or newer, and {transformers.__version__} "
            f"is installed. Update it in ComfyUI's Python: python -m pip install -U transformers"
        )
    return [getattr(transformers, name) for name in names]


@contextmanager
def reading(family: Family, path: Path) -> Iterator[None]:
    """Turns whatever the libraries raise for unsuitable files into a sentence for the user.

    Raises:
        UserError: names the file.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # JSON, safetensors, zip and shapes each fail differently
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{family.field}: {path.name} is damaged or not a {family.title} model ({reason}). Download it again, or "
            "choose another."
        ) from error


def read_weights(
    model_class: "type[PreTrainedModel]",
    path: Path,
    twins: dict[str, str] | None = None,
    safetensors: bool = True,
    **settings: object,
) -> "PreTrainedModel":
    """A transformers model from a local folder, with every weight from the file.

    twins: names of weights that are shared with another one, which a file may contain only once. safetensors: False for a
    folder that has only the older pytorch_model.bin, which is read as plain tensors (weights only). settings: the model's own.

    Raises:
        ValueError: weights are missing. Also whatever transformers raises for unsuitable files.
    """
    model, report = model_class.from_pretrained(
        path, local_files_only=True, use_safetensors=safetensors, weights_only=True, output_loading_info=True, **settings
    )
    missing = set(report["missing_keys"])
    weights = model.state_dict()
    for name, twin in (twins or {}).items():
        if name in missing and twin not in missing:
            weights[name].copy_(weights[twin])
            missing.remove(name)
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, such as {min(missing)}")
    return model
