#!/usr/bin/env python3
"""The paper's figures by one command: queues the workflows that make them on a running ComfyUI, one after another, and waits.

    python scripts/paper_figures.py                                     all of them, on http://127.0.0.1:8188
    python scripts/paper_figures.py 5 7 --server http://gpu:8188        some, on another server
    python scripts/paper_figures.py 1 --set steps=500 --set method=dreambooth_lora

    1  DreamBooth over 5,000 steps: scores on its own photos against those held out     5, 6  the six systems
    7  schedules of the contrast's weight                                               9     what attractors hold

The workflows are those in workflows/api, on the photos that come with the pack; their reports and charts are in the server's
output folder. Run it with a Python that has `requests`, such as ComfyUI's. What is finished is kept: started again, it goes on.
Exit code 0: all are made; 1: one failed, and it says why; 2: wrong use.
"""

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from many_machines.comfy_http import ComfyServer, Silent  # noqa: E402
from many_machines.outcomes import Lost, NodeError, Unfit  # noqa: E402

SYSTEMS = "12_compare_with_dreambooth_and_custom_diffusion"
FIGURES = {
    "1": "13_overfitting_of_dreambooth",
    "5": SYSTEMS,
    "6": SYSTEMS,
    "7": "7_contrast_schedules_textual_inversion",
    "9": "8_attractors_of_textual_inversion",  # of the newest training
}
POLL = 2.0  # seconds


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all)")
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL")
    parser.add_argument("--checkpoint", metavar="FILE", help="instead of the checkpoint that the workflows name")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of every node that has such an input")
    parser.add_argument("--dry-run", action="store_true", help="say which workflows would be run")
    arguments = parser.parse_args(words)
    if unknown := [figure for figure in arguments.figures if figure not in FIGURES]:
        parser.error(f"there is no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    if wrong := [text for text in arguments.set if "=" not in text]:
        parser.error(f"--set {wrong[0]}: write NAME=VALUE")
    return arguments


def graph_of(name: str, checkpoint: str | None, values: dict) -> dict:
    """A workflow in API format, with another checkpoint and other values of inputs that are not wired."""
    graph = json.loads((HERE.parent / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    values = {**values, **({"ckpt_name": checkpoint} if checkpoint else {})}
    for node in graph.values():
        inputs = node["inputs"]
        inputs |= {key: value for key, value in values.items() if key in inputs and not isinstance(inputs[key], list)}
    return graph


def carry_out(server: ComfyServer, graph: dict) -> list[str]:
    """Queue a graph and wait for its end; what its nodes say.

    Raises:
        Lost, NodeError, Unfit: why it did not come to an end.
    """
    prompt = server.queue(graph)
    while True:
        time.sleep(POLL)
        try:
            if server.ended(prompt):
                return server.said(prompt)
        except Silent:
            pass  # it is busy


def value_of(text: str) -> object:
    """What is typed as it is meant: a number, true or false, or else a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> int:
    arguments = parse(sys.argv[1:])
    values = {name: value_of(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    names = list(dict.fromkeys(FIGURES[figure] for figure in arguments.figures or FIGURES))
    server = ComfyServer(arguments.server)
    for name in names:
        which = ", ".join(figure for figure, own in FIGURES.items() if own == name)
        print(f"Fig. {which}: workflow {name}", flush=True)
        if arguments.dry_run:
            continue
        try:
            print("\n".join(carry_out(server, graph_of(name, arguments.checkpoint, values))), flush=True)
        except (Lost, NodeError, Unfit) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
