"""scripts/cluster.py in a process, on servers that it starts itself or on given ones; and what it and its servers have made."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("CLUSTER_PYTHON", "")  # of an environment with Ray; dev.py makes it
SECONDS = ("seconds_sampling", "seconds_other")


class ClusterRun:
    """One start of cluster.py. files: the ComfyUI folder with what the graph names. folder: for results, logs and servers."""

    def __init__(self, files, folder, file, *options, host=None, packs=(), command="evaluate", env=None):
        """host: the ComfyUI that servers are started from, with these packs of `files`; None: `options` name servers."""
        self.results, self.work, self.log = folder / "results", folder / "work", folder / "cluster.log"
        words = [PYTHON, str(ROOT / "scripts" / "cluster.py"), command, str(file), "--files", str(files), *options]
        words += ["--results", str(self.results), "--work", str(self.work)]
        if host is not None:
            words += ["--comfyui", str(host), "--python", sys.executable, "--", "--cpu", "--base-directory", str(files)]
            words += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs, "--disable-api-nodes"]
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160", **(env or {})}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def wait(self, timeout=300):
        """Its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not done within {timeout} s:\n{self.said}") from None

    def wait_for(self, ready, timeout=240):
        """Wait until `ready()` is true; its value."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := ready():
                return found
            assert self.process.poll() is None, self.said
            time.sleep(0.02)
        raise AssertionError(f"waited for {timeout} s:\n{self.said}")

    def servers(self):
        """Processes of the servers that it has started, by the number of the worker."""
        return servers_below(self.work)

    def images_on(self, worker):
        """Images that a worker's server has made so far, of all shards."""
        files = self.work.glob(f"*-{worker}/output/pdst/cluster/*/*.jsonl")
        return sum(file.read_bytes().count(b"\n") - 1 for file in files)

    def end(self):
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.terminate()
            self.wait(60)


def servers_below(work):
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        places = [word for word in words if word.startswith(str(work)) and word.endswith("output")]
        if places and any(word.endswith("main.py") for word in words) and process.status() != psutil.STATUS_ZOMBIE:
            found[int(Path(places[0]).parent.name.rpartition("-")[2])] = process
    return found


def rows(folder):
    """Rows of the merged results without what took how long, by entry and number; and the pictures that they name."""
    found, pictures = {}, {}
    for path in folder.glob("*.jsonl"):
        header, *records = map(json.loads, path.read_text().splitlines())
        for record in records:
            key = header["entry"], record["number"]
            assert key not in found, f"{key} is there twice"
            found[key] = {name: value for name, value in record.items() if name not in SECONDS}
            pictures[record["image"]] = (folder / record["image"]).read_bytes()
    return dict(sorted(found.items())), pictures
