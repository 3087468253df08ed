"""What can be told of an evaluation by its name: its results files so far, for scripts that drive a server."""

from typing import Any

from ..errors import UserError
from ..host import folders
from .header import read_header


def evaluation_state(name: str) -> dict[str, Any]:
    """`folder`, under the output folder, and `results`: file, number of images and header of each results file there.

    A file that is no results file, or is being started or deleted, is left out.

    Raises:
        UserError: the name cannot be that of an evaluation.
    """
    folder = folders.evaluation_path(name)
    found = []
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        try:
            header, lines = read_header(path), path.read_bytes().count(b"\n")
        except (UserError, OSError):
            continue
        if header is not None:
            found.append({"file": path.name, "images": lines - 1, "header": header})
    return {"name": name, "folder": f"{folders.DATASETS}/{name}", "results": found}
