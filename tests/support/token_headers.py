"""Headers of this pack's own token files, read and changed."""

import json

from safetensors import safe_open
from safetensors.torch import load_file, save_file


def header_of(path, **changes):
    """The header of a token's file; with changes, which are written."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["attractor"])
    if changes:
        write_header(path, {**header, **changes})
    return header


def write_header(path, header):
    save_file(load_file(path), path, {"attractor": json.dumps(header)})
