"""The example workflows on models that are at hand: the toy world's, and the small ones for masking."""

import json
from pathlib import Path

from graphs import EVALUATE_OPTIONS, wire_options

ROOT = Path(__file__).resolve().parents[2]
UI, API = ROOT / "example_workflows", ROOT / "workflows" / "api"
NAMES = sorted((path.stem for path in UI.glob("*.json")), key=lambda name: int(name.split("_")[0]))  # as they are numbered
SD15, SAM3 = "v1-5-pruned-emaonly-fp16.safetensors", "sam3.1_multiplex_fp16.safetensors"  # the checkpoints that they name

PLANNED = {"images_per_caption", "seed", "max_photos", "max_captions"}  # which PDST Prompts has as well

_AT_HAND = {
    "AttractorLoadEvaluationEncoders": {"clip": "evaluation/toy-clip", "dino": "evaluation/toy-dino"},
    "AttractorLoadFlorence2": {"model": "florence2/tiny"},
    "AttractorLoadSAM2": {"model": "sam2/tiny"},
}


def read_api(name):
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def on_toy_world(name, size=128, sampling_steps=20, evaluate=None, options=None, **training):
    """A workflow in API format on the toy world's model. size: pixels of all images; evaluate: changes of PDST Evaluate and its
    options; options, training: of the training."""
    prompt = read_api(name)
    sampling = {"steps": sampling_steps, "cfg": 5.0, "width": size, "height": size, "batch_size": 2}
    for node_id, node in list(prompt.items()):
        kind, inputs = node["class_type"], node["inputs"]
        inputs |= _AT_HAND.get(kind, {})
        if kind == "CheckpointLoaderSimple":
            node.update(class_type="TestToyWorld", inputs={})
        elif kind == "SAM3_Detect":  # which is not at hand: the photos' own masks
            node.update(class_type="ThresholdMask", inputs={"mask": [inputs["image"][0], 1], "value": 0.5})
        elif kind == "EmptyLatentImage":
            inputs.update(width=size, height=size)
        elif kind == "KSampler":
            inputs.update(steps=sampling_steps, cfg=5.0)
        elif kind == "AttractorCropToSubject":
            inputs.update(resolution=size)
        elif kind == "AttractorTrain":
            inputs |= training
        elif kind == "AttractorPDSTPrompts":
            inputs |= {key: value for key, value in (evaluate or {}).items() if key in PLANNED}
        elif kind == "AttractorPDSTEvaluate":
            changes = {**sampling, **(evaluate or {})}
            inputs |= {key: value for key, value in changes.items() if key not in EVALUATE_OPTIONS}
            own = {key: value for key, value in changes.items() if key in EVALUATE_OPTIONS}
            inputs["options"] = [f"{node_id}-options", 0]
            prompt[f"{node_id}-options"] = {"class_type": "AttractorPDSTEvaluateOptions", "inputs": own}
    wire_options(prompt, resolution=size, sample_steps=sampling_steps, sample_cfg=5.0, text_chunk=1024, **(options or {}))
    return prompt
