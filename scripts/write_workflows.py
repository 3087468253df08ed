#!/usr/bin/env python3
"""Write the example workflows, in both formats, and the blueprints, from the descriptions in `workflow_writer/`.

    COMFYUI_PATH=<ComfyUI> python scripts/write_workflows.py

Asks a ComfyUI server for its nodes, so that every widget has its place. `example_workflows/` has what the page loads,
`workflows/api/` the same graphs for the API, `subgraphs/` the blueprints. The tests check that they are as this writes them.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from workflow_writer import everyday, papers
from workflow_writer.blueprints import mask_blueprint, train_blueprint
from workflow_writer.formats import api, ui

ROOT = Path(__file__).resolve().parent.parent
FLOWS = (
    everyday.train,
    everyday.mask_and_train,
    everyday.train_and_score,
    everyday.apply,
    papers.compare,
    papers.evaluate,
    papers.schedules,
    papers.attractors,
    everyday.mask_by_sam3,
    everyday.mix,
    everyday.any_graph,
    papers.six_systems,
    papers.overfitting,
)


def files(info):
    """Path below the repository -> text, of everything that is written. info: the host's /object_info."""
    found = {}
    for flow in (make() for make in FLOWS):
        found[f"example_workflows/{flow.name}.json"] = ui(flow, info)
        found[f"workflows/api/{flow.name}.json"] = api(flow, info)
    found["subgraphs/Mask a subject.json"] = mask_blueprint(info)
    found["subgraphs/Train a subject.json"] = train_blueprint(info)
    toy = everyday.toy_train()
    found[f"tests/toy_world/{toy.name}.json"] = ui(toy, info)
    return {name: json.dumps(found[name], indent=1, ensure_ascii=False) + "\n" for name in found}


def main():
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    from comfy_client import ComfyClient
    from comfy_server import ComfyServer

    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}
    with tempfile.TemporaryDirectory() as base, ComfyServer(os.environ["COMFYUI_PATH"], base, packs) as server:
        info = ComfyClient(server.url).object_info()
    for name, text in files(info).items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
