"""PDST Evaluate and PDST Evaluate Options."""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io, ui

from ...trainer.concept import PersonalizedToken
from ..errors import UserError
from ..host import folders
from ..host.identity import clip_identity, model_identity, vae_identity
from ..host.links import Clip, Model, Vae
from ..host.progress import Progress, said
from ..host.sampling import evaluation_maker
from ..host.versions import made_with
from ..link_types import (
    EvaluateOptionsType,
    EvaluationEncodersType,
    PdstDatasetType,
    PdstResultsType,
    PersonalizedTokenType,
)
from ..locks import only_writer
from ..pictures import to_tensor
from .encoders import EvaluationEncoders
from .entries import misfits
from .evaluation import Evaluation, Setup
from .nodes_dataset import CATEGORY
from .options import EvaluateOptions, EvaluateSettings, recorded, widgets
from .pdst import Dataset
from .plan import limited
from .preflight import check
from .results import result_stamps

_finished: set[str] = set()  # stamps of results as runs of this session have left them


class PDSTEvaluate(io.ComfyNode):
    """Samples every caption of the held-out photos with tokens, and scores the images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTEvaluate",
            display_name="PDST Evaluate",
            category=CATEGORY,
            description="Tells how good a token or embedding is, by the paper's protocol (PDST): makes images of every caption "
            "of photos that training never saw, and compares them with prompt and photo. With a trigger phrase also of a "
            "LoRA, a DreamBooth checkpoint or any other model. Cancel keeps every finished batch, and queueing again "
            "continues from there.",
            search_aliases=[
                *("benchmark", "clip score", "dino score", "held-out", "test token", "overfitting"),
                *(
                    "evaluate embedding",
                    "evaluate textual inversion",
                    "evaluate lora",
                    "trigger word",
                    "dreambooth",
                    "sdxl",
                    "flux",
                ),
            ],
            is_output_node=True,
            is_input_list=True,  # several tokens come as a list, and are one evaluation
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="For tokens: a Stable Diffusion 1.5 model, before any Apply Personalized Token. With a trigger, "
                    "any model that ComfyUI makes images with. LoRAs on it are used.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the same model, before any Apply Personalized Token."),
                io.Vae.Input("vae", tooltip="The VAE of the same model."),
                PdstDatasetType.Input("dataset", tooltip="From Load PDST Dataset."),
                PersonalizedTokenType.Input(
                    "tokens",
                    optional=True,
                    tooltip="One token, or a list: of several methods, several subjects, or all checkpoints of a run "
                    "(Load Token Checkpoints). Each is evaluated on its own subject. Or type a trigger.",
                ),
                EvaluationEncodersType.Input(
                    "encoders", optional=True, tooltip="From Load Evaluation Encoders. Needed unless metrics is off."
                ),
                EvaluateOptionsType.Input(
                    "options",
                    optional=True,
                    tooltip="From PDST Evaluate Options: sampling, image size, batch size and shards. Unwired: its defaults.",
                ),
                *widgets(EvaluateSettings),
            ],
            outputs=[
                PdstResultsType.Output("results", tooltip="Wire to PDST Report."),
                io.String.Output("path", tooltip="The folder with the results, under output/pdst."),
                io.String.Output("summary", tooltip="Images and mean scores of each token."),
                io.Image.Output("samples", is_output_list=True, tooltip="The first image of each token."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: list | None = None, start_over: list | None = None, **_: object) -> str:
        """Runs again unless the results on disk are as a run left them (quick if none are missing); with start_over always.

        Every input comes as a list, and as [None] if it is wired.
        """
        return stamp((name or [None])[0], (start_over or [False])[0])

    @classmethod
    def execute(
        cls,
        model: list[Model],
        clip: list[Clip],
        vae: list[Vae],
        dataset: list[Dataset],
        tokens: list[PersonalizedToken | None] | None = None,
        encoders: list[EvaluationEncoders | None] | None = None,
        options: list[EvaluateOptions | None] | None = None,
        **inputs: list,
    ) -> io.NodeOutput:
        models, used = (model[0], clip[0], vae[0]), [token for token in tokens or [] if token is not None]
        scorers, more = (encoders or [None])[0], (options or [None])[0] or EvaluateOptions()
        settings = EvaluateSettings(**{name: values[0] for name, values in inputs.items()})
        entries = check(models, used, limited(dataset[0], settings.max_photos, settings.max_captions), scorers, settings, more)
        setup = Setup(
            settings=recorded(settings, more),
            models=_identities(*models),
            made_with=made_with(),
            shard=more.shard,
            shards=more.shards,
            save_images=settings.save_images,
            start_over=settings.start_over,
        )
        evaluation = Evaluation(
            folders.evaluation_path(settings.name.strip()),
            entries,
            scorers if settings.metrics else None,
            setup,
            lambda entry: evaluation_maker(*models, entry.token, more.sampling),
        )
        return complete(cls, evaluation, misfits(entries), (more.height, more.width))


def stamp(name: str | None, start_over: bool | None) -> str:
    """For a node's fingerprint: that of the results, if a run of this session has left them so; else always another.

    name, start_over: as typed; None if wired.
    """
    rerun = f"{time.time_ns()}"
    if name is None or start_over is not False:
        return rerun
    try:
        stamps = result_stamps([folders.evaluation_path(name.strip())])
    except UserError:
        return rerun  # the run says what is wrong
    return stamps if stamps in _finished else rerun  # ComfyUI compares with what was on disk before the run


def complete(
    cls: type[io.ComfyNode],
    evaluation: Evaluation,
    notes: list[str],
    size: tuple[int, int],
    others: tuple[str, ...] = (),
) -> io.NodeOutput:
    """Check, make or score what is missing, and the node's output; arguments as of `_output`."""
    with _only_writer(evaluation.folder, evaluation.setup):
        evaluation.check()
        progress = Progress(evaluation.total, cls.hidden.unique_id)
        evaluation.open(progress)
        evaluation.run(progress)
    output = _output(cls, evaluation, notes, size, others)
    _finished.add(result_stamps([evaluation.folder]))
    return output


