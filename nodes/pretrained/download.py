"""Downloading a model from the Hugging Face hub: when the user asks for it, with progress on the node, resumable."""

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..host.progress import Interrupted, Progress

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_WANTED = ("*.json", "*.txt", "*.safetensors")
_OLDER = "pytorch_model*.bin"  # the weights of a repository without safetensors
_PIECE = 2**20  # bytes. Cancel is noticed between pieces; an unfinished piece is lost.


def download(repository: str, target: Path, node_id: str, field: str = "model") -> Path:
    """Download the newest revision of `repository` to the folder `target`, through a hidden folder beside it.

    A second call continues where the last one stopped. field: the input that errors name.

    Raises:
        UserError: the hub cannot be reached, or the download stopped halfway. Interrupted: the user has cancelled.
    """
    try:
        complete = _fetch(repository, target.with_name(f".incomplete-{target.name}"), node_id)
        os.replace(complete, target)
    except Interrupted:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{field}: {repository} could not be downloaded ({reason}). Check the network and queue again to continue where "
            f"it stopped, or put the files into models/{target.parent.name}/{target.name} by hand."
        ) from error
    return target


def _fetch(repository: str, folder: Path, node_id: str) -> Path:
    """The folder, once all files are in it. File by file, because `snapshot_download` discards an unfinished file."""
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    info = HfApi().model_info(repository, files_metadata=True)
    there = [file for file in info.siblings if "/" not in file.rfilename]
    safe = any(file.rfilename.endswith(".safetensors") for file in there)
    wanted = _WANTED if safe else (*_WANTED, _OLDER)
    files = [file for file in there if any(fnmatch(file.rfilename, pattern) for pattern in wanted)]
    total = sum(file.size for file in files)
    logging.info("Downloading %s, revision %s (main), %d MB", repository, info.sha, total // 10**6)
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(total, node_id)
    parts, before = {}, 0
    for file in files:
        # Named by content too, so that a file of an older revision is not continued.
        part = parts[file.rfilename] = folder / f"{file.rfilename}.{file.blob_id}"

        def written(here: int, before: int = before) -> None:
            progress.update(before + here)
            progress.text(f"downloading {repository}: {(before + here) / 1e6:.0f} of {total / 1e6:.0f} MB")

        with _Sink(part, written) as sink, _small_pieces():
            written(sink.tell())
            if sink.tell() < file.size:
                address = hf_hub_url(repository, file.rfilename, revision=info.sha)
                http_get(address, sink, resume_size=sink.tell(), headers=build_hf_headers(), expected_size=file.size)
        before += file.size
    for path in set(folder.iterdir()) - set(parts.values()):
        path.unlink()
    for name, part in parts.items():
        os.replace(part, folder / name)
    return folder


@contextmanager
def _small_pieces() -> Iterator[None]:
    """Make the hub's client pass on data in pieces of `_PIECE`. Its own are 10 MB, which take minutes on a slow line."""
    from huggingface_hub import constants

    usual = constants.DOWNLOAD_CHUNK_SIZE
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = usual


class _Sink(io.FileIO):
    """A file opened for appending that reports its length after each write."""

    def __init__(self, path: Path, written: Callable[[int], None]):
        super().__init__(path, "ab")
        self._written = written

    def write(self, data: "ReadableBuffer") -> int:
        count = super().write(data)
        self._written(self.tell())
        return count
