"""The loop that gives jobs to workers, takes in what they send, and gives lost jobs out again."""

import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import ray

from .jobs import Job
from .live_view import LiveView, Tally
from .outcomes import Lost, WrongUse
from .same_models import Reference
from .work_plans import Plan

TRIES = 3  # of a job, and of a worker in a row
REST = 5.0  # seconds before a lost worker is tried again; four times as long each further time
NO_WORKER = 600.0  # seconds without any worker at work or about to be, after which it ends


@dataclass
class Seat:
    """A worker as the driver sees it: an actor, or the place of one that has to be made again.

    make: starts the actor. number: its share of the jobs is every so-manyth. gone: why it gets no more jobs.
    """

    name: str
    number: int
    make: Callable[[], object]
    tally: Tally = field(default_factory=Tally)
    actor: object = None
    hello: object = None  # the actor's first answer, while it is awaited
    job: Job | None = None
    stream: object = None
    began: float = 0.0
    made: int = 0  # images of the running job
    running: bool = False  # whether the server has begun with it
    sent: list[tuple[str, bytes]] = field(default_factory=list)  # results files, until the job has ended well
    rest_until: float = 0.0
    losses: int = 0  # in a row
    gone: str = ""

    @property
    def ready(self) -> bool:
        return not self.gone and self.actor is not None and self.hello is None and self.job is None and self.rested

    @property
    def rested(self) -> bool:
        return time.monotonic() >= self.rest_until