def _only_writer(folder: Path, setup: Setup) -> AbstractContextManager[None]:
    """Of this share: other servers may make the other shares in the same folder."""
    share = f"shard-{setup.shard}-of-{setup.shards}"
    what = f"name: the evaluation '{folder.name}'" + (f", {share}," if setup.shards > 1 else "")
    return only_writer(folder, what, "Wait until it is done, or give this evaluation another name or shard.", f"{share}.")


def _identities(model: Model, clip: Clip, vae: Vae) -> dict[str, str]:
    """Hashes of the models, as a results file names them."""
    return {"model": model_identity(model), "text encoder": clip_identity(clip), "vae": vae_identity(vae)}


def _output(
    cls: type[io.ComfyNode], evaluation: Evaluation, notes: list[str], size: tuple[int, int], others: tuple[str, ...]
) -> io.NodeOutput:
    """notes: lines above the summary. size: height and width of the black image that stands in where none was saved. others:
    folders of results that go on to the report with these."""
    samples = [to_tensor(picture) for picture in evaluation.samples()] or [torch.zeros(1, *size, 3)]
    shown = ui.PreviewImage([sample[0] for sample in samples], cls=cls).as_dict()
    summary, path = "\n".join([*notes, evaluation.summary()]), str(evaluation.folder)
    return io.NodeOutput((*others, path), path, summary, samples, ui=said(summary, **shown))


class PDSTEvaluateOptions(io.ComfyNode):
    """Sampling and sharding for PDST Evaluate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTEvaluateOptions",
            display_name="PDST Evaluate Options",
            category=CATEGORY,
            description="How PDST Evaluate samples its images, and how an evaluation is split over several servers. Optional: "
            "without this node PDST Evaluate uses the defaults shown here.",
            search_aliases=["sampler", "steps", "cfg", "shard", "evaluation settings"],
            inputs=widgets(EvaluateOptions, optional=True),
            outputs=[EvaluateOptionsType.Output("options", tooltip="Wire to PDST Evaluate.")],
        )

    @classmethod
    def execute(cls, **options: Any) -> io.NodeOutput:
        return io.NodeOutput(EvaluateOptions(**options))
