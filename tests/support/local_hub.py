"""A Hugging Face hub on this machine: one model repository out of a folder, over the protocol that huggingface_hub speaks."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves `folder` as `repository`. `requests` are those so far, as (method, path, Range header).

    break_after: of any one file so many bytes are sent, then every connection is cut; None: all goes well.
    pause: seconds before every 256 KB of a file. sent: bytes of files so far.
    """

    def __init__(self, repository, folder):
        self.repository = repository
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.requests = []
        self.break_after = None
        self.broken = False
        self.pause = 0.0
        self.sent = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def mend(self):
        self.break_after, self.broken, self.pause = None, False, 0.0

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self._answer(body=False)

            def do_GET(self):
                self._answer(body=True)

            def _answer(self, body):
                path = self.path.partition("?")[0]
                hub.requests.append((self.command, path, self.headers.get("Range")))
                if hub.broken:
                    self.close_connection = True
                    return
                name = path.rpartition("/")[2]
                if path == f"/api/models/{hub.repository}":
                    siblings = [
                        {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
                        for name, content in hub.files.items()
                    ]
                    info = {"id": hub.repository, "modelId": hub.repository, "sha": REVISION, "siblings": siblings}
                    self._send(json.dumps({**info, "private": False, "tags": [], "downloads": 0, "likes": 0}).encode(), body)
                elif path == f"/{hub.repository}/resolve/{REVISION}/{name}" and name in hub.files:
                    self._redirect(f"/cdn/{name}")  # as the hub does with large files
                elif path.startswith("/cdn/"):
                    content = hub.files[name]
                    start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
                    self._send(content, body, start)
                else:
                    self._redirect(None)

            def _redirect(self, target):
                self.send_response(302 if target else 404)
                if target:
                    self.send_header("Location", hub.url + target)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, content, body, start=0):
                rest = content[start:]
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(rest)))
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if not body:
                    return
                cut = hub.break_after is not None and len(rest) > hub.break_after
                try:
                    self._pour(rest[: hub.break_after] if cut else rest)
                except OSError:  # the other side has hung up
                    self.close_connection = True
                if cut:
                    hub.broken = self.close_connection = True

            def _pour(self, content):
                for start in range(0, len(content), 2**18):
                    time.sleep(hub.pause)
                    self.wfile.write(content[start : start + 2**18])
                    hub.sent += len(content[start : start + 2**18])
                self.wfile.flush()

            def log_message(self, *arguments):
                pass

        return Handler
