"""Pictures that a graph has saved, or that a user has put where ComfyUI keeps pictures."""

import os
from pathlib import Path

import folder_paths

from ..errors import UserError
from ..pictures import is_picture
from .folders import below, quoted


def pictures_made(folder: str) -> list[Path]:
    """The picture files in `input/<folder>` or `output/<folder>`, without those of its subfolders.

    Raises:
        UserError: there is no such folder, or it leads out of these two.
    """
    roots = {"input": folder_paths.get_input_directory(), "output": folder_paths.get_output_directory()}
    label, _, rest = folder.partition("/")
    path = below(Path(roots[label]), rest.rstrip("/")) if label in roots else None
    if path is None or not os.path.isdir(path):
        raise UserError(
            f"folder: there is no folder {quoted(folder)}. Write input/ or output/ and the name of a folder in ComfyUI's input "
            "or output folder, such as output/my-pictures."
        )
    return [entry for entry in path.iterdir() if is_picture(entry)]
