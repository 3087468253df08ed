"""The results of all runs as numbers by image, and their means and paired differences, with the report's own statistics."""

import importlib.util
import sys
from pathlib import Path

_STATISTICS = Path(__file__).resolve().parents[3] / "nodes" / "evaluation" / "statistics.py"


def _load_statistics():
    """The pack's module, by its file: it needs no host, and the package around it does."""
    spec = importlib.util.spec_from_file_location("attractor_statistics", _STATISTICS)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


statistics = _load_statistics()
BOOTSTRAP = statistics.Bootstrap()
METRICS = ("clip_t", "clip_i", "dino")  # the paper's
TRAIN_METRICS = ("clip_i_train", "dino_train")
ALONE = "leak_alone"  # of the images without a setting in their prompt, which `measures` does not see
_SEEDS_APART = 1000  # images of an index and a seed are told apart by index + seed * this


class Table:
    """Values of images by configuration, step and measure."""

    def __init__(self, results: list[dict]):
        """results: as `runs.carry_out` leaves them."""
        self.results = results
        self.configurations = list(dict.fromkeys(result["configuration"] for result in results))
        self._steps = {result["configuration"]: result["plan"]["steps"] for result in results}

    def shared(self, configurations: list[str]) -> "Table":
        """Only the subjects and seeds that all of these were run on: their means are then means over the same."""
        found = [{(result["subject"], result["seed"]) for result in self._of(name)} for name in configurations]
        common = set.intersection(*found)
        return Table([result for result in self.results if (result["subject"], result["seed"]) in common])

    def steps(self, configuration: str) -> list[int]:
        """Those evaluated in all runs of a configuration."""
        found = [{entry["step"] for entry in result["entries"]} for result in self._of(configuration)]
        return sorted(set.intersection(*found)) if found else []

    def compared_at(self, configuration: str) -> int | None:
        """The step at which a configuration is compared with others: the steps that all have. None: it was not run."""
        steps = self.steps(configuration)
        return next((step for step in steps if step == self._steps[configuration]), steps[0] if steps else None)

    def values(self, configuration: str, measure: str, step: int | None = None) -> dict:
        """(subject, photo, caption, image) -> value; empty where it was not run. step None: where it is compared."""
        if measure == ALONE:
            return self.alone(configuration, "subject", "confound") if step in (None, self.compared_at(configuration)) else {}
        step = self.compared_at(configuration) if step is None else step
        return {
            (result["subject"], image["photo"], str(image["caption"]), image["index"] + result["seed"] * _SEEDS_APART): image[
                "values"
            ][measure]
            for result in self._of(configuration)
            for entry in result["entries"]
            if entry["step"] == step
            for image in entry["images"]
            if measure in image["values"]
        }

    def alone(self, configuration: str, kind: str, measure: str) -> dict:
        """The same of the images without a setting in their prompt. kind: attractor, subject or word, by subject and noise."""
        found: dict = {}
        for result in self._of(configuration):
            for image in result["alone"]:
                if image["kind"] == kind:
                    key = (result["subject"], "", "", image["index"] + result["seed"] * _SEEDS_APART)
                    found.setdefault(key, []).append(image[measure])
        return {key: sum(values) / len(values) for key, values in found.items()}

    def cost(self, configuration: str) -> tuple[str, str]:
        """Steps and minutes of a training, as means over the runs."""
        of = self._of(configuration)
        steps, seconds = sum(run.get("steps", 0) for run in of), sum(run["seconds"]["training"] for run in of)
        return f"{steps / len(of):.0f}", f"{seconds / 60 / len(of):.1f}"

    def scored_steps(self, configuration: str) -> list[int]:
        """Those that all trainings of a configuration scored by themselves."""
        found = [{scores["step"] for scores in result.get("scores", [])} for result in self._of(configuration)]
        return sorted(set.intersection(*found)) if found else []

    def scored(self, configuration: str, measure: str, step: int) -> dict:
        """The trainings' own mean scores at a step, by subject and seed."""
        return {
            (result["subject"], "", "", result["seed"]): scores[measure]
            for result in self._of(configuration)
            for scores in result.get("scores", [])
            if scores["step"] == step
        }

    def mean(self, configuration: str, measure: str, step: int | None = None):
        """`Estimate`, or None where there is nothing."""
        values = self.values(configuration, measure, step)
        return estimate_of(values) if values else None

    def runs(self, configuration: str) -> int:
        return len(self._of(configuration))

    def _of(self, configuration: str) -> list[dict]:
        return [result for result in self.results if result["configuration"] == configuration]


def difference(one: dict, other: dict):
    """`Estimate` of one minus the other on the images that both have, or None."""
    found = statistics.difference(one, other, BOOTSTRAP)
    return found and found.estimate


def estimate_of(values: dict):
    """`Estimate` of values by image."""
    return statistics.estimate(values, BOOTSTRAP)


def change(early: dict, late: dict) -> dict:
    """late - early, image by image."""
    return {key: late[key] - value for key, value in early.items() if key in late}
