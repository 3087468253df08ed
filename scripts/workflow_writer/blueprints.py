"""Subgraphs for the node library."""

from .description import Workflow
from .formats import blueprint
from .parts import masking_models


def mask_blueprint(info):
    flow = Workflow("Mask a subject", "Finds what a phrase says in every photo, masks it, and cuts squares around it.", "")
    flow.group("")
    finder, cutter = masking_models(flow)
    flow.column()
    masked = flow.add("AttractorSubjectMask", "Find and mask", florence2=finder[0], sam2=cutter[0], phrase="the dog")
    flow.column()
    squares = flow.add("AttractorCropToSubject", "Squares around it", masks=masked[0])
    inputs = {
        "images": [(masked, "images"), (squares, "images")],
        "phrase": [(masked, "phrase")],
        "florence2": [(finder, "model")],
        "sam2": [(cutter, "model")],
        "download_if_missing": [(finder, "download_if_missing"), (cutter, "download_if_missing")],
        "resolution": [(squares, "resolution")],
    }
    outputs = {"images": squares[0], "masks": squares[1], "overlay": masked[1]}
    return blueprint(flow, info, "attractor", inputs, outputs)


def train_blueprint(info):
    flow = Workflow("Train a subject", "Trains a textual inversion (NeTI+) on photos and masks, and applies it.", "")
    flow.group("")
    trained = flow.add("AttractorTrain", "Train")
    flow.column()
    applied = flow.add("AttractorApplyToken", "Apply the token", token=trained[0])
    both = {name: [(trained, name), (applied, name)] for name in ("model", "clip")}
    own = ("vae", "images", "masks", "name", "super_category", "placeholder", "method", "steps")
    inputs = {**both, **{name: [(trained, name)] for name in own}}
    outputs = {"MODEL": applied[0], "CLIP": applied[1], "token": trained[0], "loss_chart": trained[1]}
    return blueprint(flow, info, "attractor", inputs, outputs)
