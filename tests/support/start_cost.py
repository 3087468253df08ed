"""What ComfyUI's start costs, by itself and with the pack, in a process of its own."""

import json
import os
import subprocess
import sys

from source_files import ROOT

_START = """
import asyncio, importlib.util, json, os, sys, time
root, host = sys.argv[1:]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
args.base_directory = os.getcwd()  # never the models and outputs of the user's own ComfyUI
import utils.extra_config
import nodes, server, comfy_api.latest, comfy.sd, comfy.sample
before, started = set(sys.modules), time.process_time()
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
asyncio.run(extension.on_load())
found = asyncio.run(extension.get_node_list())
seconds = time.process_time() - started
print(json.dumps({"host": started, "seconds": seconds, "nodes": len(found), "new": sorted(set(sys.modules) - before)}))
"""


def start(host_root, base):
    """CPU seconds of the `host` alone and of the pack, the number of its nodes, and the modules that are new with it.

    base: a folder to start in; from the second start there on, as users have it, nothing is compiled.
    """
    env = {**os.environ, "HOME": str(base), "PYTHONPYCACHEPREFIX": str(base / "pycache")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _START, str(ROOT), str(host_root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
