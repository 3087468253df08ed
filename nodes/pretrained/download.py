"""Fetching a model from the Hugging Face hub: asked for by the user, shown on the node, resumed when broken off."""

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
_OLDER = "pytorch_model*.bin"  # what a repository without safetensors has for weights
_PIECE = 2**20  # bytes. Between pieces a cancel is noticed; what has come of an unfinished one is lost.


def download(repository: str, target: Path, node_id: str, field: str = "model") -> Path:
    """Fetch the newest revision of `repository` into the folder `target`, by way of a hidden folder beside it.

    A second call goes on where the last one stopped. field: the input that errors name.

    Raises:
        UserError: the hub cannot be reached, or the download broke off. Interrupted: the user has cancelled.
    """
    try:
        complete = _fetch(repository, target.with_name(f".incomplete-{target.name}"), node_id)
        os.replace(complete, target)
    except Interrupted:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{field}: {repository} could not be downloaded ({reason}). Check the network and queue again, which goes on where "
            f"this stopped; or put its files into models/{target.parent.name}/{target.name} by hand."
        ) from error
    return target


def _fetch(repository: str, folder: Path, node_id: str) -> Path:
    """The folder, once all files are in it. File by file, since `snapshot_download` keeps nothing of one that breaks off."""
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
        # Named by content too: what came of an older revision must not be gone on with.
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
    """Lets the hub's client hand on what comes in pieces of `_PIECE`. Its own are 10 MB: on a slow line minutes each."""
    from huggingface_hub import constants

    usual = constants.DOWNLOAD_CHUNK_SIZE
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = usual


class _Sink(io.FileIO):
    """A file that is appended to, and says how long it has become."""

    def __init__(self, path: Path, written: Callable[[int], None]):
        super().__init__(path, "ab")
        self._written = written

    def write(self, data: "ReadableBuffer") -> int:
        count = super().write(data)
        self._written(self.tell())
        return count
