"""ComfyUI in the test process, as for tests/host: the pages are made by the pack."""

import os
import sys
import tempfile

if os.environ.get("COMFYUI_PATH") and "comfy.cli_args" not in sys.modules:
    sys.path.insert(0, os.path.realpath(os.environ["COMFYUI_PATH"]))
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = tempfile.mkdtemp(prefix="attractor-browser-")

    import utils.extra_config  # noqa: F401
