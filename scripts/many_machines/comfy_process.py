"""A ComfyUI server in a process of its own, that ends when the process that started it does."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from .comfy_http import ComfyServer
from .outcomes import Lost, Unfit

START = 1800.0  # seconds; on a machine that is busy elsewhere the imports alone take minutes
# Linux kills the server when the thread that started it ends, however that comes: prctl(PR_SET_PDEATHSIG, SIGKILL) outlasts
# exec. Where that thread was gone before, the server's parent is another process already.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:]) if os.getppid() == {parent} else sys.exit()
"""


class OwnServer:
    """ComfyUI from a folder, on a free port of 127.0.0.1.

    comfyui: its root. python: that runs it; None: that of its venv, or else the one that runs this. folder: for input, output,
    temp and user files, and its log. options: further ones.
    """

    def __init__(self, comfyui: str, python: str | None, folder: Path, options: list[str]):
        self._main, self._folder, self._options = Path(comfyui).expanduser() / "main.py", folder, options
        self._python = python or _python_of(self._main.parent)
        self._process: subprocess.Popen | None = None
        self._trouble = ""  # why there is no process
        self.url = ""

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, stopped: threading.Event) -> None:
        """Start it and wait until it answers.

        Raises:
            Unfit: there is no ComfyUI. Lost: it ended, or does not answer; the message has the end of its log.
        """
        if not self._main.is_file():
            raise Unfit(f"there is no ComfyUI at {self._main.parent}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        started = threading.Event()
        threading.Thread(target=self._run, args=(port, started), daemon=True).start()
        started.wait(60)
        server, deadline = ComfyServer(self.url, 5), time.monotonic() + START
        while time.monotonic() < deadline and not stopped.is_set():
            if not self.alive():
                raise Lost(self._trouble or f"its server ended at once: {self._log_end()}")
            try:
                server.check()
                return
            except Lost:
                time.sleep(0.3)
        self.kill()
        raise Lost(f"its server does not answer: {self._log_end()}")

    def _run(self, port: int, started: threading.Event) -> None:
        """Start it and stay until it has ended: Linux ends it with this thread."""
        parts = {name: self._folder / name for name in ("input", "output", "temp", "user")}
        for folder in parts.values():
            folder.mkdir(parents=True, exist_ok=True)
        places = [word for name, folder in parts.items() for word in (f"--{name}-directory", str(folder))]
        command = [self._python, str(self._main), *places, "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
        command += [*self._options, "--listen", "127.0.0.1", "--port", str(port)]
        if sys.platform == "linux":
            command = [self._python, "-c", _TIED.format(parent=os.getpid()), *command]
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONIOENCODING": "utf-8", **os.environ}
        pipes = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        try:
            with open(self._folder / "server.log", "ab") as log:
                self._process = subprocess.Popen(command, stdout=log, cwd=self._folder, env=environment, **pipes)
        except OSError as error:
            self._trouble = f"its server cannot be started: {error}"
        started.set()
        if self._process is not None:
            self._process.wait()

    def kill(self) -> None:
        if self.alive():
            self._process.kill()
            self._process.wait()

    def _log_end(self) -> str:
        lines = (self._folder / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "its log is empty"


def _python_of(comfyui: Path) -> str:
    places = [comfyui / env / python for env in ("venv", ".venv") for python in ("bin/python", "Scripts/python.exe")]
    places.append(comfyui.parent / "python_embeded" / "python.exe")
    return str(next((path for path in places if path.exists()), sys.executable))
