"""What made a result: the pack, ComfyUI, torch and the device. For people and for scripts; results are never compared by it."""

import hashlib
import re
from functools import cache
from pathlib import Path

import comfy.model_management as mm
import torch
from comfyui_version import __version__ as comfyui

ROOT = Path(__file__).resolve().parents[2]


@cache
def pack_version() -> str:
    """The pack's version and a hash of its code, such as `0.1.0 (5f2c91e0)`: two checkouts of one version may differ."""
    settings = ROOT / "pyproject.toml"
    version = re.search(r'^version = "(.+)"', settings.read_text(encoding="utf-8") if settings.is_file() else "", re.MULTILINE)
    digest = hashlib.sha256()
    for path in sorted(file for folder in ("trainer", "nodes") for file in (ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))  # git on Windows writes other line ends
    return f"{version[1] if version else 'unknown'} ({digest.hexdigest()[:8]})"


def made_with() -> dict[str, str]:
    """Versions and device, by name."""
    device = mm.get_torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"pack": pack_version(), "comfyui": comfyui, "torch": torch.__version__, "device": name}
