"""Load Evaluation Encoders: CLIP and DINO for the scores."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from comfy_api.latest import io

from ..errors import UserError
from ..link_types import EvaluationEncodersType
from ..pretrained.model_files import Family, choices, find, problem
from .encoders import CLIP, DINO, EvaluationEncoders, load_clip, load_dino

NONE = "none"
E = TypeVar("E")


class LoadEvaluationEncoders(io.ComfyNode):
    """CLIP and DINO for PDST scores, from disk or the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadEvaluationEncoders",
            display_name="Load Evaluation Encoders",
            category="attractor/evaluation",
            description="Loads CLIP and DINO, which score generated images against prompts and photos.",
            search_aliases=["clip score", "clip-i", "clip-t", "dino", "metrics", "pdst"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "clip",
                    options=[*choices(CLIP), NONE],
                    default=CLIP.repositories[0],
                    tooltip="For CLIP-T and CLIP-I. From models/evaluation or models/clip_vision (a folder in transformers' "
                    "format); names that begin with openai/ can be downloaded. The paper's protocol uses ViT-B/32; scores of "
                    "other models are not comparable. none: no CLIP scores.",
                ),
                io.Combo.Input(
                    "dino",
                    options=[*choices(DINO), NONE],
                    default=DINO.repositories[0],
                    tooltip="For DINO. From models/evaluation (a folder in transformers' format); names that begin with "
                    "facebook/ can be downloaded. The paper's protocol uses dino-vits16; scores of other models, DINOv2 "
                    "included, are not comparable. none: no DINO score.",
                ),
                io.Boolean.Input(
                    "download_if_missing",
                    default=False,
                    tooltip="Download the chosen models from the Hugging Face hub into models/evaluation if they are missing. "
                    "An interrupted download continues when queued again.",
                ),
            ],
            outputs=[
                EvaluationEncodersType.Output("encoders", tooltip="Wire to PDST Evaluate, or to training for held-out scores.")
            ],
        )

    @classmethod
    def validate_inputs(cls, clip: str, dino: str) -> bool | str:
        if clip == dino == NONE:
            return "clip and dino are both none: choose at least one, or leave the encoders of the evaluation unwired."
        wrong = [problem(family, name) for family, name in ((CLIP, clip), (DINO, dino)) if name != NONE]
        return " ".join(filter(None, wrong)) or True

    @classmethod
    def execute(cls, clip: str, dino: str, download_if_missing: bool) -> io.NodeOutput:
        problems: list[str] = []

        def chosen(family: Family, name: str, load: Callable[[Path], E]) -> E | None:
            """The model; None if none is wanted, or if there is a problem."""
            if name == NONE:
                return None
            try:
                path = find(family, name, download_if_missing, cls.hidden.unique_id)
                with torch.inference_mode(False):
                    return load(path)
            except UserError as error:
                problems.append(str(error))
                return None

        encoders = EvaluationEncoders(chosen(CLIP, clip, load_clip), chosen(DINO, dino, load_dino))
        if problems:
            raise UserError.of(problems)
        return io.NodeOutput(encoders)
