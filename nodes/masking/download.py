"""Fetching a model from the Hugging Face hub: asked for by the user, shown on the node, resumed when broken off."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from fnmatch import fnmatch
from pathlib import Path

from ..errors import UserError
from ..host.progress import Interrupted, Progress

_WANTED = ["*.json", "*.txt", "*.safetensors"]


def download(repository: str, target: Path, node_id: str) -> Path:
    """Fetch the newest revision of `repository` into the folder `target`, by way of a hidden folder beside it.

    A second call goes on where the last one stopped.

    Raises:
        UserError: the hub cannot be reached, or the download broke off. Interrupted: the user has cancelled.
    """
    partial = target.with_name(f".incomplete-{target.name}")
    try:
        _fetch(repository, partial, node_id)
        os.replace(partial, target)
    except Interrupted:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"model: {repository} could not be downloaded ({reason}). Check the network and queue again, which goes on where "
            f"this stopped; or put its files into models/{target.parent.name}/{target.name} by hand."
        ) from error
    return target


def _fetch(repository: str, folder: Path, node_id: str) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from tqdm.auto import tqdm

    # Asked first: without an answer snapshot_download would take what is in the folder for the whole.
    info = HfApi().model_info(repository, files_metadata=True)
    sizes = {f.rfilename: f.size for f in info.siblings if any(fnmatch(f.rfilename, pattern) for pattern in _WANTED)}
    total = sum(sizes.values())
    logging.info("Downloading %s, revision %s (main), %d MB", repository, info.sha, total // 10**6)
    cancelled = threading.Event()

    class Bar(tqdm):
        def update(self, n=1):
            if cancelled.is_set():
                raise Interrupted
            return super().update(n)

    progress = Progress(total, node_id)
    pool = ThreadPoolExecutor(1)
    job = pool.submit(snapshot_download, repository, revision=info.sha, local_dir=folder, allow_patterns=_WANTED,
                      tqdm_class=Bar)
    try:
        done = False
        while not done:
            done = bool(wait([job], timeout=0.5).done)
            here = min(total, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
            progress.update(here)
            progress.text(f"downloading {repository}: {here / 1e6:.0f} of {total / 1e6:.0f} MB")
        job.result()
    finally:
        cancelled.set()
        pool.shutdown(wait=False)
    short = [name for name, size in sizes.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size]
    if short:
        raise OSError(f"{short[0]} did not come whole")
