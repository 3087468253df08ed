"""Where workers are: Ray, on this machine or a cluster, and an actor for each server."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Before Ray is imported: no reports of use, and on this machine alone all of its ports on loopback, as it has it on Windows.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextmanager
def ray_started(address: str | None) -> Iterator[None]:
    """Ray, on a cluster, or for as long as this lasts on this machine, bound to 127.0.0.1.

    Raises:
        WrongUse: there is no cluster at the address.
    """
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Ray has its workers, and so the servers that they start, stand back at nice 15: beside other work they hardly run.
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    import many_machines

    from .outcomes import WrongUse

    # Machines of a cluster need no copy of this repository: the worker's code travels with the actor.
    ray.cloudpickle.register_pickle_by_value(many_machines)
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        ray.init(address=address or "local", **quiet, **({} if address else {"include_dashboard": False}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WrongUse(f"--address: there is no Ray cluster at {address} ({error}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def seats(arguments: argparse.Namespace) -> list:
    """A place for each worker.

    Raises:
        WrongUse: there are not as many GPUs as workers.
    """
    import ray

    from .job_loop import Seat

    if arguments.servers:
        return [Seat(url, i, _maker(i, url, None, arguments, {"num_cpus": 0})) for i, url in enumerate(arguments.servers)]
    own = {
        "comfyui": arguments.comfyui,
        "python": arguments.python,
        "folder": arguments.work,
        "options": arguments.options,
    }
    count, needs = _count(arguments.workers, int(ray.cluster_resources().get("GPU", 0)), bool(arguments.address))
    needs["scheduling_strategy"] = "SPREAD"
    return [Seat(f"worker {i + 1}", i, _maker(i + 1, None, own, arguments, needs)) for i in range(count)]


def _count(asked: str, gpus: int, cluster: bool) -> tuple[int, dict]:
    """How many servers to start, and what of a machine each needs."""
    import ray

    from .outcomes import WrongUse

    if gpus and asked != "auto" and int(asked) > gpus:
        raise WrongUse(f"--workers: {asked} servers need a GPU each, and there are {gpus}.")
    machines = len([node for node in ray.nodes() if node["Alive"]])
    count = int(asked) if asked != "auto" else gpus or machines
    return count, {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 1 if cluster else 0}


def _maker(number: int, url: str | None, own: dict | None, arguments: argparse.Namespace, needs: dict) -> Callable[[], object]:
    import ray

    from .worker import Worker

    # Threads: `stop` is heard while `work` goes on. A dead actor is made anew by the driver, which knows what it was at.
    options = {"max_concurrency": 3, "max_restarts": 0, **needs}
    return lambda: ray.remote(Worker).options(**options).remote(number, url, own, arguments.limit)
