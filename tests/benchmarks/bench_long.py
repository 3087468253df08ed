"""Do a step's time and the process's memory stay flat in a long training? `dev.py bench long [--steps 2000]`.

Through the real server, NeTI+ on the toy world, with sample images. A short training of the same kind comes before, so that
libraries and models are loaded, and after the long one memory is looked at once more. A step's time is in CPU seconds of
the server where it has no GPU, so that neighbours count less; its memory is what the process holds.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

from sides import ROOT, write

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
PARTS = 4  # of the run, which are compared with each other
_CLOCK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()

    from comfy_client import ComfyClient
    from toy_world.bench.driver import make_server
    from toy_world.bench.grid import Configuration
    from toy_world.bench.runs import Plan, Run, training_graph, write_world
    from toy_world.toy_subjects import toy_subject

    def run(name: str, steps: int) -> Run:
        settings = {"batch_size": arguments.batch, "sample_every": 100, "sample_steps": 12}
        return Run(Configuration(name, settings), toy_subject(0), 0, Plan(steps))

    folder, warm_up, long = ROOT / ".dev" / "bench" / "long", run("warm-up", 100), run("long", arguments.steps)
    shutil.rmtree(folder / "output", ignore_errors=True)  # or the runs would be resumed
    write_world(folder, [long.toy], os.environ["COMFYUI_PATH"])
    with make_server(os.environ["COMFYUI_PATH"], folder, 0) as server:
        comfy, process = ComfyClient(server.url), server.process.pid
        comfy.run(training_graph(warm_up), timeout=3600)
        time.sleep(2)
        before = resident(process), free(comfy)
        prompt, looks = comfy.queue(training_graph(long)), []
        while comfy.history(prompt) is None:
            step = comfy.get(f"/attractor/run?name={long.key}")["step"]
            looks.append((step, cpu_seconds(process), resident(process)))
            time.sleep(0.5)
        comfy.wait(prompt)
        time.sleep(2)
        after = resident(process), free(comfy)
    facts = {
        "batch": arguments.batch,
        "GB held before and after the run": [round(value[0], 3) for value in (before, after)],
        "GB free by the host, before and after": [round(value[1], 3) for value in (before, after)],
    }
    write("long", parts_of(looks, arguments.steps), facts)
    return 0


def cpu_seconds(process: int) -> float:
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / _CLOCK


def resident(process: int) -> float:
    """GB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE / 1e9


def free(comfy) -> float:
    """GB that the host says are free on its device."""
    return comfy.get("/system_stats")["devices"][0]["vram_free"] / 1e9


def parts_of(looks: list[tuple[int, float, float]], steps: int) -> list[dict]:
    """A row for each part of a run of so many steps. looks: (step, CPU seconds, GB held)."""
    rows: list[dict] = []
    for part in range(PARTS):
        low, high = (steps * (part + side) / PARTS for side in (0, 1))
        own = [look for look in looks if max(low, 1) <= look[0] <= high]
        (first, begun, _), (last, ended, _) = own[0], own[-1]
        held, each = [look[2] for look in own], (ended - begun) / (last - first)
        rows.append(
            {
                "steps": f"{first} to {last}",
                "CPU s a step": round(each, 4),
                "GB held, median": round(statistics.median(held), 3),
                "GB held, most": round(max(held), 3),
                "time ratio": round(each / rows[0]["CPU s a step"], 3) if rows else 1.0,
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
