"""Files that are whole or absent, and the short hashes that tell what is in them apart."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path to write to; on success it takes `path`'s place, on failure it is removed.

    It is on the disk itself when this returns, its folder's entry too: a power cut leaves the old file or the new one. Its mode
    is what the umask allows, whatever the writer made of it (safetensors lets only the owner read).

    Raises:
        OSError: the file could not be written (disk full, no permission); what was at `path` is unharmed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]  # longer than the file's own, the name might not fit
    temporary = path.with_name(f".{short}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        os.chmod(temporary, mode)
        _sync(temporary)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows opens no folders
            with suppress(OSError):  # some network drives cannot
                _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(*parts: Any) -> str:
    """A short, stable hash of JSON-able values and tensors, to notice changed data or models on resume."""
    digest = hashlib.sha256()
    for part in parts:
        if hasattr(part, "detach"):
            digest.update(str((tuple(part.shape), str(part.dtype))).encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]
