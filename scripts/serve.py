"""Start ComfyUI with the pack, the tests' nodes and a small checkpoint; `dev.py serve` runs this.

    COMFYUI_PATH=<ComfyUI> python scripts/serve.py [--port 8188] [options of ComfyUI]

The checkpoint has random weights. It is there under its own name and under the one that the example workflows ask for, so that
they run, and their pictures are noise. What has really learnt something is the toy world: its model in the node "Toy world
SD1.5 (test)", CLIP and DINO as evaluation/toy-clip and evaluation/toy-dino, the data set pdst/toy, and in the input folder
cut-outs of each subject's training photos. The workflow toy_train_textual_inversion (at the left) is the first example
workflow on that model: it runs as it is, in minutes on a CPU, to a result.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]

SUBJECTS = 4  # of the toy world


def main():
    import torch

    from comfy_server import ComfyServer, link
    from example_workflows import SD15
    from small_checkpoint import cached_small_checkpoint
    from toy_world import judges, toy_subjects

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8188)
    arguments, options = parser.parse_known_args()
    host, base = os.environ["COMFYUI_PATH"], ROOT / ".dev" / "serve"
    judges.write_encoders(base / "models" / "evaluation", host)
    for index in range(SUBJECTS):
        folder = base / "models" / "pdst" / toy_subjects.DATASET
        toy_subjects.write_subject(toy_subjects.toy_subject(index), folder, base / "input")
    if not torch.accelerator.is_available():
        options.append("--cpu")
    checkpoint = cached_small_checkpoint(host, ROOT / ".dev" / "cache")
    server = ComfyServer(
        host,
        base,
        packs={"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"},
        checkpoints=[checkpoint],
        port=arguments.port,
        options=options,
    )
    command, environment = server.prepare()
    link(checkpoint, server.base / "models" / "checkpoints" / SD15)
    workflows = server.base / "user" / "default" / "workflows"
    workflows.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / "toy_world" / "toy_train_textual_inversion.json", workflows)
    try:
        return subprocess.call(command, env=environment, cwd=server.base)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
