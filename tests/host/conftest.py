"""ComfyUI inside the test process, without its server.

The host reads its options at import, so they are set here, before any test module is imported.
"""

import asyncio
import os
import shutil
import sys
import tempfile

import pytest

_BASE = tempfile.mkdtemp(prefix="attractor-host-")

if os.environ.get("COMFYUI_PATH"):
    sys.path.insert(0, os.path.realpath(os.environ["COMFYUI_PATH"]))
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = _BASE  # never the models and outputs of the user's own ComfyUI

    # As main.py does: the host's nodes.py puts comfy/ first on sys.path, and comfy/utils.py would hide this package.
    import utils.extra_config  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def host_base(host_root):
    """The host's base directory for in-process tests: models/, input/, output/ live here."""
    yield _BASE
    shutil.rmtree(_BASE, ignore_errors=True)


@pytest.fixture(scope="session")
def schemas():
    """Every node's schema."""
    import attractor

    extension = asyncio.run(attractor.comfy_entrypoint())
    asyncio.run(extension.on_load())  # registers the folders that lists are made of
    return [node.define_schema() for node in asyncio.run(extension.get_node_list())]


# The host runs nodes under inference_mode, so these hold inference tensors, as models have in a real graph.
# They are shared by all tests: clone before changing anything.


@pytest.fixture(scope="session")
def tiny_model():
    import torch

    from test_nodes import tiny_sd15

    with torch.inference_mode():
        return tiny_sd15.tiny_model()


@pytest.fixture(scope="session")
def tiny_clip():
    import torch

    from test_nodes import tiny_sd15

    with torch.inference_mode():
        return tiny_sd15.tiny_clip()


@pytest.fixture(scope="session")
def tiny_vae():
    import torch

    from test_nodes import tiny_sd15

    with torch.inference_mode():
        return tiny_sd15.tiny_vae()
