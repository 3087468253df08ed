"""Load Token Checkpoints."""

import re
from pathlib import Path

import torch
from comfy_api.latest import io

from ..trainer.token_file import load_token
from .errors import UserError
from .host import folders
from .host.progress import said
from .link_types import PersonalizedTokenType

_CHECKPOINT = re.compile(r".*-step-(\d+)\.safetensors")


class LoadTokenCheckpoints(io.ComfyNode):
    """Every checkpoint of a training run, for curves over its steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadTokenCheckpoints",
            display_name="Load Token Checkpoints",
            category="attractor/evaluation",
            description="Loads all tokens that a training run saved along the way. Wire them to PDST Evaluate to see at which "
            "step it was best and when it began to overfit.",
            search_aliases=["training checkpoints", "embedding checkpoints", "overfitting curve", "best step"],
            inputs=[
                io.Combo.Input(
                    "run",
                    options=folders.runs(),
                    default=folders.NEWEST,
                    tooltip="The newest run, or another one under output/neti that has saved checkpoints (checkpoint_every). "
                    "Press R to refresh the list.",
                ),
                io.String.Input("steps", default="", tooltip="Which steps, such as 100, 200, 400. Empty: all."),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Use only every n-th of them, and always the last one. 1: all.",
                ),
            ],
            outputs=[
                PersonalizedTokenType.Output(
                    "tokens", is_output_list=True, tooltip="In order of steps. Wire to PDST Evaluate."
                ),
                io.Int.Output("steps_out", display_name="steps", is_output_list=True, tooltip="Their steps."),
            ],
        )

    @classmethod
    def validate_inputs(cls, run: str | None) -> bool | str:
        if run is None:
            return True  # it is wired
        try:
            return bool(checkpoints(run)) or f"run: {run!r} has saved no checkpoints: train with checkpoint_every above 0."
        except UserError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, run: str, **_: object) -> str:
        return folders.stamps(lambda: checkpoints(run).values())

    @classmethod
    def execute(cls, run: str, steps: str, every: int = 1) -> io.NodeOutput:
        found = checkpoints(run)
        chosen = list(found)
        if steps.strip():
            try:
                chosen = sorted({int(part) for part in re.split(r"[\s,;]+", steps.strip()) if part})
            except ValueError as error:
                raise UserError(f"steps: {steps!r} is not a list of numbers. Type 100, 200, or nothing for all.") from error
            missing = [str(step) for step in chosen if step not in found]
            if missing:
                raise UserError(
                    f"steps: {run} has no checkpoint of step {', '.join(missing)}. It has: {', '.join(map(str, found))}."
                )
        chosen = [step for i, step in enumerate(chosen, 1) if i % every == 0 or i == len(chosen)]
        tokens = []
        with torch.inference_mode(False):
            for step in chosen:
                try:
                    tokens.append(load_token(found[step]))
                except ValueError as error:
                    raise UserError(f"run: {error}") from error
                tokens[-1].subject.requires_grad_(False)
        return io.NodeOutput(tokens, chosen, ui=said(", ".join(f"step {step}" for step in chosen)))


def checkpoints(run: str) -> dict[int, Path]:
    """Files of a run's checkpoints by step, in order.

    Raises:
        UserError: no such run.
    """
    found = {int(match[1]): path for path in folders.checkpoint_files(run) if (match := _CHECKPOINT.fullmatch(path.name))}
    return dict(sorted(found.items()))
