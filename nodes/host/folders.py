"""Where tokens and runs are on disk; a name that a user typed cannot lead out of these folders."""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...trainer.reading import shown_text, why
from ...trainer.token_file import EXTENSIONS
from ..errors import UserError
from ..pictures import is_no_photo, is_picture, printable

TOKENS = "neti"
DATASETS = "pdst"
EXAMPLE = "attractor example"  # in lists of photo folders and of data sets: what the pack brings along, and nobody writes to
_EXAMPLES, _SUBJECT = Path(__file__).resolve().parents[2] / "example_photos", "my-monster"
NEWEST = "newest training"  # in lists of tokens and of runs: whatever was trained last
_HOSTS_OWN = {"3d"}  # which ComfyUI makes in its input folder, for models
_LONGEST_NAME = 1000  # characters with folders, which are 500 at most then; the disk allows less
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
    """Names for a loader's list: the newest, the token folders and the stock embeddings, the latter under `embeddings/`."""
    embeddings = [f"embeddings/{name}" for name in folder_paths.get_filename_list("embeddings")]
    return [NEWEST, *folder_paths.get_filename_list(TOKENS), *embeddings]


def token_path(name: str) -> str:
    """The path for a name from `token_files`.

    Raises:
        UserError: no such file.
    """
    if name == NEWEST:
        return str(_newest("file", lambda path: path.stem == path.parent.name))
    folder, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    path = None
    if folder == "embeddings" and rest:
        path = folder_paths.get_full_path("embeddings", rest)
    if path is None and isinstance(name, str):
        path = folder_paths.get_full_path(TOKENS, name)
    if path is None:
        raise UserError(
            f"file: {quoted(name)} is not in models/neti, output/neti or models/embeddings. Put it there and press R "
            "to refresh the list."
        )
    return path


def name_problems(name: str, field: str = "name", root: Path | None = None, files: Iterable[str] = ()) -> list[str]:
    """Why a name that a user typed cannot name these files in a folder of ours; empty if it can.

    root, files: as of `place_problems`.
    """
    if not name.strip():
        return [f"{field} is empty: type a name, such as my-dog."]
    if len(name) > _LONGEST_NAME:
        return [f"{field} {quoted(name)} is too long: it has {len(name):,} characters, and {_LONGEST_NAME} is the most."]
    if not _NAME.fullmatch(name):
        return [
            f"{field} {quoted(name)} cannot be a file name: use letters, digits, spaces and . _ + -, with / between folder and "
            "name."
        ]
    return [] if root is None else place_problems(root, files, f"{field} {quoted(name)}")


def place_problems(root: Path, files: Iterable[str], what: str) -> list[str]:
    """Why these files cannot be written; empty if they can. It is tried with empty ones, of which nothing is left behind.

    Limits of length and characters belong to the disk, and only the disk knows them. root: may be missing as well. files:
    relative to it; of those that differ in a number only, the longest is enough. what: the input that names them.
    """
    what, problems = shown_text(what), []
    for name in files:
        error = _refusal(root / name)
        if error is None:
            continue
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            longest = max(len(os.fsencode(part)) for part in name.split("/"))
            problem = f"the file {quoted(name)} belongs to it, with {longest} bytes in a name. Use a shorter name."
            problems.append(f"{what} is too long for this disk: {problem}")
        else:
            problems.append(f"{what} cannot be used: {quoted(name)} cannot be written ({why(error)}). Use another name.")
    return problems[:1]


def _refusal(path: Path) -> OSError | None:
    """Why no file can be made at a path, in folders that may be missing; what this makes is gone when it returns."""
    made: list[Path] = []
    try:
        for folder in reversed(path.parents):
            if not os.path.isdir(folder):
                if os.path.lexists(folder):
                    return OSError(errno.ENOTDIR, f"{folder.name} is a file, and would have to be a folder")
                folder.mkdir(exist_ok=True)
                made.append(folder)
        if os.path.isdir(path):
            return OSError(errno.EISDIR, "there is a folder of this name")
        if not os.path.lexists(path):
            path.touch(exist_ok=False)
            made.append(path)
    except OSError as error:
        return error
    finally:
        for one in reversed(made):
            with suppress(OSError):  # of folders, where another process has put something since
                one.rmdir() if one != path else one.unlink()
    return None


def quoted(name: object) -> str:
    """What a user typed, for a message: on one line and not long, whatever it is."""
    return shown_text(repr(name), 80)


def output_path(name: str, suffix: str = "", field: str = "name") -> Path:
    """The path under `output/neti` for a name that a user typed. field: the input it was typed into.

    Raises:
        UserError: the name is not a plain relative one.
    """
    return _inside(output_folder(), name, suffix, field)


def run_problems(name: str) -> list[str]:
    """Why a training run cannot have this name; empty if it can. Tries the longest of its files' names."""
    own = name.rpartition("/")[2]
    return name_problems(name, "name", output_folder(), [f"{name}/{own}-step-000000.safetensors"])


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
    if problems := name_problems(name, field):
        raise UserError.of(problems)
    path = Path(os.path.realpath(root)) / f"{name}{suffix}"
    if below(root, f"{name}{suffix}") is None:
        raise UserError(f"{field} {quoted(name)} leads out of the output folder: use a plain name.")
    return path


