#!/usr/bin/env python3
"""The paper's protocol over any number of ComfyUI servers.

    python scripts/cluster.py evaluate graph.json --servers http://127.0.0.1:8188 http://127.0.0.1:8189
    python scripts/cluster.py evaluate graph.json --comfyui ~/ComfyUI                      # starts a server for each GPU
    python scripts/cluster.py train-and-evaluate plan.json --address auto --comfyui /opt/ComfyUI -- --fast

It runs in an environment of its own (`pip install -r scripts/requirements-cluster.txt`). What it sends to servers, what comes
back, and what happens when something dies: docs/many_machines.md. Stopped at any moment, it goes on when it is started again.
What comes after -- goes to the servers that it starts. Exit code 0: whole; 1: incomplete, and it says what is missing; 2: wrong
use.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from many_machines.graph_files import LocalFiles  # noqa: E402
from many_machines.outcomes import WrongUse  # noqa: E402
from many_machines.result_folder import ResultFolder  # noqa: E402
from many_machines.training_grid import Grid  # noqa: E402
from many_machines.work_plans import Plan, Sharding, evaluate  # noqa: E402

FILES = (
    "a ComfyUI folder of this machine, with the data sets, tokens and photos that the graph names "
    "(default: --comfyui, or else the ComfyUI that this pack is in)"
)


def parse(words: list[str]) -> argparse.Namespace:
    own, further = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("command", choices=["evaluate", "train-and-evaluate"])
    add("file", type=Path, help="the graph in API format, or the plan")
    add("--servers", nargs="+", default=[], metavar="URL", help="servers that are running")
    add("--comfyui", metavar="FOLDER", help="ComfyUI to start servers from; on a cluster, where it is on each machine")
    add("--python", help="what runs it (default: the Python of its venv, or else this one)")
    add("--workers", default="auto", metavar="N", help="servers to start (default: one for each GPU, or else for each machine)")
    add("--address", help="of a Ray cluster that this machine is part of: auto, or HEAD:6379")
    add("--files", type=Path, metavar="FOLDER", help=FILES)
    add("--results", type=Path, metavar="FOLDER", help="where results go (default: output/pdst/<name> of --files)")
    add("--shards", type=int, default=0, metavar="N", help="(default: four for each worker, and at most 200 images in each)")
    add("--limit", type=float, default=1800.0, metavar="SECONDS", help="of a server that makes nothing new: then it is lost")
    add("--work", default="~/.attractor-cluster", metavar="FOLDER", help="for the files of servers that are started")
    add("--dry-run", action="store_true", help="print what would be done, and how many images that is")
    arguments = parser.parse_args(own)
    arguments.options = further
    if bool(arguments.servers) == bool(arguments.comfyui):
        parser.error("say either --servers or --comfyui")
    if arguments.workers != "auto" and not (arguments.workers.isdecimal() and int(arguments.workers) > 0):
        parser.error("--workers is a number, or auto")
    if not 0 <= arguments.shards <= 1000:
        parser.error("--shards is a number of 1 to 1000")
    return arguments


def local_files(arguments: argparse.Namespace) -> Path:
    """The ComfyUI folder that has what the graph names."""
    around = HERE.parents[2] if HERE.parents[1].name == "custom_nodes" else None
    root = arguments.files or (Path(arguments.comfyui).expanduser() if arguments.comfyui else around)
    if root is None or not root.is_dir():
        raise WrongUse("say in --files which ComfyUI folder has the data sets and tokens that the graph names.")
    return root.resolve()


def make_plan(arguments: argparse.Namespace, workers: int) -> Plan:
    root = local_files(arguments)

    def results_of(name: str) -> ResultFolder:
        return ResultFolder((arguments.results or root / "output" / "pdst" / name).resolve())

    sharding = Sharding(workers, arguments.shards)
    if arguments.command == "evaluate":
        return evaluate(arguments.file, LocalFiles(root), results_of, sharding)
    return Grid(arguments.file, LocalFiles(root), results_of, sharding).plan()


def describe(plan: Plan, workers: list[str]) -> str:
    """What is to do, in words."""
    bundles = {bundle.folder: bundle for job in plan.jobs for bundle in job.bundles}
    megabytes = sum(bundle.size for bundle in bundles.values()) / 1e6
    first = f"{plan.trainings} trainings; " if plan.trainings else ""
    more = " and those of what is trained" if plan.trainings else ""
    there = len(plan.results.headers())
    return "\n".join(
        [
            f"{first}{plan.images} images in {len(plan.jobs) - plan.trainings} shards{more}",
            f"workers: {', '.join(workers)}",
            f"to send to each server, at most: {sum(len(b.files) for b in bundles.values())} files, {megabytes:.1f} MB",
            f"results: {plan.results.path}" + (f" ({there} results files are there already)" if there else ""),
        ]
    )


def main() -> int:
    arguments = parse(sys.argv[1:])
    if arguments.dry_run and arguments.servers:
        plan = make_plan(arguments, len(arguments.servers))
        print(describe(plan, arguments.servers))
        return 0
    from many_machines import placing

    with placing.ray_started(arguments.address):
        seats = placing.seats(arguments)
        plan = make_plan(arguments, len(seats))
        print(describe(plan, [seat.name for seat in seats]), flush=True)
        return 0 if arguments.dry_run else work(plan, seats)


def work(plan: Plan, seats: list) -> int:
    """Work the plan off, and say how it went."""
    from many_machines.job_loop import Driver
    from many_machines.live_view import LiveView, summary

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; Ray has set another
    began, stopped = time.monotonic(), False
    with LiveView(plan.images, len(plan.jobs), [seat.name for seat in seats]) as view:
        driver = Driver(plan, seats, view)
        try:
            driver.run()
        except KeyboardInterrupt:
            stopped = True
            view.say("Stopping.")
            driver.stop()
        finally:
            driver.close()
    seconds = time.monotonic() - began
    summary(view.console, {seat.name: seat.tally for seat in seats}, seconds)
    problems = [*driver.failed, *plan.results.problems()]
    if stopped or problems:
        missing = "\n".join(f"- {problem}" for problem in problems)
        view.say(f"Incomplete. What is whole is kept; start it again, and it goes on.\n{missing}".rstrip())
        return 1
    view.say(f"Whole, in {seconds:.1f} s: {plan.results.path}. Open it with PDST Report.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except WrongUse as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(1)
