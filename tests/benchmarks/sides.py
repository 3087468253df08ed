"""What benchmarks share: the host in this process, models of real size, sides interleaved in one run, and their table."""

import argparse
import ctypes
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".dev" / "bench" / "results"


def start_host(cpu: bool = False) -> None:
    """Import the host and make the pack importable as `attractor`. cpu: leave a GPU alone."""
    sys.path[:0] = [os.environ["COMFYUI_PATH"], str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    import torch
    from comfy.cli_args import args

    args.cpu = cpu or not torch.cuda.is_available()
    import utils.extra_config  # noqa: F401  # as main.py does: the host's nodes.py would hide this package

    # The packages alone, without what their __init__ imports: the nodes, which need the server.
    for name, folder in (("attractor", ROOT), ("attractor.nodes", ROOT / "nodes")):
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules[name] = importlib.util.module_from_spec(spec)


def options(description: str) -> argparse.ArgumentParser:
    """Those that every benchmark of sides has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="full", help="of the models")
    parser.add_argument("--repeats", type=int, default=3, help="of each side, after one to warm up")
    parser.add_argument("--cpu", action="store_true", help="on the CPU even where there is a GPU")
    parser.add_argument("--no-peak", action="store_true", help="leave out the peak memory, a process of its own for each side")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one side in a process of its own, for its peak memory
    return parser


def makers(size: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What makes a MODEL and what makes a CLIP of a size, `small` or `full`, with random weights."""
    from test_nodes import full_size, tiny_sd15

    if size == "full":
        return full_size.full_size_model, full_size.full_size_clip
    return tiny_sd15.tiny_model, tiny_sd15.tiny_clip


class Clock:
    """Seconds of a side: CPU seconds of the process on a CPU, so that neighbours count less; wall seconds on a GPU."""

    def __init__(self) -> None:
        import comfy.model_management as mm

        self.cuda = mm.get_torch_device().type == "cuda"
        self.unit = "s" if self.cuda else "CPU s"

    def now(self) -> float:
        if not self.cuda:
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def time(self, side: Callable[[], object]) -> float:
        start = self.now()
        side()
        return self.now() - start

    def matrix_rate(self, dtype: object) -> float:
        """TFLOP per second (CPU second) of a large matrix product in a torch dtype: what this machine can do at best."""
        import torch

        size, times = (8192, 10) if self.cuda else (2048, 4)
        a, b = (torch.randn(size, size, device="cuda" if self.cuda else "cpu", dtype=dtype) for _ in range(2))
        rates = []
        for _ in range(4):
            seconds = self.time(lambda: [a @ b for _ in range(times)])
            rates.append(times * 2 * size**3 / seconds / 1e12)
        return max(rates)


Sides = dict[str, Callable[[], object]]


def measure(name: str, sides: Sides, arguments: argparse.Namespace, floors: dict[str, float] | None = None) -> list[dict]:
    """Run the sides in turn, each `--repeats` times, and each once more in a process of its own for its peak memory.

    A ratio is a side's median by the first side's: where that is ours, above 1 means that ours is faster.
    floors: of a side's name, the TFLOP that its work takes at least.

    Returns:
        a row a side: median, lowest and highest seconds, ratio, peak memory.
    """
    clock = Clock()
    if arguments.only:
        if arguments.only in sides:
            if clock.cuda:
                import torch

                torch.cuda.reset_peak_memory_stats()
            else:
                _give_back()
                Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            sides[arguments.only]()
            print(json.dumps({"peak": _peak(clock)}))
            sys.exit(0)
        return []
    times: dict[str, list[float]] = {side: [] for side in sides}
    failed: dict[str, str] = {}
    for turn in range(arguments.repeats + 1):
        for side, run in sides.items():
            if side not in failed:
                try:
                    seconds = clock.time(run)
                except RuntimeError as error:  # out of memory: this side cannot do it here
                    failed[side] = str(error).splitlines()[0][:80]
                    continue
                if turn:
                    times[side].append(seconds)
            gc.collect()
    first = statistics.median(next(iter(times.values())))
    rows = []
    for side, found in times.items():
        if side in failed:
            rows.append({"what": name, "side": side, f"median {clock.unit}": failed[side]})
            continue
        median = statistics.median(found)
        row = {
            "what": name,
            "side": side,
            f"median {clock.unit}": round(median, 4),
            "lowest": round(min(found), 4),
            "highest": round(max(found), 4),
            "ratio": round(median / first, 3),
            "peak GB": "" if arguments.no_peak else _peak_alone(side),
        }
        if floors and side in floors:
            row["TFLOP/s reached"] = round(floors[side] / median, 3)
        rows.append(row)
        print(row, flush=True)
    return rows


def _peak(clock: Clock) -> float:
    if clock.cuda:
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def _give_back() -> None:
    """What the C library keeps of freed memory goes back to the system, which the other process needs."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _peak_alone(side: str) -> float | str:
    _give_back()
    done = subprocess.run([sys.executable, *sys.argv, "--only", side], capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return round(json.loads(lines[-1])["peak"], 2) if done.returncode == 0 and lines else "failed"


def write(name: str, rows: list[dict], facts: dict) -> None:
    """Results as JSON and as a Markdown table under `.dev/bench/results`; the table is printed too."""
    import torch

    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), **facts}
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    table = "\n".join([f"{key}: {value}" for key, value in facts.items()] + ["", *lines]) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
    (RESULTS / f"{name}.md").write_text(table)
    print(table)
