"""Start ComfyUI with the pack, the tests' nodes and a small checkpoint; `dev.py serve` runs this.

    COMFYUI_PATH=<ComfyUI> python scripts/serve.py [--port 8188] [options of ComfyUI]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "server")]


def main():
    import torch

    from comfy_server import ComfyServer
    from small_checkpoint import cached_small_checkpoint

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8188)
    arguments, options = parser.parse_known_args()
    host = os.environ["COMFYUI_PATH"]
    if not torch.accelerator.is_available():
        options.append("--cpu")
    server = ComfyServer(
        host,
        base=ROOT / ".dev" / "serve",
        packs={"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "test_nodes"},
        checkpoints=[cached_small_checkpoint(host, ROOT / ".dev" / "cache")],
        port=arguments.port,
        options=options,
    )
    command, environment = server.prepare()
    try:
        return subprocess.call(command, env=environment, cwd=server.base)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
