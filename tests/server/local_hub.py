"""A Hugging Face hub on this machine: one model repository out of a folder, over the protocol that huggingface_hub speaks."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves `folder` as `repository`. `requests` are those so far, as (method, path, Range header).

    break_after: of any one file so many bytes are sent, then every connection is cut; None: all goes well.
    """

    def __init__(self, repository, folder):
        self.repository = repository
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.requests = []
        self.break_after = None
        self.broken = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def mend(self):
        self.break_after, self.broken = None, False

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
                if path in (f"/api/models/{hub.repository}", f"/api/models/{hub.repository}/revision/{REVISION}"):
                    siblings = [{"rfilename": name, "size": len(content)} for name, content in hub.files.items()]
                    info = {"id": hub.repository, "modelId": hub.repository, "sha": REVISION, "siblings": siblings}
                    self._send(json.dumps({**info, "private": False, "tags": [], "downloads": 0, "likes": 0}).encode(), body)
                elif path == f"/api/models/{hub.repository}/tree/{REVISION}":
                    tree = [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                            for name, content in hub.files.items()]
                    self._send(json.dumps(tree).encode(), body)
                elif path == f"/{hub.repository}/resolve/{REVISION}/{name}" and name in hub.files:
                    content = hub.files[name]
                    etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": REVISION}
                    start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
                    self._send(content, body, start, etag)
                else:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def _send(self, content, body, start=0, headers=()):
                rest = content[start:]
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                for key, value in {"Content-Length": str(len(rest)), "Accept-Ranges": "bytes", **dict(headers)}.items():
                    self.send_header(key, value)
                self.end_headers()
                if not body:
                    return
                if hub.break_after is not None and len(rest) > hub.break_after:
                    self.wfile.write(rest[: hub.break_after])
                    self.wfile.flush()
                    hub.broken = self.close_connection = True
                else:
                    self.wfile.write(rest)

            def log_message(self, *arguments):
                pass

        return Handler