def below(root: Path, name: object) -> Path | None:
    """Where a relative name, of a file or folder with / between them, leads to; None if that is not below `root`.

    Looks at nothing outside: the name is judged before the disk is asked.
    """
    if not isinstance(name, str) or "\0" in name or {"", ".", ".."} & set(re.split(r"[/\\]", name)):
        return None
    path, root = Path(os.path.realpath(root / name)), Path(os.path.realpath(root))
    return path if path.is_relative_to(root) and path != root else None


def embeddings_folder() -> Path:
    """The first of the host's folders for stock embeddings."""
    return Path(folder_paths.get_folder_paths("embeddings")[0])


def loras_folder() -> Path:
    """The first of the host's folders for LoRA files."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def picture_folders() -> list[str]:
    """Folders for a node's list: the pack's own photos, those under the input folder, and `.`, the input folder itself."""
    found = [name for name in folder_paths.get_input_subfolders() if _can_be_listed(name) and name not in _HOSTS_OWN]
    return [EXAMPLE, *(name for name in found if not any(map(is_no_photo, name.split("/")))), "."]


def _can_be_listed(name: str) -> bool:
    """Whether a name survives the way to the browser and back: one in bytes that are no UTF-8 does not."""
    return printable(name) == name


def pictures_in(folder: str) -> list[Path]:
    """The picture files in a folder from `picture_folders`, without those of its subfolders.

    Raises:
        UserError: the folder does not exist, or leads out of the input folder.
    """
    root = Path(folder_paths.get_input_directory())
    path = root if folder == "." else below(root, folder)
    if folder == EXAMPLE:
        path = _EXAMPLES / _SUBJECT / "train"
    if path is None or not os.path.isdir(path):
        raise UserError(
            f"folder: there is no folder {quoted(folder)} under ComfyUI's input folder. Make it, put the photos "
            "there, and press R to refresh the list."
        )
    return [entry for entry in path.iterdir() if is_picture(entry)]


def stamps(list_files: Callable[[], Iterable[Path]]) -> str:
    """For a node's fingerprint: changes when one of the files does, and always where they cannot be listed: then the node runs
    and says why."""
    try:
        found = [(os.fsencode(path), path.stat()) for path in list_files()]
        return repr([(name, stat.st_mtime_ns, stat.st_size) for name, stat in sorted(found)])
    except (UserError, OSError):
        return f"{time.time_ns()}"


def model_folders(key: str) -> list[Path]:
    """Where models of a kind may be: the user's extra model paths, and ComfyUI's own models/<key>."""
    folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))  # does nothing if it is known
    return [Path(path) for path in folder_paths.get_folder_paths(key)]


def dataset_folders(looks_like_dataset: Callable[[Path], bool]) -> list[str]:
    """Data sets for a node's list: the pack's own, `pdst/<folder>` of models/pdst, `input/<folder>` of the input folder."""
    found = [EXAMPLE]
    for label, root in _dataset_roots():
        if root.is_dir():
            names = sorted(path.name for path in root.iterdir() if _can_be_listed(path.name) and looks_like_dataset(path))
            found += [f"{label}/{name}" for name in names if f"{label}/{name}" not in found]
    return found


def dataset_path(name: str, to_write: bool = False) -> Path:
    """The folder for a name from `dataset_folders`. to_write: files will be written there.

    Raises:
        UserError: no such folder, or it is the pack's own and would be written to.
    """
    if name == EXAMPLE and to_write:
        raise UserError(f"folder: {EXAMPLE} is part of the pack and stays as it is. Choose a data set of your own.")
    if name == EXAMPLE:
        return _EXAMPLES
    label, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    for own, root in _dataset_roots():
        path = below(root, rest) if own == label else None
        if path is not None and os.path.isdir(path):
            return path
    raise UserError(
        f"folder: there is no data set {quoted(name)}. Put it into models/{DATASETS} or ComfyUI's input folder, and "
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
    if run == NEWEST:
        folder = _newest("run", is_checkpoint).parent
    else:
        folder = output_path(run, field="run")
    if not os.path.isdir(folder):
        raise UserError(f"run: there is no run {run!r} in output/{TOKENS}. Train it first, and press R to refresh the list.")
    return sorted(folder.glob("*.safetensors"))


def runs() -> list[str]:
    """Training runs under output/neti, for a node's list."""
    root = output_folder()
    found = {path.parent.relative_to(root).as_posix() for path in filter(is_checkpoint, root.rglob("*.safetensors"))} - {"."}
    return [NEWEST, *sorted(filter(_can_be_listed, found))]


def is_checkpoint(path: Path) -> bool:
    """Whether a file is what a run saved along the way."""
    return "-step-" in path.name


def _newest(field: str, wanted: Callable[[Path], bool]) -> Path:
    """The file in output/neti that was written last, of those wanted. field: the input that asks.

    Raises:
        UserError: there is none.
    """
    found = [path for path in output_folder().rglob("*.safetensors") if wanted(path)]
    if not found:
        what = "a token" if field == "file" else "checkpoints (checkpoint_every in Training Options)"
        raise UserError(f"{field}: no training has left {what} in output/{TOKENS} yet. Train first, and queue this again.")
    return max(found, key=lambda path: path.stat().st_mtime_ns)
