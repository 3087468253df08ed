"""Where Florence-2 and SAM2 models lie on disk, what each of them is, and how a missing one is downloaded."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..host import folders
from ..host.progress import Interrupted, Progress


@dataclass(frozen=True)
class Family:
    """A kind of model.

    folders: of ComfyUI's models folder, the first is where downloads go.
    types: `model_type` in a transformers config.json. repositories: on the Hugging Face hub, by the name in the list.
    """

    title: str
    folders: tuple[str, ...]
    types: tuple[str, ...]
    repositories: tuple[str, ...]
    files: tuple[str, ...] = ()


FLORENCE2 = Family(
    "Florence-2", ("florence2", "LLM"), ("florence2",),
    tuple(f"florence-community/Florence-2-{size}" for size in ("base", "base-ft", "large", "large-ft")),
)
SAM2 = Family(
    "SAM2", ("sam2",), ("sam2", "sam2_video"),
    tuple(f"facebook/sam2.1-hiera-{size}" for size in ("tiny", "small", "base-plus", "large")),
    files=(".pt",),
)
_WANTED = ["*.json", "*.txt", "*.safetensors"]


def choices(family: Family) -> list[str]:
    """What a loader lists: local models first, then those that can be downloaded."""
    local = list(local_models(family))
    missing = [name for name in family.repositories if name.split("/")[1] not in {entry.split("/")[-1] for entry in local}]
    return local + missing


def local_models(family: Family) -> dict[str, Path]:
    """Paths by name `<folder>/<entry>` of what looks like a model of the family, a converted one or not."""
    found = {}
    for key in family.folders:
        for root in folders.model_folders(key):
            for path in sorted(root.iterdir()) if root.is_dir() else ():
                if path.name.startswith("."):
                    continue
                if (path.is_file() and path.suffix in family.files) or (path.is_dir() and _type_of(path) in family.types):
                    found.setdefault(f"{key}/{path.name}", path)
    return found


def _config(path: Path) -> dict:
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _type_of(path: Path) -> str | None:
    return _config(path).get("model_type")


def needs_remote_code(path: Path) -> bool:
    """Whether the folder is of the kind that brings Python files along, as microsoft/Florence-2-* does."""
    return "auto_map" in _config(path) or any(path.glob("*.py"))


def find(family: Family, name: str, download: bool, node_id: str) -> Path:
    """The model's file or folder; downloads it if that is wanted and needed.

    Raises:
        UserError: it is not there, or could not be downloaded.
    """
    local = local_models(family)
    if name in local:
        return local[name]
    repository = next((r for r in family.repositories if r == name), None)
    if repository is None:
        raise UserError(f"model: {name} is not in {_places(family)}. Put it there and press R to refresh the list.")
    target = folders.model_folders(family.folders[0])[0] / repository.split("/")[1]
    if target.is_dir():
        return target
    if not download:
        raise UserError(f"model: {repository} is not on this machine. Turn on download_if_missing, or put its files into "
                        f"models/{family.folders[0]}/{target.name}.")
    return _download(repository, target, node_id)


def _places(family: Family) -> str:
    return " or ".join(f"models/{key}" for key in family.folders)


def _download(repository: str, target: Path, node_id: str) -> Path:
    """Into a folder beside, which a second try resumes, then into place."""
    from huggingface_hub import snapshot_download
    from tqdm.auto import tqdm

    progress = Progress(100, node_id)

    class Bar(tqdm):
        def update(self, n=1):
            result = super().update(n)
            if self.total:
                progress.update(int(100 * self.n / self.total))
            return result

    partial = target.with_name(f".incomplete-{target.name}")
    progress.text(f"downloading {repository} ...")
    try:
        snapshot_download(repository, local_dir=partial, allow_patterns=_WANTED, tqdm_class=Bar)
    except Interrupted:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise UserError(f"model: {repository} could not be downloaded ({error}). Check the network and queue again, which "
                        f"resumes; or put its files into {target.parent.name}/{target.name} by hand.") from error
    os.replace(partial, target)
    return target
