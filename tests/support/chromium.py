"""A page in headless Chromium, driven over its debugging pipe: no driver to install, no port to open."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find():
    """The browser's path: ATTRACTOR_CHROMIUM, or the first of `NAMES` on the PATH; None if there is none."""
    given = os.environ.get("ATTRACTOR_CHROMIUM")
    return given if given and Path(given).exists() else next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one page. `complaints` are console messages of warnings and errors, exceptions and failed requests;
    `requests` the addresses that were asked for."""

    def __init__(self, path, profile):
        down, self._to = os.pipe()  # it reads 3, writes 4
        self._from, up = os.pipe()
        start = f'exec 3<&{down} 4>&{up}; exec "$@"'
        command = [
            "bash",
            "-c",
            start,
            "bash",
            path,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(command, pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(down)
        os.close(up)
        self._buffer, self._number, self._events, self.complaints, self.requests = b"", 0, [], [], []
        targets = self._call("Target.getTargets", session=None)["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self._call("Target.attachToTarget", {"targetId": page, "flatten": True}, session=None)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._to)
        os.close(self._from)

    def open(self, address, width, height=900, dark=False, media=""):
        """Load a page, and wait until its pictures are decoded. media: such as `print`, for the rules of that medium."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"media": media, "features": scheme})
        self._events.clear()
        self._call("Page.navigate", {"url": address})
        while "Page.loadEventFired" not in self._events:
            self._receive(30)
        self.run("Promise.all([...document.images].map(image => image.decode().catch(() => 0)))")

    def run(self, script):
        """The value of a JavaScript expression (awaited)."""
        answer = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path):
        """The whole page, from top to end."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self._call("Page.captureScreenshot", {"format": "png", "clip": clip, "captureBeyondViewport": True})
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method, params=None, session=True):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(60)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self, seconds):
        """The next message; events are noted."""
        until = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            assert time.monotonic() < until, "the browser does not answer"
            block = os.read(self._from, 2**20)
            assert block, "the browser has ended"
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event, params):
        self._events.append(event)
        if event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif event == "Network.loadingFailed":
            self.complaints.append(params["errorText"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
