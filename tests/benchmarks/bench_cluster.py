"""What scripts/cluster.py costs: images per second over two servers, against the same two fed by hand; `dev.py bench cluster`.

Two real servers with the toy world's models, a thread each, and a floor's images in shards. By hand: each server gets every
other shard, one after the other, and nothing is sent or fetched. Both sides run in turn. The engine's start (Ray) is left out
of the ratio and printed beside it: it does not grow with the work. Goal: at least 0.9.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
GOAL = 0.9


def graph(arguments: argparse.Namespace) -> dict:
    """A graph of its own for each call, so that no side continues what another has made."""
    from graphs import add_toy_evaluation

    from comfy_client import Graph

    found = Graph()
    sizes = {"width": 64, "height": 64, "steps": arguments.steps, "batch_size": 5, "shard": 1, "shards": 1}
    limits = {"max_photos": arguments.photos, "max_captions": 4, "images_per_caption": 5}
    own = {"name": f"bench-{time.time_ns()}", "seed": time.time_ns() % 2**40, "include_floor": True}
    loader = found.add("TestToyWorld")
    add_toy_evaluation(found, loader, "monster-1", **own, **sizes, **limits)
    return found.prompt


def by_hand(servers: list, prompt: dict, shards: int) -> float:
    """Seconds of two threads that give each server its shards."""
    from comfy_client import ComfyClient

    def feed(first: int) -> None:
        client = ComfyClient(servers[first].url)
        for shard in range(1 + first, shards + 1, len(servers)):
            mine = json.loads(json.dumps(prompt))
            options = next(node for node in mine.values() if node["class_type"] == "AttractorPDSTEvaluateOptions")
            options["inputs"].update(shard=shard, shards=shards)
            client.run(mine, timeout=3600)

    began = time.monotonic()
    with ThreadPoolExecutor(len(servers)) as threads:
        list(threads.map(feed, range(len(servers))))
    return time.monotonic() - began


def by_engine(servers: list, prompt: dict, shards: int, files: Path) -> tuple[float, float]:
    """Seconds of its work, and of all."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "graph.json").write_text(json.dumps(prompt))
        command = [os.environ["CLUSTER_PYTHON"], ROOT / "scripts" / "cluster.py", "evaluate", f"{folder}/graph.json"]
        command += ["--servers", *(server.url for server in servers), "--files", files, "--shards", shards]
        began = time.monotonic()
        done = subprocess.run([*map(str, command), "--results", f"{folder}/results"], capture_output=True, text=True)
        seconds = time.monotonic() - began
    found = re.search(r"Whole, in ([0-9.]+) s", done.stdout)
    if not found:
        raise SystemExit(f"cluster.py failed:\n{done.stdout}\n{done.stderr}")
    return float(found[1]), seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each side, after one to warm up")
    parser.add_argument("--photos", type=int, default=4, help="20 images each")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shards", type=int, default=8)
    arguments = parser.parse_args()

    from comfy_server import ComfyServer
    from toy_world import judges, toy_subjects

    base, host = ROOT / ".dev" / "bench-cluster", os.environ["COMFYUI_PATH"]
    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}
    judges.write_encoders(base / "models" / "evaluation", host)
    toy_subjects.write_subject(toy_subjects.toy_subject(0), base / "models" / "pdst" / toy_subjects.DATASET)
    servers = []
    try:
        for number in (1, 2):
            own = base / f"server-{number}"
            places = [word for part in ("input", "output", "temp") for word in (f"--{part}-directory", str(own / part))]
            servers.append(ComfyServer(host, base, packs, options=["--cpu", *places], env={"OMP_NUM_THREADS": "1"}).start())
        return compare(servers, base, arguments)
    finally:
        for server in servers:
            server.stop()


def compare(servers: list, base: Path, arguments: argparse.Namespace) -> int:
    """Both sides in turn; prints images per second and the ratio; 1 where it is below the goal."""
    images, hand, work, whole, alone = arguments.photos * 20, [], [], [], []
    for turn in range(arguments.repeats + 1):
        seconds = by_hand(servers, graph(arguments), arguments.shards)
        own, everything = by_engine(servers, graph(arguments), arguments.shards, base)
        one, _ = by_engine(servers[:1], graph(arguments), arguments.shards, base)
        words = f"by hand {seconds:.1f} s, engine {own:.1f} s ({everything:.1f} s in all), one server {one:.1f} s"
        print(f"turn {turn}: {words}", flush=True)
        if turn:
            hand.append(seconds), work.append(own), whole.append(everything), alone.append(one)
    ratio = statistics.median(by / own for by, own in zip(hand, work, strict=True))
    by, own = images / statistics.median(hand), images / statistics.median(work)
    start = statistics.median(b - a for a, b in zip(work, whole, strict=True))
    print(f"{images} images in {arguments.shards} shards: by hand {by:.2f} images/s, engine {own:.2f} images/s")
    print(f"two servers against one: {statistics.median(a / b for a, b in zip(alone, work, strict=True)):.2f} times as fast")
    print(f"ratio {ratio:.3f} (goal {GOAL}); the engine's start and end take {start:.1f} s")
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
