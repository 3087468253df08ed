"""What the user sees: one live view while the work goes on, a line for what goes wrong, and a table at the end."""

import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table


@dataclass
class Tally:
    """What a worker has done. host: where it is. images: of all its jobs, the lost ones too. busy: seconds with a job."""

    host: str = ""
    jobs: int = 0
    images: int = 0
    busy: float = 0.0
    lost: int = 0
    last: str = ""

    @property
    def pace(self) -> float:
        return self.images / self.busy if self.busy else 0.0


class LiveView:
    """A bar for all images and a line for each worker; on no terminal, a line for each job that ends."""

    def __init__(self, images: int, jobs: int, workers: list[str]):
        self.console = Console(highlight=False, soft_wrap=True)
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
        ]
        self._progress = Progress(*columns, console=self.console, speed_estimate_period=600)
        self._all = self._progress.add_task("images", total=images, pace="")
        self._lines = {name: self._progress.add_task(f"  {name}", total=None, pace="") for name in workers}
        self._jobs, self._done, self._began = jobs, 0, time.monotonic()

    def __enter__(self) -> "LiveView":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def more(self, jobs: int) -> None:
        self._jobs += jobs

    def show(self, images: int) -> None:
        pace = images / max(1e-9, time.monotonic() - self._began)
        self._progress.update(self._all, completed=images, pace=f"{self._done} of {self._jobs} jobs · {pace:.2f}/s")

    def worker(self, name: str, text: str, done: int, total: int, pace: float) -> None:
        """What a worker is at. total: images of its job; 0 if that is not known."""
        words = f"{pace:.2f}/s" if pace else ""
        self._progress.update(
            self._lines[name], description=f"  {name}: {text}", completed=done, total=total or None, pace=words
        )

    def ended(self, name: str, title: str, tally: Tally) -> None:
        self._done += 1
        if not self.console.is_terminal:
            pace = f" ({tally.pace:.2f} images/s)" if tally.images else ""
            self.say(f"{self._done} of {self._jobs}: {title} by {name}{pace}")


def summary(console: Console, tallies: dict[str, Tally], seconds: float) -> None:
    """The table of what each worker did."""
    table = Table("worker", "on", "jobs", "images", "images/s", "busy", "lost", "last trouble")
    for name, tally in tallies.items():
        busy = f"{tally.busy / max(seconds, 1e-9):.0%}"
        table.add_row(
            name, tally.host, str(tally.jobs), str(tally.images), f"{tally.pace:.2f}", busy, str(tally.lost), tally.last
        )
    console.print(table)