class Driver:
    """Works a plan off. After `run`, `failed` has a line for each job that was given up."""

    def __init__(self, plan: Plan, seats: list[Seat], view: LiveView):
        self._plan, self._seats, self._view = plan, seats, view
        self._todo, self._made = list(plan.jobs), 0
        self._reference = Reference(plan.results.headers())
        self._contents: dict[str, object] = {}
        self._active = time.monotonic()
        self.failed: list[str] = []

    def run(self) -> None:
        """Until everything is done, or nobody is left who could."""
        while self._todo or any(seat.job for seat in self._seats):
            for seat in self._seats:
                self._give(seat)
            waited = {seat.stream: seat for seat in self._seats if seat.job} | {s.hello: s for s in self._seats if s.hello}
            if waited:
                if ray.wait(list(waited), timeout=0.2)[0]:
                    for ready in ray.wait(list(waited), num_returns=len(waited), timeout=0)[0]:
                        self._hear(waited[ready])
            else:
                time.sleep(0.1)
            self._show()
            if all(seat.gone for seat in self._seats):
                break
            if any(seat.job or seat.ready or not seat.rested for seat in self._seats if not seat.gone):
                self._active = time.monotonic()
            elif time.monotonic() - self._active > NO_WORKER:
                self._view.say(f"No worker has been there for {NO_WORKER / 60:.0f} minutes.")
                break
        self.failed += [f"{job.title}: no worker was left for it" for job in self._todo]

    def stop(self) -> None:
        """End what is running, on servers that are not ours too, as far as they answer."""
        running = {seat.stream: seat.actor for seat in self._seats if seat.job}
        for actor in running.values():
            with suppress(ray.exceptions.RayError):
                actor.stop.remote()
        deadline = time.monotonic() + 5
        while running and time.monotonic() < deadline:
            for stream in ray.wait(list(running), timeout=0.2)[0]:
                with suppress(ray.exceptions.RayError, StopIteration):
                    if ray.get(next(stream))["kind"] != "end":
                        continue
                del running[stream]

    def close(self) -> None:
        """End the servers that were started."""
        closing = [seat.actor.close.remote() for seat in self._seats if seat.actor is not None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=10)

    # -- giving ----------------------------------------------------------------------------------------

    def _give(self, seat: Seat) -> None:
        """Make sure of an actor, and give it the job that suits it best."""
        if seat.gone or not seat.rested:
            return
        if seat.actor is None:
            seat.actor = seat.make()
            seat.hello = seat.actor.hello.remote()
        if not seat.ready:
            return
        others = {other.name for other in self._seats if not other.gone} - {seat.name}
        suited = [job for job in self._todo if seat.name not in job.failed_on or others <= job.failed_on]
        if not suited:
            return
        job = min(suited, key=lambda job: self._rank(job, seat))
        self._todo.remove(job)
        seat.job, seat.began, seat.made, seat.running, seat.sent = job, time.monotonic(), 0, False, []
        job.begun_by = seat.name
        for bundle in job.bundles:
            if bundle.folder not in self._contents:
                self._contents[bundle.folder] = ray.put(bundle.contents())
        contents = {bundle.folder: self._contents[bundle.folder] for bundle in job.bundles}
        seat.stream = seat.actor.work.options(num_returns="streaming").remote(job, contents)

    def _rank(self, job: Job, seat: Seat) -> tuple[bool, int]:
        """Smaller goes first: trainings, which others wait for; what this worker has begun; its own share, so that a new start
        gives the same jobs to the same workers, which may have begun them; what nobody has begun."""
        if job.begun_by is not None:
            rank = 0 if job.begun_by == seat.name else 3
        else:
            rank = 1 if (zlib.crc32(job.name.encode()) + job.shard) % len(self._seats) == seat.number else 2
        return job.kind != "train", rank

    # -- hearing ---------------------------------------------------------------------------------------

    def _next(self, seat: Seat) -> dict:
        return ray.get(next(seat.stream))

    def _hear(self, seat: Seat) -> None:
        """Take in the next thing that a worker says."""
        try:
            if seat.hello is not None:
                seat.tally.host = ray.get(seat.hello)["host"]
                seat.hello = None
                return
            item = self._next(seat)
        except (ray.exceptions.RayError, StopIteration) as error:
            ray.kill(seat.actor)
            seat.actor = seat.hello = None  # made anew after its rest
            self._lost(seat, f"its process or machine is gone ({type(error).__name__})")
            return
        if item["kind"] == "doing":
            self._view.worker(seat.name, f"{item['text']} ({seat.job.title})", 0, 0, seat.tally.pace)
        elif item["kind"] == "made":
            self._progressed(seat, item)
        elif item["kind"] == "file":
            self._keep(seat, item["name"], item["data"])
        else:
            self._end(seat, item["how"], item["why"])

    def _progressed(self, seat: Seat, item: dict) -> None:
        seat.made, seat.running = item["images"], True
        self._view.worker(seat.name, seat.job.title, seat.made, seat.job.images, seat.tally.pace)
        for header in item["headers"]:
            if unlike := self._reference.unlike(header, seat.name):
                self._refuse(seat, unlike)
                return

    def _keep(self, seat: Seat, name: str, data: bytes) -> None:
        if name.endswith(".jsonl") or seat.job.kind == "train":
            seat.sent.append((name, data))
            return
        self._put(seat, name, data)

    def _put(self, seat: Seat, name: str, data: bytes) -> bool:
        """Write a file of the running job; False where it was none that could be written, and its worker is refused."""
        try:
            self._plan.results.put(seat.job.place + name, data)
        except (Lost, WrongUse) as error:
            self._refuse(seat, str(error))
            return False
        return True

    def _end(self, seat: Seat, how: str, why: str) -> None:
        if how in ("lost", "hung"):
            self._lost(seat, why, hung=how == "hung")
        elif how == "unfit":
            self._refuse(seat, why)
        elif how == "error":
            job = self._leave(seat)
            self.failed.append(f"{job.title}: {why}")
            self._view.say(f"{job.title}, on {seat.name}: {why}")
            # The same graph would meet the same error in its other shards.
            self._todo = [other for other in self._todo if other.name != job.name]
        else:
            self._done(seat)

    def _done(self, seat: Seat) -> None:
        for _, data in seat.sent if seat.job.kind == "evaluate" else ():
            if unlike := self._reference.unlike_file(data, seat.name):
                self._refuse(seat, unlike)
                return
        job = seat.job
        if not seat.sent or (job.kind == "train" and seat.sent[-1][0] != job.wanted[-1]):
            self._lost(seat, "it sent no results", hung=True)
            return
        if not all(self._put(seat, name, data) for name, data in seat.sent):
            return
        seat.tally.jobs += 1
        seat.losses = 0
        self._made += seat.made if job.kind == "evaluate" else 0
        self._leave(seat)
        self._view.ended(seat.name, job.title, seat.tally)
        more = self._plan.after(job)
        self._todo += more
        self._view.more(len(more))

    def _leave(self, seat: Seat) -> Job:
        """Take the job from a worker, and count what it made."""
        job, seconds = seat.job, time.monotonic() - seat.began
        seat.tally.busy += seconds
        if job.kind == "evaluate":
            seat.tally.images += seat.made
        seat.job, seat.stream, seat.sent, seat.made = None, None, [], 0
        return job

    def _lost(self, seat: Seat, why: str, hung: bool = False) -> None:
        """A job comes back undone, and its worker rests. One that has not begun with it, or hung, leaves it to others."""
        seat.losses += 1
        seat.tally.lost += 1
        seat.tally.last = why
        seat.rest_until = time.monotonic() + REST * 4 ** (seat.losses - 1)
        title = ""
        if seat.job:
            useless = hung or not seat.running
            job = self._leave(seat)
            job.tries += 1
            for bundle in job.bundles:  # the only copy may have been on a machine that is gone
                self._contents.pop(bundle.folder, None)
            title = f" with {job.title}"
            if useless:
                job.failed_on.add(seat.name)
            if job.tries < TRIES:
                self._todo.insert(0, job)
            else:
                self.failed.append(f"{job.title}: lost {job.tries} times, at last on {seat.name}: {why}")
        self._view.say(f"{seat.name} was lost{title}: {why}")
        if seat.losses >= TRIES:
            seat.gone = why
            self._view.say(f"{seat.name} gets no more jobs: lost {seat.losses} times in a row")
        self._view.worker(seat.name, "lost", 0, 0, 0)

    def _refuse(self, seat: Seat, why: str) -> None:
        """A worker whose results cannot be used, or who cannot do the job; the job is not to blame."""
        seat.gone = seat.tally.last = why
        if seat.actor is not None:
            with suppress(ray.exceptions.RayError):
                seat.actor.stop.remote()
        seat.made = 0
        self._todo.insert(0, self._leave(seat))
        self._view.say(f"{seat.name} is refused: {why}")
        self._view.worker(seat.name, "refused", 0, 0, 0)

    def _show(self) -> None:
        self._view.show(self._made + sum(seat.made for seat in self._seats if seat.job and seat.job.kind == "evaluate"))
