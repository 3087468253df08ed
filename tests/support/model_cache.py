"""Folders of models that tests make once and keep."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def cached_models(cache: Path, kind: str, key: str, script: str) -> Path:
    """The models folder `<kind>-<key>` inside the folder `cache`; written first by `script <folder>`, a process of its own, if
    not there. Folders of the same kind with another key are removed."""
    folder = Path(cache) / f"{kind}-{key}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            written = Path(temporary) / "models"
            subprocess.run([sys.executable, script, str(written)], check=True)
            try:
                os.rename(written, folder)  # nobody ever sees half of them
            except OSError:
                if not folder.exists():  # made by another process meanwhile
                    raise
        for stale in cache.glob(f"{kind}-*"):
            if stale != folder:
                shutil.rmtree(stale, ignore_errors=True)
    return folder
