"""Florence-2: boxes from a phrase, by transformers' native classes only (no remote code)."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..host.managed import Managed
from ..pictures import to_picture
from ..pretrained.model_files import FLORENCE2, native_classes, read_weights, reading, runs_own_code
from .boxes import Box, Detection, clip

if TYPE_CHECKING:
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

# Finds every instance of a phrase. The alternative, <OPEN_VOCABULARY_DETECTION>, sometimes answers with polygons.
TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
# As published with Florence-2: beam search without sampling, so that the same photo gives the same boxes.
DECODING = {"num_beams": 3, "do_sample": False, "max_new_tokens": 1024}
CAPTION_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


class Florence2:
    """A loaded Florence-2."""

    def __init__(self, model: "Florence2ForConditionalGeneration", processor: "Florence2Processor"):
        self._managed, self._processor = Managed(model), processor

    def ground(self, image: Tensor, phrase: str) -> list[Detection]:
        """Where `phrase` is in an image (H, W, 3) in 0..1; boxes in its pixels, in Florence-2's order. Deterministic.

        Florence-2 gives no scores for grounding: `Detection.score` stays None.

        Raises:
            UserError: the phrase cannot be used.
        """
        if "<" in phrase:  # Florence-2 marks tasks and locations with it
            raise UserError(f"phrase: {phrase!r} contains a <. Use plain words, such as the dog.")
        height, width = image.shape[:2]
        model = self._managed.loaded()
        inputs = self._processor(text=TASK + phrase, images=to_picture(image[None]), return_tensors="pt")
        if inputs["input_ids"].shape[1] > model.config.text_config.max_position_embeddings:
            raise UserError(f"phrase: {len(phrase)} characters are more than Florence-2 can read. Use a few words.")
        with torch.inference_mode():
            ids = model.generate(**inputs.to(self._managed.device, model.dtype), **DECODING)
        text = self._processor.batch_decode(ids, skip_special_tokens=False)[0]
        found = self._processor.post_process_generation(text=text, task=TASK, image_size=(width, height))[TASK]
        detections = [
            Detection(clip(Box(left, top, right - left, bottom - top), width, height), label)
            for (left, top, right, bottom), label in zip(found["bboxes"], found["labels"], strict=True)
        ]
        return [d for d in detections if d.box.width >= 1 and d.box.height >= 1]

    def captions(self, image: Tensor, count: int) -> list[str]:
        """Up to `count` sentences that describe an image (H, W, 3) in 0..1, short ones first. Deterministic.

        They are the best beams of each of Florence-2's three caption tasks, so some differ only in a few words.
        """
        each = -(-count // len(CAPTION_TASKS))
        model = self._managed.loaded()
        decoding = {
            **DECODING,
            "num_beams": max(DECODING["num_beams"], each),
            "num_return_sequences": each,
            "max_new_tokens": 256,
        }
        found = []
        for task in CAPTION_TASKS:
            inputs = self._processor(text=task, images=to_picture(image[None]), return_tensors="pt")
            with torch.inference_mode():
                ids = model.generate(**inputs.to(self._managed.device, model.dtype), **decoding)
            for text in self._processor.batch_decode(ids, skip_special_tokens=True):
                found.append(" ".join(re.sub(r"<[^<>]*>", " ", text).split()))  # location tokens, if there are any
        return list(dict.fromkeys(text for text in found if text))[:count]


def load_florence2(path: Path, dtype: torch.dtype) -> Florence2:
    """A folder in transformers' native format, with weights in `dtype`.

    Raises:
        UserError: what is wrong with the files, or what is missing to read them.
    """
    if runs_own_code(path):
        raise UserError(
            f"model: {path.name} is in the older format with Python files of its own (microsoft/Florence-2-*), "
            f"which this pack never runs. Use a converted one: choose {FLORENCE2.repositories[0]} and turn on "
            "download_if_missing."
        )
    model_class, processor_class = native_classes(FLORENCE2, "Florence2ForConditionalGeneration", "Florence2Processor")
    with reading(FLORENCE2, path):
        model = read_weights(model_class, path)
        processor = processor_class.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if "<loc_999>" not in processor.tokenizer.get_vocab():  # without its files, transformers makes an empty one
            raise ValueError("its tokenizer has no location tokens")
    return Florence2(model.to(dtype), processor)
