"""Files that are whole or absent: write to a temporary name in the same folder, then rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path to write to; on success it takes `path`'s place, on failure it is removed.

    Raises:
        OSError: the file could not be written (disk full, no permission); what was at `path` is unharmed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
