"""What the pack costs ComfyUI's start, and which of its parts may know the host."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 0.3  # seconds of CPU time, so that a busy machine does not count
HEAVY = ("transformers", "matplotlib", "sam2", "huggingface_hub", "scipy", "diffusers")

START = """
import asyncio, importlib.util, json, os, sys, time
root, host = sys.argv[1:]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
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
print(json.dumps({"seconds": seconds, "nodes": len(found), "new": sorted(set(sys.modules) - before)}))
"""


def start(host_root, base):
    command = [sys.executable, "-c", START, str(ROOT), str(host_root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base, env={**os.environ, "HOME": str(base)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_pack_is_imported_in_a_moment_and_brings_nothing_heavy(host_root, tmp_path):
    starts = [start(host_root, tmp_path) for _ in range(2)]
    assert starts[0]["nodes"] >= 4
    brought = {name.split(".")[0] for name in starts[0]["new"]}
    assert not brought & set(HEAVY)
    assert min(run["seconds"] for run in starts) < BUDGET


def imported(path):
    """Top-level names of what a module imports, at its top or inside functions; `..name` from outside its package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("trainer"), ids=lambda path: path.name)
def test_the_trainer_knows_nothing_of_the_host(path):
    assert imported(path) <= {"torch", "safetensors", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", [p for p in modules("nodes") if p.parent.name != "host"], ids=lambda path: path.name)
def test_only_the_adapter_touches_the_hosts_internals(path):
    # comfy_api is the host's public interface for nodes
    assert not imported(path) & {"comfy", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution", "nodes"}
