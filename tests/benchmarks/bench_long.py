"""Do a step's time and the process's memory stay flat in a long training? `dev.py bench long [--steps 2000]`.

Through the real server, NeTI+ on the toy world, with sample images. A short training of the same kind comes before, so that
libraries and models are loaded, and after the long one memory is looked at once more. A step's time is in CPU seconds of
the server where it has no GPU, so that neighbours count less; its memory is what the process holds.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
RESULTS = ROOT / ".dev" / "bench" / "results"
PARTS = 4  # of the run, which are compared with each other
_CLOCK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()

    from comfy_client import ComfyClient
    from toy_world.bench.driver import make_server
    from toy_world.bench.runs import write_world
    from toy_world.toy_subjects import toy_subject

    folder = ROOT / ".dev" / "bench" / "long"
    write_world(folder, [toy_subject(0)], os.environ["COMFYUI_PATH"])
    with make_server(os.environ["COMFYUI_PATH"], folder, 0) as server:
        comfy, process = ComfyClient(server.url), server.process.pid
        comfy.run(training("warm-up", 100, arguments.batch), timeout=3600)
        time.sleep(2)
        before = resident(process), free(comfy)
        prompt, looks = comfy.queue(training("long", arguments.steps, arguments.batch)), []
        while comfy.history(prompt) is None:
            looks.append((step_of(comfy), cpu_seconds(process), resident(process)))
            time.sleep(0.5)
        comfy.wait(prompt)
        time.sleep(2)
        after = resident(process), free(comfy)
    report(arguments, looks, before, after)
    return 0


def training(name: str, steps: int, batch: int):
    from graphs import add_trainer

    from comfy_client import Graph
    from toy_world.bench.grid import BASE
    from toy_world.toy_subjects import toy_subject

    toy, graph = toy_subject(0), Graph()
    loader = graph.add("TestToyWorld")
    photos = graph.add("AttractorLoadSubjectImages", folder=toy.name, alpha="opaque is the subject", unreadable_files="stop")
    wired = {"model": loader[0], "clip": loader[1], "vae": loader[2], "images": photos[0], "masks": photos[1]}
    small = {"batch_size": batch, "sample_every": 100, "sample_steps": 12, "sample_prompt": "a photo of a {}"}
    add_trainer(
        graph,
        name=name,
        resume=False,
        super_category=toy.subject.category,
        seed=0,
        **wired,
        **{**BASE, **small, "steps": steps},
    )
    return graph


def step_of(comfy) -> int:
    """Of the long training, 0 before it has begun."""
    try:
        return comfy.get("/attractor/run?name=long")["step"]
    except Exception:  # there is none yet
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


def report(arguments: argparse.Namespace, looks: list, before: tuple, after: tuple) -> None:
    """The run's parts after each other, as a table and as JSON."""
    rows = []
    for part in range(PARTS):
        low, high = (arguments.steps * (part + side) / PARTS for side in (0, 1))
        own = [look for look in looks if max(low, 1) <= look[0] <= high]
        (first, begun, _), (last, ended, _) = own[0], own[-1]
        held = [look[2] for look in own]
        rows.append(
            {
                "steps": f"{first} to {last}",
                "CPU s a step": round((ended - begun) / (last - first), 4),
                "GB held, median": round(statistics.median(held), 3),
                "GB held, most": round(max(held), 3),
            }
        )
    for row in rows:
        row["time ratio"] = round(row["CPU s a step"] / rows[0]["CPU s a step"], 3)
    facts = {
        "batch": arguments.batch,
        "GB held before and after the run": [round(value[0], 3) for value in (before, after)],
        "GB free by the host, before and after": [round(value[1], 3) for value in (before, after)],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "long.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
    lines = [" | ".join(rows[0]), *(" | ".join(map(str, row.values())) for row in rows)]
    print(*(f"{name}: {value}" for name, value in facts.items()), "", *(f"| {line} |" for line in lines), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
