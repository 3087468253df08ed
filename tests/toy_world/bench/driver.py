"""Carries out runs on servers of their own, several at once; stops cleanly, and goes on where it was stopped."""

import json
import queue
import shutil
import threading
import time
from pathlib import Path

from comfy_client import ComfyClient
from comfy_server import ComfyServer, link

from ..judges import Judge, load_judge
from .runs import Run, carry_out, result_path, write_world

_ROOT = Path(__file__).resolve().parents[3]


def carry_out_all(host: str, folder: Path, wanted: list[Run], workers: int) -> None:
    """Every run that has no result yet.

    Raises:
        Exception: what the first failed run raised; the others' results are kept.
    """
    left = [run for run in wanted if not result_path(folder, run).exists()]
    print(f"{len(wanted) - len(left)} of {len(wanted)} runs are there, in {folder}", flush=True)
    if not left:
        return
    write_world(folder, list({run.toy.name: run.toy for run in wanted}.values()), host)
    pool = _Pool(host, folder, left)
    pool.work(min(workers, len(left)))


def make_server(host: str, folder: Path, number: int) -> ComfyServer:
    """A server of one thread, with models, input and output of `folder`, which several servers share."""
    base = folder / f"server-{number}"
    for shared in ("models", "input"):
        (folder / shared).mkdir(parents=True, exist_ok=True)
        link(folder / shared, base / shared)
    packs = {"attractor": _ROOT, "attractor_test_nodes": _ROOT / "tests" / "support" / "test_nodes"}
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return ComfyServer(host, base, packs, options=["--cpu", "--output-directory", str(folder / "output")], env=environment)


class _Pool:
    """Threads that each drive a server."""

    def __init__(self, host: str, folder: Path, left: list[Run]):
        self._host, self._folder, self._judge = host, folder, load_judge()
        self._runs: queue.SimpleQueue = queue.SimpleQueue()
        for run in left:
            self._runs.put(run)
        self._total, self._done, self._started = len(left), 0, time.monotonic()
        self._servers: list[ComfyServer] = []
        self._failures: list[BaseException] = []
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def work(self, workers: int) -> None:
        self._servers = [make_server(self._host, self._folder, number) for number in range(workers)]
        threads = [threading.Thread(target=self._serve, args=(server,), daemon=True) for server in self._servers]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a plain join would not see Ctrl-C
                    thread.join(0.5)
        finally:
            self._stopped.set()
            for server in self._servers:
                server.kill()
        if self._failures:
            raise self._failures[0]

    def _serve(self, server: ComfyServer) -> None:
        try:
            server.start()
            comfy = ComfyClient(server.url)
            while not self._stopped.is_set():
                try:
                    run = self._runs.get_nowait()
                except queue.Empty:
                    return
                result = carry_out(run, comfy, self._folder, self._judge)
                with self._lock:
                    self._done += 1
                    print(self._progress(run, result), flush=True)
        except BaseException as error:
            if not self._stopped.is_set():
                self._failures.append(error)
                self._stopped.set()

    def _progress(self, run: Run, result: dict) -> str:
        images = result["entries"][-1]["images"]
        names = ("clip_t", "clip_i", "dino", "subject", "leak", "scene")
        means = ", ".join(f"{name} {sum(image['values'][name] for image in images) / len(images):.2f}" for name in names)
        minutes = (time.monotonic() - self._started) / self._done * (self._total - self._done) / 60
        return (
            f"[{self._done} of {self._total}] {run}: {result['seconds']['all']:.0f} s; {means}; about "
            f"{int(minutes // 60)}:{int(minutes % 60):02d} h left"
        )


def figures(result: dict) -> str:
    """What must be the same when a run is carried out again."""
    return json.dumps(
        {name: result[name] for name in ("configuration", "subject", "seed", "inputs", "plan", "entries", "alone")},
        sort_keys=True,
    )


def check_repeat(host: str, base: Path, run: Run, judge: Judge | None = None) -> int:
    """Carry out a run twice, each time on a server of its own; 1 where figures differ."""
    found, judge = [], judge or load_judge()
    for name in ("first", "second"):
        folder = base / name
        shutil.rmtree(folder, ignore_errors=True)
        write_world(folder, [run.toy], host)
        with make_server(host, folder, 0) as server:
            found.append(figures(carry_out(run, ComfyClient(server.url), folder, judge)))
    same = found[0] == found[1]
    print(f"{run}: {'the same figures twice' if same else 'the figures DIFFER; see ' + str(base)}")
    return int(not same)
