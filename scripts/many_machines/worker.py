"""The Ray actor: it owns one ComfyUI server, does one job at a time on it, and tells how it goes as a stream of plain data.

Every item of the stream is a dictionary with `kind`:
    doing    text: what it is at
    made     images (or steps) so far, headers of the results files so far
    file     name below the job's folder, data; the results files come last
    end      how: done, or `lost`, `hung`, `unfit`, `error`; why
No exception of ours leaves the actor: one that does is Ray's, and means that actor or machine are gone.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .comfy_http import ComfyServer, Silent
from .comfy_process import OwnServer
from .graph_files import TOKEN_LOADER
from .jobs import Job
from .outcomes import Hung, Lost, NodeError, Unfit

POLL = 0.25  # seconds between looks at a running job; the first of them: short jobs end soon
TELL = 1.0  # seconds between two reports
FETCH = 120.0  # seconds for a data set to come from another machine
HOWS = {Lost: "lost", Hung: "hung", Unfit: "unfit", NodeError: "error"}


class Worker:
    """Does jobs on a server that runs at a URL, or on one that it starts with the first job.

    number: of the worker. url: of the running server, or None. own: comfyui, python, options and folder of the server to start.
    limit: seconds without a new image or step after which a server counts as lost.
    """

    def __init__(self, number: int, url: str | None, own: dict | None, limit: float):
        self._url, self._limit, self._stopped = url, limit, threading.Event()
        self._own = None
        if own is not None:
            folder = Path(own["folder"]).expanduser() / f"{socket.gethostname()}-{number}"
            self._own = OwnServer(own["comfyui"], own["python"], folder, own["options"])

    def hello(self) -> dict:
        """Where it is."""
        return {"host": socket.gethostname(), "pid": os.getpid()}

    def stop(self) -> None:
        """End the running job: its server cancels it."""
        self._stopped.set()

    def close(self) -> None:
        """End its server, if it is its own: not every system does that when the actor ends."""
        if self._own is not None:
            self._own.kill()

    def work(self, job: Job, contents: dict) -> Iterator[dict]:
        """Do a job. contents: folder of each bundle -> reference to its files in Ray's object store."""
        self._stopped.clear()
        try:
            server = yield from self._server()
            graph = yield from self._bring(server, job, contents)
            yield from self._run(server, job, graph)
            yield from self._collect(server, job)
            yield {"kind": "end", "how": "done", "why": ""}
        except (Lost, Unfit, NodeError) as error:
            yield {"kind": "end", "how": HOWS.get(type(error), "lost"), "why": str(error)}
        except Exception as error:  # whatever a server answers that nobody thought of is that server's trouble alone
            yield {"kind": "end", "how": "hung", "why": f"{type(error).__name__}: {error}"}

    def _server(self) -> Iterator[dict]:
        """The server, started if it is ours and not running."""
        if self._own is not None and not self._own.alive():
            yield {"kind": "doing", "text": "starting ComfyUI"}
            self._own.start(self._stopped)
        server = ComfyServer(self._own.url if self._own else self._url)
        self._separator = server.check()
        return server

    def _bring(self, server: ComfyServer, job: Job, contents: dict) -> Iterator[dict]:
        """Upload what the graph reads; the graph, with paths as the server's system writes them."""
        import ray

        for bundle in job.bundles:
            yield {"kind": "doing", "text": "sending files"}
            try:
                files = ray.get(contents[bundle.folder], timeout=FETCH)
            except ray.exceptions.RayError as error:  # the machine that had them is gone; the driver sends them anew
                raise Lost(f"the files to send did not come ({type(error).__name__})") from error
            for name, data in files.items():
                server.upload(bundle.place, f"{bundle.folder}/{name}", data)
        if self._separator == "/":
            return job.graph
        graph = json.loads(json.dumps(job.graph))
        # A token's name is compared with the server's list, in which folders are parted its own way.
        for node in graph.values():
            file = node["inputs"].get("file")
            if node["class_type"] == TOKEN_LOADER and isinstance(file, str):
                node["inputs"]["file"] = file.replace("/", self._separator)
        return graph

    def _run(self, server: ComfyServer, job: Job, graph: dict) -> Iterator[dict]:
        """Queue the graph and wait for its end; a job that stands still for too long is cancelled."""
        prompt = server.queue(graph)
        life, told, before = time.monotonic(), 0.0, None
        while True:
            time.sleep(POLL)
            try:
                if server.ended(prompt):
                    return
                if self._stopped.is_set():
                    raise Lost("stopped")
                now = time.monotonic()
                if now - told >= TELL:
                    told, running = now, server.waiting(prompt)
                    if not running and not server.ended(prompt):
                        raise Lost("it was started again, and the job is gone")
                    state = self._state(server, job)
                    if (running, state["images"]) != before:
                        before, life = (running, state["images"]), now
                    yield state
            except Silent as silent:
                if self._own is not None and not self._own.alive():
                    raise Lost("its server has ended") from silent
            except Lost:
                self._cancel(server, prompt)
                raise
            if time.monotonic() - life > self._limit:
                self._cancel(server, prompt)
                raise Hung(f"nothing new from it for {self._limit:.0f} s")

    def _cancel(self, server: ComfyServer, prompt: str) -> None:
        try:
            server.stop(prompt)
        except Lost:
            pass  # it is gone anyway
        if self._own is not None and not self._stopped.is_set():
            self._own.kill()  # whatever it hangs in; the next job starts it again

    def _state(self, server: ComfyServer, job: Job) -> dict:
        if job.kind == "train":
            return {"kind": "made", "images": server.steps_done(job.name), "headers": []}
        found = _of_shard(server.evaluation(job.name), job)
        return {"kind": "made", "images": sum(one["images"] for one in found), "headers": [one["header"] for one in found]}

    def _collect(self, server: ComfyServer, job: Job) -> Iterator[dict]:
        """The files that a job has left, results files last: where one of those is, all that it names is there too."""
        yield {"kind": "doing", "text": "fetching files"}
        if job.kind == "train":
            for name in job.wanted:
                data = server.fetch(f"neti/{job.name}/{name}")
                if data is not None:
                    yield {"kind": "file", "name": name, "data": data}
            return
        root, results, names = f"pdst/{job.name}", {}, {}
        for one in _of_shard(server.evaluation(job.name), job):
            data = results[one["file"]] = server.fetch(f"{root}/{one['file']}")
            if data is None:
                raise Lost(f"{one['file']} was deleted there")
            header, *records = map(json.loads, data.splitlines())
            for subject in header["subjects"].values():
                names |= dict.fromkeys(subject.get("references", []))
            names |= dict.fromkeys(record["image"] for record in records if record["image"])
        yield {"kind": "made", "images": sum(data.count(b"\n") - 1 for data in results.values()), "headers": []}
        for name in names:
            data = server.fetch(f"{root}/{name}")
            if data is None:
                raise Lost(f"{name} was deleted there")
            yield {"kind": "file", "name": name, "data": data}
        for name, data in results.items():
            yield {"kind": "file", "name": name, "data": data}


def _of_shard(results: list[dict], job: Job) -> list[dict]:
    """Those of the results files that belong to the job's shard."""
    return [one for one in results if one["header"]["shard"] == [job.shard, job.shards]]
