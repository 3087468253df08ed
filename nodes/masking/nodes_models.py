"""Load Florence-2 and Load SAM2: the models for masking."""

import torch
from comfy_api.latest import io

from ..host.managed import DTYPES, resolve_dtype
from ..link_types import Florence2Type, Sam2Type
from ..pretrained.model_files import FLORENCE2, SAM2, choices, find, problem
from .florence import load_florence2
from .sam import load_sam2


class LoadFlorence2(io.ComfyNode):
    """A Florence-2 model, from disk or the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadFlorence2",
            display_name="Load Florence-2",
            category="attractor",
            description="Loads Florence-2, which finds what a phrase describes.",
            search_aliases=["florence2", "grounding", "detector"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=choices(FLORENCE2),
                    tooltip="From models/florence2 or models/LLM, in the converted format. Names that begin with "
                    "florence-community/ can be downloaded; base-ft is good enough for most photos.",
                ),
                io.Boolean.Input(
                    "download_if_missing",
                    default=False,
                    tooltip="Download a florence-community/ model from the Hugging Face hub into models/florence2 if it is "
                    "missing. An interrupted download continues when queued again.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Precision of the weights. auto: float16 if the GPU is fast with it, else float32.",
                ),
            ],
            outputs=[Florence2Type.Output("florence2", tooltip="Wire to Subject Mask, or to Make PDST Captions.")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return problem(FLORENCE2, model) or True

    @classmethod
    def execute(cls, model: str, download_if_missing: bool, dtype: str = "auto") -> io.NodeOutput:
        path = find(FLORENCE2, model, download_if_missing, cls.hidden.unique_id)
        with torch.inference_mode(False):
            return io.NodeOutput(load_florence2(path, resolve_dtype(dtype, (torch.float16, torch.bfloat16))))


class LoadSAM2(io.ComfyNode):
    """A SAM2 model, from disk or the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadSAM2",
            display_name="Load SAM2",
            category="attractor",
            description="Loads SAM2, which turns boxes into masks.",
            search_aliases=["segment anything", "sam"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=choices(SAM2),
                    tooltip="From models/sam2: official files (.pt or .safetensors; they need the sam2 package) or converted "
                    "folders. Names that begin with facebook/ can be downloaded; the smallest is good enough for most "
                    "photos.",
                ),
                io.Boolean.Input(
                    "download_if_missing",
                    default=False,
                    tooltip="Download a facebook/ model from the Hugging Face hub into models/sam2 if it is missing. An "
                    "interrupted download continues when queued again.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Precision of the computation; weights stay in float32. auto: bfloat16 if the GPU is fast with "
                    "it, else float16 or float32.",
                ),
            ],
            outputs=[Sam2Type.Output("sam2", tooltip="Wire to Subject Mask or Mask From Boxes.")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return problem(SAM2, model) or True

    @classmethod
    def execute(cls, model: str, download_if_missing: bool, dtype: str = "auto") -> io.NodeOutput:
        path = find(SAM2, model, download_if_missing, cls.hidden.unique_id)
        with torch.inference_mode(False):
            return io.NodeOutput(load_sam2(path, resolve_dtype(dtype, (torch.bfloat16, torch.float16))))
