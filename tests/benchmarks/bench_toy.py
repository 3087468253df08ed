"""What the method learns, on the toy world: `dev.py bench toy [--subjects 4] [--seeds 1] [--only NAME ...] [--workers 2]`.

Trains and evaluates every configuration of `toy_world/bench/grid.py` through the real server, and reports the paper's metrics,
the ground truth's measures, and for each of the paper's claims whether it holds here. A run that has ended is kept under
`.dev/bench/toy/<hash of settings and weights>` and not done again, so the benchmark can be stopped and started at any time.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
BASE = ROOT / ".dev" / "bench" / "toy"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=4, help="how many (4)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each subject (1)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="configurations or groups of them")
    parser.add_argument("--steps", type=int, help="of a training (default: the grid's)")
    parser.add_argument("--quick", action="store_true", help="few steps and images: shows that all works, and nothing else")
    parser.add_argument("--workers", type=int, default=1, help="servers at once, of one thread each (1)")
    parser.add_argument("--check-repeat", action="store_true", help="one run twice: same seed, same figures?")
    parser.add_argument("--report", action="store_true", help="only report what is there, carry out nothing")
    arguments = parser.parse_args()

    import torch

    from toy_world.bench import driver, grid, report, runs
    from toy_world.toy_subjects import toy_subject

    host = os.environ["COMFYUI_PATH"]
    torch.set_num_threads(1)
    steps = arguments.steps or (grid.QUICK_STEPS if arguments.quick else grid.STEPS)
    if steps % grid.CHECKPOINTS:
        parser.error(f"--steps must be a multiple of {grid.CHECKPOINTS}")
    evaluation = grid.QUICK_EVALUATION if arguments.quick else grid.EVALUATION
    plan = runs.Plan(steps, tuple(evaluation.items()))
    try:
        configurations = grid.chosen(arguments.only or (["neti+"] if arguments.check_repeat else []))
    except ValueError as error:
        parser.error(str(error))
    toys = [toy_subject(index) for index in range(arguments.subjects)]
    # In the grid's order, for all subjects: when it is stopped, there is something to say about the first groups at least.
    wanted = [
        runs.Run(configuration, toy, seed, plan)
        for seed in range(arguments.seeds)
        for configuration in configurations
        for toy in toys
    ]
    if arguments.check_repeat:
        return driver.check_repeat(host, BASE / "repeat", wanted[-1])
    folder, interrupted = BASE / plan.hash, False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the servers would stay
    try:
        if not arguments.report:
            driver.carry_out_all(host, folder, wanted, arguments.workers)
    except KeyboardInterrupt:
        interrupted = True  # what is there is still reported
    print(report.write(folder, wanted, folder if arguments.quick else BASE))
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
