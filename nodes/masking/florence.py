"""Florence-2: boxes from a phrase, by transformers' native classes only (no remote code)."""

from pathlib import Path

import torch
from comfy_api.latest import io
from torch import Tensor

from ..chart import to_picture
from ..errors import UserError
from ..host.managed import DTYPES, Managed, resolve_dtype
from ..types import Florence2Type
from .boxes import Box, Detection, clip
from .models import FLORENCE2, choices, find, needs_remote_code

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
_TOKENS = 1024  # a box takes four
_BEAMS = 3


class Florence2:
    """A loaded Florence-2."""

    def __init__(self, model, processor):
        self._managed, self._processor = Managed(model), processor

    def ground(self, image: Tensor, phrase: str) -> list[Detection]:
        """Where `phrase` is in an image (H, W, 3) in 0..1; boxes in its pixels, in Florence-2's order. Deterministic."""
        height, width = image.shape[:2]
        model, managed = self._managed.loaded(), self._managed
        inputs = self._processor(text=TASK + phrase, images=to_picture(image[None]), return_tensors="pt")
        inputs = {k: v.to(managed.device, managed.dtype) if v.is_floating_point() else v.to(managed.device)
                  for k, v in inputs.items()}
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=_TOKENS, num_beams=_BEAMS, do_sample=False)
        text = self._processor.batch_decode(ids, skip_special_tokens=False)[0]
        found = self._processor.post_process_generation(text=text, task=TASK, image_size=(width, height))[TASK]
        detections = [
            Detection(clip(Box(left, top, right - left, bottom - top), width, height), label)
            for (left, top, right, bottom), label in zip(found["bboxes"], found["labels"], strict=True)
        ]
        return [d for d in detections if d.box.width >= 1 and d.box.height >= 1]


def load_florence2(path: Path, dtype: torch.dtype) -> Florence2:
    """A folder in transformers' native format.

    Raises:
        UserError: what is wrong with the files, or what is missing to read them.
    """
    if needs_remote_code(path):
        raise UserError(f"model: {path.name} is in the old format that runs Python files of its own (microsoft/Florence-2-*). "
                        f"Use the converted one, such as {FLORENCE2.repositories[0]}: choose it and turn on "
                        "download_if_missing.")
    try:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration
    except ImportError as error:
        raise UserError("model: this transformers is too old for Florence-2, which needs 4.56 or newer. Update it: "
                        "pip install -U transformers.") from error
    from safetensors import SafetensorError

    try:
        model = Florence2ForConditionalGeneration.from_pretrained(path, local_files_only=True)
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"model: {path.name} is damaged or no Florence-2 model ({error}). Download it again.") from error
    return Florence2(model.to(dtype), processor)


class LoadFlorence2(io.ComfyNode):
    """A Florence-2 model, from disk or the hub."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadFlorence2",
            display_name="Load Florence-2",
            category="attractor",
            description="Loads Florence-2, which finds what a phrase names.",
            search_aliases=["florence2", "grounding", "detector"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input("model", options=choices(FLORENCE2),
                               tooltip="From models/florence2 or models/LLM, in the converted format. Names that begin with "
                                       "florence-community/ can be downloaded; base-ft is fine."),
                io.Boolean.Input("download_if_missing", default=False,
                                 tooltip="Fetch a florence-community/ model from the Hugging Face hub into models/florence2. "
                                         "A broken download goes on when queued again."),
                io.Combo.Input("dtype", options=list(DTYPES), default="auto", optional=True, advanced=True,
                               tooltip="Precision of the weights. auto: half where the GPU is fast at it."),
            ],
            outputs=[Florence2Type.Output("florence2", tooltip="Wire to Subject Mask.")],
        )

    @classmethod
    def execute(cls, model: str, download_if_missing: bool, dtype: str = "auto") -> io.NodeOutput:
        path = find(FLORENCE2, model, download_if_missing, cls.hidden.unique_id)
        with torch.inference_mode(False):
            return io.NodeOutput(load_florence2(path, resolve_dtype(dtype)))
