"""A real ComfyUI server in a process of its own, with its own base directory."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

# The host logs these with the pack's folder and goes on without the pack.
IMPORT_FAILURES = ("IMPORT FAILED", "Cannot import", "Error while calling comfy_entrypoint")


class ServerFailed(RuntimeError):
    """The server did not start, or started without a pack. The message holds the end of its log."""


def link(source, target):
    """Make `target` the same file or folder as `source`, by whatever link the system allows."""
    source, target = Path(source).resolve(), Path(target)
    if target.exists():
        return
    target.unlink(missing_ok=True)  # a link to what was moved away
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:  # Windows lets only some users make symbolic links
        if source.is_dir():
            import _winapi

            _winapi.CreateJunction(str(source), str(target))
        else:
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """ComfyUI from `host_root`, serving `base`.

    `packs` maps names in custom_nodes to folders; no other pack is loaded. `checkpoints` are files that
    appear in models/checkpoints under their own names. `options` are further command-line options.
    """

    def __init__(self, host_root, base, packs, checkpoints=(), port=None, options=("--cpu",), env=None):
        self.host_root = Path(host_root).resolve()
        self.base = Path(base).resolve()
        self.packs = {name: Path(path) for name, path in packs.items()}
        self.checkpoints = [Path(path) for path in checkpoints]
        self.port = port or free_port()
        self.options = list(options)
        self.env = env or {}
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self):
        return self.base / "output"

    @property
    def input(self):
        return self.base / "input"

    @property
    def log_path(self):
        return self.base / "server.log"

    def log_text(self):
        """Everything the server has logged, over all its starts."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def prepare(self):
        """Lay out the base directory; returns the command and the environment that start the server."""
        for folder in ("custom_nodes", "input", "output", "models/checkpoints"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name, path in self.packs.items():
            link(path, self.base / "custom_nodes" / name)
        for old in (self.base / "models" / "checkpoints").iterdir():
            if not old.exists():  # leads to a checkpoint that was made anew under another name
                old.unlink()
        for path in self.checkpoints:
            link(path, self.base / "models" / "checkpoints" / path.name)
        command = [
            sys.executable,
            "-u",
            str(self.host_root / "main.py"),
            *self.options,
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--base-directory",
            str(self.base),
            "--disable-all-custom-nodes",
            "--whitelist-custom-nodes",
            *self.packs,
            "--disable-api-nodes",
            "--disable-auto-launch",
            "--database-url",
            "sqlite:///:memory:",
        ]
        # Idle threads that spin starve the other processes of a machine with few cores.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONIOENCODING": "utf-8", **os.environ, **self.env}
        return command, environment

    def start(self, timeout=180):
        """Start, wait until it answers, and make sure that every pack was loaded."""
        command, environment = self.prepare()
        logged_before = len(self.log_text())
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.base,
                env=environment,
                start_new_session=True,  # its own process group, so that kill() takes its children too
            )
        try:
            self._wait_until_ready(time.monotonic() + timeout)
            self._check_that_packs_were_loaded(self.log_text()[logged_before:])
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_ready(self, deadline):
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                code = self.process.returncode
                raise ServerFailed(f"ComfyUI ended with code {code}:\n{self.log_text()[-6000:]}")
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5) as answer:
                    json.load(answer)
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise ServerFailed(f"ComfyUI does not answer:\n{self.log_text()[-6000:]}")

    def _check_that_packs_were_loaded(self, log):
        packs = str(self.base / "custom_nodes")
        for line in log.splitlines():
            # Some of the host's own nodes may fail to import too; they are not ours to judge.
            if packs in line and any(text in line for text in IMPORT_FAILURES):
                raise ServerFailed(f"a pack was not loaded: {line}\n{log[-6000:]}")

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout=20):
        """End the server, politely first."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self):
        """End the server at once, as a crash would."""
        if self.process is None:
            return
        if os.name == "nt":
            tree = ["taskkill", "/F", "/T", "/PID", str(self.process.pid)]
            subprocess.run(tree, capture_output=True, check=False)
        else:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process = None

    def restart(self):
        """Stop and start again: same base directory, same address."""
        self.stop()
        return self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        self.stop()
