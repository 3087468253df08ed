"""What the method is for, on the toy world and through a real server: a monster that the model was never trained on, learnt
from five photos that all share one setting.

One subject, one seed. The margins are about half of what was measured, so that they hold on other machines too, and not for a
trainer that is broken. `python scripts/dev.py bench toy` measures with more.
"""

import sys
from dataclasses import replace

import pytest

from comfy_client import ComfyClient
from toy_world.bench import driver, grid, runs
from toy_world.bench.table import Table
from toy_world.judges import load_judge
from toy_world.pdst import toy_subject

NAMES = ("floor", "neti", "neti+")


@pytest.fixture(scope="module")
def table(tmp_path_factory, host_root):
    """The plain word, NeTI and NeTI+ with attractors, after the benchmark's steps."""
    folder, toy, judge, results = tmp_path_factory.mktemp("toy"), toy_subject(0), load_judge(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(host_root)])  # for the host's tokenizer
        runs.write_world(folder, [toy])
    with driver.make_server(str(host_root), folder, 0) as server:
        for name in NAMES:
            configuration = replace(grid.CONFIGURATIONS[name], curve=False, long=False)
            run = runs.Run(configuration, toy, 0, runs.Plan())
            results.append(runs.carry_out(run, ComfyClient(server.url), folder, judge))
    return Table(results)


def means(values):
    return sum(values.values()) / len(values)


def test_show(table):
    for name in NAMES:
        print(name, {m: round(means(table.values(name, m)), 3) for m in ("clip_t","clip_i","dino","clip_i_train","dino_train","subject","leak","leak_alone","scene")}, [r["seconds"] for r in table.results if r["configuration"]==name])
    for kind in ("word", "subject", "attractor"):
        print(kind, means(table.alone("neti+", kind, "confound")), means(table.alone("neti+", kind, "present")))
