"""PDST Evaluate: the schema, the checks before any work, and the wiring of an evaluation."""

import time

import torch
from comfy_api.latest import io, ui

from ..errors import UserError
from ..host import folders
from ..host.identity import clip_identity, model_identity, vae_identity
from ..host.progress import Progress
from ..host.sampling import SAMPLERS, SCHEDULERS, Sampling, evaluation_maker
from ..link_types import EvaluationEncodersType, PdstDatasetType, PdstResultsType, PersonalizedTokenType
from ..pictures import to_tensor
from .entries import misfits
from .evaluation import Evaluation, Options
from .nodes_dataset import CATEGORY
from .plan import limited
from .preflight import check
from .results import result_stamps

_DEFAULTS = {
    "negative": "",
    "metrics": True,
    "pairs": "",
    "labels": "",
    "max_photos": 0,
    "max_captions": 0,
    "shard": 1,
    "shards": 1,
    "start_over": False,
}
_SETTINGS = ("images_per_caption", "seed", "batch_size", "metrics", "max_photos", "max_captions")
_finished: set[str] = set()  # stamps of results as runs of this session have left them


class PDSTEvaluate(io.ComfyNode):
    """Samples every caption of the held-out photos with tokens, and scores the images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTEvaluate",
            display_name="PDST Evaluate",
            category=CATEGORY,
            description="Makes images of every caption of the held-out photos and scores them against prompt and photo. "
            "Cancel keeps every finished batch, and queueing again goes on from it.",
            search_aliases=["benchmark", "clip score", "dino score", "held-out", "test token", "overfitting"],
            is_output_node=True,
            is_input_list=True,  # several tokens come as a list, and are one evaluation
            hidden=[io.Hidden.unique_id],
            inputs=_wired_inputs() + _main_inputs() + _advanced_inputs(),
            outputs=[
                PdstResultsType.Output("results", tooltip="Wire to PDST Report."),
                io.String.Output("path", tooltip="The folder with the results, under output/pdst."),
                io.String.Output("summary", tooltip="Images and mean scores of each token."),
                io.Image.Output("samples", is_output_list=True, tooltip="The first image of each token."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, start_over=None, **_):
        """Runs again unless results on disk are as a run has left them, which is quick where none are missing; with
        start_over each time.

        Every input comes as a list, and [None] where it is wired.
        """
        (name,), (start_over,) = name or [None], start_over or [False]
        anew = f"{time.time_ns()}"
        if name is None or start_over is not False:
            return anew
        try:
            stamps = result_stamps([folders.evaluation_path(name.strip())])
        except UserError:
            return anew  # the run says what is wrong
        return stamps if stamps in _finished else anew  # the host knows what was on disk before a run only

    @classmethod
    def execute(cls, model, clip, vae, dataset, tokens=None, encoders=None, **inputs) -> io.NodeOutput:
        (model,), (clip,), (vae,), (dataset,) = model, clip, vae, dataset
        tokens = [token for token in tokens or [] if token is not None]
        encoders = encoders[0] if encoders else None
        inputs = {**_DEFAULTS, **{name: values[0] for name, values in inputs.items()}}
        dataset = limited(dataset, inputs["max_photos"], inputs["max_captions"])
        entries = check(model, clip, vae, dataset, tokens, encoders, inputs)
        sampling = Sampling(
            **{name: inputs[name] for name in ("sampler", "scheduler", "steps", "cfg", "width", "height", "negative")}
        )
        options = Options(
            settings={**sampling.to_dict(), **{name: inputs[name] for name in _SETTINGS}},
            models={"model": model_identity(model), "text encoder": clip_identity(clip), "vae": vae_identity(vae)},
            shard=inputs["shard"],
            shards=inputs["shards"],
            save_images=inputs["save_images"],
            start_over=inputs["start_over"],
        )
        evaluation = Evaluation(
            folders.evaluation_path(inputs["name"].strip()),
            entries,
            encoders if inputs["metrics"] else None,
            options,
            lambda entry: evaluation_maker(model, clip, vae, entry.token, sampling),
        )
        evaluation.check()
        progress = Progress(evaluation.total, cls.hidden.unique_id)
        evaluation.open(progress)
        evaluation.run(progress)
        samples = [to_tensor(picture) for picture in evaluation.samples()]
        samples = samples or [torch.zeros(1, sampling.height, sampling.width, 3)]
        shown = ui.PreviewImage([sample[0] for sample in samples], cls=cls).as_dict()
        summary = "\n".join([*misfits(entries), evaluation.summary()])
        path = str(evaluation.folder)
        _finished.add(result_stamps([evaluation.folder]))
        return io.NodeOutput((path,), path, summary, samples, ui={**shown, "text": [summary]})


def _wired_inputs() -> list:
    return [
        io.Model.Input(
            "model", tooltip="The Stable Diffusion 1.5 model, before any Apply Personalized Token. LoRAs in it count."
        ),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint, before any Apply Personalized Token."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        PdstDatasetType.Input("dataset", tooltip="From Load PDST Dataset."),
        PersonalizedTokenType.Input(
            "tokens",
            optional=True,
            tooltip="A token, or a list: of several methods, several subjects, or all checkpoints of a "
            "run (Load Token Checkpoints). Each is evaluated on its subject.",
        ),
        EvaluationEncodersType.Input(
            "encoders", optional=True, tooltip="From Load Evaluation Encoders. Needed unless metrics is off."
        ),
    ]


def _main_inputs() -> list:
    return [
        io.String.Input(
            "name",
            default="my-evaluation",
            tooltip="Names the folder under output/pdst. The same name goes on where it stopped, and takes more "
            "tokens; with other settings or files it is refused.",
        ),
        io.Int.Input(
            "images_per_caption", default=5, min=1, max=100, tooltip="Images of each caption (paper: 5, in its appendix 10)."
        ),
        io.Combo.Input(
            "sampler",
            options=list(SAMPLERS),
            default="euler",
            tooltip="The host's samplers. Those with noise of their own (ancestral, SDE) take one image at a time: "
            "so each depends on its own seed only. The paper does not say which it used.",
        ),
        io.Combo.Input("scheduler", options=list(SCHEDULERS), default="normal", tooltip="The host's schedulers."),
        io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Sampling steps. The paper gives no number."),
        io.Float.Input("cfg", default=7.0, min=1.0, max=30.0, step=0.5, tooltip="Guidance. The paper gives no number."),
        io.Int.Input("width", default=512, min=64, max=2048, step=8, tooltip="Of the images, in pixels."),
        io.Int.Input("height", default=512, min=64, max=2048, step=8, tooltip="Of the images, in pixels."),
        io.Int.Input(
            "batch_size",
            default=5,
            min=1,
            max=64,
            tooltip="Images at once, all of one caption. Changes images in their last bits only, so results of "
            "several batch sizes are still not mixed.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**53 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Each image has a seed of its own, made of this, subject, photo, caption and number.",
        ),
        io.Boolean.Input("save_images", default=True, tooltip="Keep all images (PNG), for contact sheets. Off: scores only."),
        io.Boolean.Input(
            "include_floor",
            default=True,
            tooltip="Also evaluate the unlearned floor: the super-category's plain word instead of the token.",
        ),
    ]


def _advanced_inputs() -> list:
    more = {"optional": True, "advanced": True}
    return [
        io.String.Input("negative", default="", **more, tooltip="Negative prompt of all images."),
        io.Boolean.Input("metrics", default=True, **more, tooltip="Off: make the images and no scores."),
        io.String.Input(
            "pairs",
            default="",
            multiline=True,
            **more,
            tooltip="Which subject a token is, a line each: <my-dog> = dog-1. Needed only where the data set has "
            "several subjects, and neither the placeholder's name nor the super-category tells.",
        ),
        io.String.Input(
            "labels",
            default="",
            multiline=True,
            **more,
            tooltip="Names of the tokens in results, a line each. Empty: from placeholder, method and step.",
        ),
        io.Int.Input(
            "max_photos",
            default=0,
            min=0,
            max=10_000,
            **more,
            tooltip="For a quick look: the first test photos of each subject only. 0: all.",
        ),
        io.Int.Input(
            "max_captions",
            default=0,
            min=0,
            max=10_000,
            **more,
            tooltip="For a quick look: the first captions of each photo only. 0: all.",
        ),
        io.Int.Input(
            "shard",
            default=1,
            min=1,
            max=1000,
            **more,
            tooltip="Which share this server makes, of so many. Run 1 to K on K servers and put the files into one "
            "folder: the report gives the numbers of a single run.",
        ),
        io.Int.Input("shards", default=1, min=1, max=1000, **more, tooltip="How many shares. 1: everything here."),
        io.Boolean.Input(
            "start_over",
            default=False,
            **more,
            tooltip="Throw away what this name holds of these tokens, and what there does not fit, each time it "
            "is queued. Turn it off again.",
        ),
    ]
