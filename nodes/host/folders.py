"""Where tokens and runs are on disk; a name that a user typed cannot lead out of these folders."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ...trainer.token_file import EXTENSIONS
from ..errors import UserError

TOKENS = "neti"
DATASETS = "pdst"
_NAME = re.compile(r"[\w][\w .+-]*(/[\w][\w .+-]*)*")


def register() -> None:
    """Make `models/neti` a model folder, and list `output/neti` with it so that new trainings appear without copying."""
    folder_paths.add_model_folder_path(TOKENS, os.path.join(folder_paths.models_dir, TOKENS), is_default=True)
    folder_paths.add_model_folder_path(TOKENS, str(output_folder()))
    paths, extensions = folder_paths.folder_names_and_paths[TOKENS]
    folder_paths.folder_names_and_paths[TOKENS] = (paths, set(extensions) | set(EXTENSIONS))


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / TOKENS


def evaluations_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "pdst"


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def token_files() -> list[str]:
    """Names for a loader's list: the token folders and the stock embeddings, the latter under `embeddings/`."""
    embeddings = [f"embeddings/{name}" for name in folder_paths.get_filename_list("embeddings")]
    return folder_paths.get_filename_list(TOKENS) + embeddings


def token_path(name: str) -> str:
    """The path for a name from `token_files`.

    Raises:
        UserError: no such file.
    """
    folder, _, rest = name.partition("/")
    path = None
    if folder == "embeddings" and rest:
        path = folder_paths.get_full_path("embeddings", rest)
    path = path or folder_paths.get_full_path(TOKENS, name)
    if path is None:
        raise UserError(
            f"file: {name} is not in models/neti, output/neti or models/embeddings. Put it there and press R "
            "to refresh the list."
        )
    return path


def name_problems(name: str, field: str = "name") -> list[str]:
    """Why a name that a user typed cannot be a file name in our folders; empty if it can."""
    if not name.strip():
        return [f"{field} is empty: type a name, such as my-dog."]
    if not _NAME.fullmatch(name):
        return [
            f"{field} {name!r} cannot be a file name: use letters, digits, spaces and . _ + -, with / between folder and name."
        ]
    return []


def output_path(name: str, suffix: str = "", field: str = "name") -> Path:
    """The path under `output/neti` for a name that a user typed. field: the input it was typed into.

    Raises:
        UserError: the name is not a plain relative one.
    """
    return _inside(output_folder(), name, suffix, field)


def evaluation_path(name: str) -> Path:
    """The folder under `output/pdst` of an evaluation that a user named.

    Raises:
        UserError: the name is not a plain relative one.
    """
    return _inside(evaluations_folder(), name)


def report_page(name: str) -> Path:
    """The page of a report that is there already, by the name of its folder under `output/pdst`.

    Raises:
        UserError: there is none.
    """
    page = evaluation_path(name) / "report" / "report.html"
    if not page.is_file() or not page.resolve().is_relative_to(evaluations_folder().resolve()):
        raise UserError(f"There is no report of {name!r} under output/{DATASETS}. Queue PDST Report to make it.")
    return page


def report_name(page: Path) -> str:
    """What `report_page` finds a page by; empty where it does not."""
    folder, root = page.parent.parent.resolve(), evaluations_folder().resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""


def _inside(root: Path, name: str, suffix: str = "", field: str = "name") -> Path:
    problems = name_problems(name, field)
    root = root.resolve()
    path = root / f"{name}{suffix}"
    if problems or not path.resolve().is_relative_to(root):
        raise UserError.of(problems or [f"{field} {name!r} leads out of the output folder: use a plain name."])
    return path


def embeddings_folder() -> Path:
    """The first of the host's folders for stock embeddings."""
    return Path(folder_paths.get_folder_paths("embeddings")[0])


def picture_folders() -> list[str]:
    """Folders under the input folder, for a node's list; `.` is the input folder itself."""
    return [*folder_paths.get_input_subfolders(), "."]


def pictures_in(folder: str) -> list[Path]:
    """The picture files in a folder from `picture_folders`, without those of its subfolders.

    Raises:
        UserError: the folder does not exist, or leads out of the input folder.
    """
    root = Path(folder_paths.get_input_directory()).resolve()
    path = (root / folder).resolve()
    if not path.is_relative_to(root) or not path.is_dir():
        raise UserError(
            f"folder: there is no folder {folder!r} under ComfyUI's input folder. Make it, put the photos "
            "there, and press R to refresh the list."
        )
    names = [entry.name for entry in path.iterdir() if entry.is_file()]
    return [path / name for name in folder_paths.filter_files_content_types(names, ["image"])]


def model_folders(key: str) -> list[Path]:
    """Where models of a kind may be: the user's extra model paths, and ComfyUI's own models/<key>."""
    folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))  # does nothing if it is known
    return [Path(path) for path in folder_paths.get_folder_paths(key)]


def dataset_folders(looks_like_dataset: Callable[[Path], bool]) -> list[str]:
    """Data sets for a node's list: `pdst/<folder>` of models/pdst, `input/<folder>` of the input folder."""
    found: list[str] = []
    for label, root in _dataset_roots():
        if root.is_dir():
            names = sorted(path.name for path in root.iterdir() if path.is_dir() and looks_like_dataset(path))
            found += [f"{label}/{name}" for name in names if f"{label}/{name}" not in found]
    return found


def dataset_path(name: str) -> Path:
    """The folder for a name from `dataset_folders`.

    Raises:
        UserError: no such folder.
    """
    label, _, rest = name.partition("/")
    for own, root in _dataset_roots():
        path = (root / rest).resolve()
        if own == label and rest and path.is_dir() and path.is_relative_to(root.resolve()):
            return path
    raise UserError(
        f"folder: there is no data set {name!r}. Put it into models/{DATASETS} or ComfyUI's input folder, and "
        "press R to refresh the list."
    )


def new_dataset_path(name: str) -> Path:
    """Where a data set of this name is or would be: in models/pdst.

    Raises:
        UserError: the name is not a plain one.
    """
    return _inside(model_folders(DATASETS)[0], name)


def _dataset_roots() -> list[tuple[str, Path]]:
    roots = [(DATASETS, path) for path in model_folders(DATASETS)]
    return [*roots, ("input", Path(folder_paths.get_input_directory()))]


def checkpoint_files(run: str) -> list[Path]:
    """The token files in the folder of a training run under output/neti.

    Raises:
        UserError: no such folder.
    """
    folder = output_path(run, field="run")
    if not folder.is_dir():
        raise UserError(f"run: there is no run {run!r} in output/{TOKENS}. Train it first, and press R to refresh the list.")
    return sorted(folder.glob("*.safetensors"))


def runs() -> list[str]:
    """Training runs under output/neti, for a node's list."""
    root = output_folder()
    return sorted({path.parent.relative_to(root).as_posix() for path in root.rglob("*-step-*.safetensors")} - {"."})
