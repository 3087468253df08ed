"""One writer for each folder or file: a second ComfyUI that means the same one is told who has it."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError


@contextmanager
def only_writer(folder: Path, what: str, remedy: str, part: str = "") -> Iterator[None]:
    """Holds `folder` for the block; made if it is not there. The system frees it when the holder dies, however it dies.

    what: the input and the thing that is taken, for the message ("name: the run 'my-dog'"). part: of the folder, where several
    may write to different parts of it.

    Raises:
        UserError: another process holds it; says which, since when, and the `remedy`.
    """
    from filelock import FileLock, Timeout  # among ComfyUI's own requirements

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{what} cannot be written to {folder.name} ({error.strerror}). {remedy}") from error
    lock, holder = folder / f".{part}lock", folder / f".{part}in-use.json"
    try:
        with FileLock(lock, timeout=0):
            holder.write_text(json.dumps({"process": os.getpid(), "machine": platform.node(), "since": time.strftime("%H:%M")}))
            try:
                yield
            finally:
                for path in (holder, lock):  # while it is still held; where an open file cannot be removed, it stays
                    with suppress(OSError):
                        path.unlink()
                with suppress(OSError):
                    folder.rmdir()  # of a run that wrote nothing
    except Timeout as error:
        raise UserError(f"{what} is being written by another ComfyUI{_who(holder)}. {remedy}") from error


def is_held(folder: Path) -> bool:
    """Whether some process is writing to a folder now."""
    from filelock import FileLock, Timeout

    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _who(holder: Path) -> str:
    """As far as the holder has said it; it may be writing that just now."""
    try:
        said = json.loads(holder.read_text())
        return f" (process {said['process']} on {said['machine']}, since {said['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
