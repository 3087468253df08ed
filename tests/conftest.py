"""What all tests share: the pack as the package `attractor`, golden files, the host, a small checkpoint."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

import small_checkpoint as small_checkpoint_module
import small_encoders as small_encoders_module
import small_vision
import taught_sam2

ROOT = Path(__file__).resolve().parent.parent
# Files that take minutes go first: of several workers, none is then alone at the end for long.
SLOW = ("test_training_step.py", "test_training.py", "test_toy_learning.py", "test_learning.py", "test_taught_masking.py")


def _import_pack():
    """Import the pack as `attractor`. The host loads it under a name made of its path, so the pack has only
    relative imports and any name will do."""
    spec = importlib.util.spec_from_file_location("attractor", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["attractor"] = module
    spec.loader.exec_module(module)


if "attractor" not in sys.modules:
    _import_pack()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture(scope="session")
def golden():
    """The folder of golden files: outputs of the official NeTI code."""
    return Path(os.environ.get("ATTRACTOR_GOLDEN") or ROOT / "tests" / "golden")


@pytest.fixture(scope="session")
def host_root():
    """The root of the ComfyUI under test."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("COMFYUI_PATH is not set; `python scripts/dev.py test` sets it")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def small_checkpoint(host_root):
    """A small SD1.5 checkpoint file, made once and kept in `.dev/cache`."""
    return small_checkpoint_module.cached_small_checkpoint(host_root, ROOT / ".dev" / "cache")


@pytest.fixture(scope="session")
def pruned_checkpoint(host_root):
    """The same with 10 cross-attention blocks instead of 16: a model that the pack must refuse."""
    return small_checkpoint_module.cached_small_checkpoint(host_root, ROOT / ".dev" / "cache", pruned=True)


@pytest.fixture(scope="session")
def vision_models():
    """A models folder with small Florence-2 and SAM2 models, made once and kept in `.dev/cache`: copy before changing."""
    return small_vision.cached_small_vision(ROOT / ".dev" / "cache")


@pytest.fixture(scope="session")
def small_encoders():
    """A models folder with small CLIP, DINO and DINOv2 models, made once and kept in `.dev/cache`: copy before changing."""
    return small_encoders_module.cached_small_encoders(ROOT / ".dev" / "cache")


@pytest.fixture(scope="session")
def taught_models():
    """A models folder with a small SAM2 that has learnt what a box means, taught once and kept in `.dev/cache`."""
    return taught_sam2.cached_taught_sam2(ROOT / ".dev" / "cache")
