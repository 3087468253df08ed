"""PDST Prompts and PDST Score Images: for what no single node can sample, the user's own graph stands between them."""

from collections.abc import Mapping
from pathlib import Path

from comfy_api.latest import io
from torch import Tensor

from ..errors import UserError
from ..host import folders
from ..host.own_pictures import pictures_made
from ..host.progress import said
from ..host.versions import made_with as versions
from ..link_types import EvaluationEncodersType, PdstDatasetType, PdstPlanType, PdstResultsType
from ..pictures import as_images
from .encoders import EvaluationEncoders
from .entries import Entry, label_of, label_problems
from .evaluation import Evaluation, Setup
from .nodes_dataset import CATEGORY
from .nodes_evaluate import complete, stamp
from .options import EvaluateOptions, EvaluateSettings, widgets
from .own_graph import NO_TRIGGER, Pictures, Plan, match, phrases_of, readable
from .pdst import Dataset
from .plan import limited
from .preflight import evaluation_name_problems, room_problems
from .triggers import phrase_identity


class PDSTPrompts(io.ComfyNode):
    """The prompts of an evaluation as lists, for any graph that makes images of prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTPrompts",
            display_name="PDST Prompts",
            category=CATEGORY,
            description="Gives the prompts, seeds and names of a held-out evaluation as lists: the nodes behind it run once "
            "for each. Put your own graph between this and PDST Score Images, to compare IP-Adapter, image editing, API nodes "
            "or anything else with a token on the same photos.",
            search_aliases=[
                "prompt list",
                "benchmark prompts",
                "held-out",
                "test any model",
                "ip-adapter",
                "evaluate any graph",
            ],
            inputs=_prompts_inputs(),
            outputs=[
                PdstPlanType.Output("plan", tooltip="Wire to PDST Score Images: what the images are to show."),
                io.String.Output(
                    "prompts", is_output_list=True, tooltip="Wire to the text of CLIP Text Encode, or of any node."
                ),
                io.Int.Output("seeds", is_output_list=True, tooltip="Wire to the seed of the sampler."),
                io.String.Output(
                    "names",
                    is_output_list=True,
                    tooltip="Wire to names of PDST Score Images. Save Image takes them as filename_prefix, too.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, trigger: str | None = None) -> bool | str:
        """trigger: None if it is wired."""
        return True if trigger is None or trigger.strip() else NO_TRIGGER

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        trigger: str,
        images_per_caption: int,
        seed: int,
        max_photos: int = 0,
        max_captions: int = 0,
        shard: int = 1,
        shards: int = 1,
    ) -> io.NodeOutput:
        if shard > shards:
            raise UserError(f"shard is {shard} of {shards}: use 1 to {shards}.")
        cut = limited(dataset, max_photos, max_captions)
        settings = {
            "images_per_caption": images_per_caption,
            "seed": seed,
            "metrics": True,
            "max_photos": max_photos,
            "max_captions": max_captions,
        }
        plan = Plan(cut, phrases_of(trigger, cut), settings, shard, shards)
        if not plan.share:
            raise UserError(f"shards is {shards}, and there are only {len(plan.everything)} images: use fewer shards.")
        shots = [*plan.share.values()]
        prompts = [plan.prompt(shot) for shot in shots]
        of = f", shard {shard} of {shards}" if shards > 1 else ""
        text = f"{len(shots)} images{of}. The first prompt: {prompts[0]}"
        return io.NodeOutput(plan, prompts, [shot.seed for shot in shots], [*plan.share], ui=said(text))


def _prompts_inputs() -> list:
    plan = {row.id: row for row in widgets(EvaluateSettings)}  # the same numbers as there give the same images
    more = {"optional": True, "advanced": True}
    return [
        PdstDatasetType.Input("dataset", tooltip="From Load PDST Dataset."),
        io.String.Input(
            "trigger",
            default="",
            multiline=True,
            tooltip="What the subject is called in your graph's prompts: sks dog, or <my-dog> where Apply Personalized Token "
            "is in the graph. {super_category} becomes the subject's: that alone if a reference image tells the model what it "
            "looks like. If the data set has several subjects, a line for each: dog-1: sks dog.",
        ),
        plan["images_per_caption"],
        plan["seed"],
        plan["max_photos"],
        plan["max_captions"],
        io.Int.Input(
            "shard",
            default=1,
            min=1,
            max=1000,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Which share (shard) of the images this run asks for. For 1 to K after each other, set it to increment and "
            "queue K times.",
            **more,
        ),
        io.Int.Input(
            "shards",
            default=1,
            min=1,
            max=1000,
            tooltip="How many shares the images are split into. All images of a share are in memory at once, and a Cancel "
            "loses those that are not scored: split into shares of a hundred or so.",
            **more,
        ),
    ]


class PDSTScoreImages(io.ComfyNode):
    """Scores images of a plan, from wherever they come."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTScoreImages",
            display_name="PDST Score Images",
            category=CATEGORY,
            description="Scores images that your own graph made of PDST Prompts, or pictures that were made elsewhere: the "
            "same scores, results and report as PDST Evaluate. Images that are scored already are not scored again.",
            search_aliases=[
                "clip score",
                "dino score",
                "score images",
                "benchmark",
                "held-out",
                "ip-adapter",
                "evaluate any graph",
            ],
            is_output_node=True,
            is_input_list=True,  # all images of a plan are one evaluation
            hidden=[io.Hidden.unique_id],
            inputs=_score_inputs(),
            outputs=[
                PdstResultsType.Output("results", tooltip="Wire to PDST Report, or to a further PDST Score Images."),
                io.String.Output("path", tooltip="The folder with the results, under output/pdst."),
                io.String.Output("summary", tooltip="Images and mean scores."),
                io.Image.Output("samples", is_output_list=True, tooltip="The first image of each subject."),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, name: list | None = None, start_over: list | None = None, folder: list | None = None, **_: object
    ) -> str:
        """As PDST Evaluate, and again when a picture in the folder has changed."""
        typed = ((folder or [""])[0] or "").strip()
        pictures = folders.stamps(lambda: pictures_made(typed)) if typed else ""
        return stamp((name or [None])[0], (start_over or [False])[0]) + pictures

    @classmethod
    def execute(
        cls,
        plan: list[Plan],
        encoders: list[EvaluationEncoders],
        name: list[str],
        label: list[str],
        save_images: list[bool],
        images: list[Tensor | None] | None = None,
        names: list[str | None] | None = None,
        folder: list[str] | None = None,
        made_with: list[str] | None = None,
        start_over: list[bool] | None = None,
        results: list[tuple[str, ...] | None] | None = None,
    ) -> io.NodeOutput:
        wanted, scorers = plan[0], encoders[0]
        path = _checked_path(name[0].strip(), label[0].strip(), scorers)
        named = _named(wanted, images or [], names or [], ((folder or [""])[0] or "").strip())
        entries = _entries(wanted, label[0].strip(), ((made_with or [""])[0] or "").strip())
        _check_room(wanted, entries, named, name[0], save_images[0])
        setup = Setup(
            settings=wanted.settings,
            models={},
            made_with=versions(),
            shard=wanted.shard,
            shards=wanted.shards,
            save_images=save_images[0],
            start_over=bool((start_over or [False])[0]),
        )
        pictures = Pictures(wanted, named)
        evaluation = Evaluation(path, entries, scorers, setup, lambda entry: pictures, pictures.unchanged)
        return complete(cls, evaluation, [], (64, 64), (results or [None])[0] or ())


def _score_inputs() -> list:
    own = {row.id: row for row in widgets(EvaluateSettings)}
    return [
        PdstPlanType.Input("plan", tooltip="From PDST Prompts, which names the images."),
        EvaluationEncodersType.Input(
            "encoders", tooltip="From Load Evaluation Encoders, the same as for what it is compared with."
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="The images that your graph made of the prompts, one for each. Unwired: from folder.",
        ),
        io.String.Input(
            "names", optional=True, force_input=True, tooltip="The names of PDST Prompts, which tell what each image shows."
        ),
        PdstResultsType.Input(
            "results",
            optional=True,
            tooltip="From PDST Evaluate, or from another PDST Score Images: they go on to the report with these.",
        ),
        io.String.Input(
            "name",
            default="my-evaluation",
            tooltip="Name of the folder under output/pdst. That of a PDST Evaluate of the same photos: one report of both.",
        ),
        io.String.Input(
            "label", default="my-method", tooltip="What made the images, as the report is to call it, such as IP-Adapter."
        ),
        own["save_images"],
        io.String.Input(
            "folder",
            default="",
            optional=True,
            tooltip="Instead of images and names: input/ or output/ and a folder with a picture for each name, such as "
            "output/my-pictures. The numbers that Save Image adds to names are fine.",
        ),
        io.String.Input(
            "made_with",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="Model, nodes and settings that made the images, in your words; kept in the results.",
        ),
        io.Boolean.Input(
            "start_over",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Delete the results of this label under this name, and any others there that do not match, every time this "
            "is queued. Turn it off again afterwards.",
        ),
    ]


def _checked_path(name: str, label: str, encoders: EvaluationEncoders) -> Path:
    """The evaluation's folder.

    Raises:
        UserError: what is typed or wired cannot be.
    """
    problems = evaluation_name_problems(name) + label_problems(label, "label")
    if not encoders.describe():
        problems.append("encoders: scores need CLIP, DINO or both. Choose them on Load Evaluation Encoders.")
    if problems:
        raise UserError.of(problems)
    return folders.evaluation_path(name)


def _named(plan: Plan, batches: list[Tensor | None], names: list[str | None], folder: str) -> Mapping[str, Tensor | Path]:
    """Each image of the plan's share by its name: from what is wired, or from the folder.

    Raises:
        UserError: neither or both are given, or they do not fit.
    """
    wired, called = [batch for batch in batches if batch is not None], [name for name in names if name is not None]
    if bool(wired) == bool(folder):
        what = "both are given. Keep one" if folder else "neither is given. Wire images and names, or type a folder"
        raise UserError(f"images, folder: {what}.")
    if folder:
        files = pictures_made(folder)
        named = match(plan, [path.stem for path in files], files, "folder")
        readable([*named.values()])
        return named
    images = as_images(wired)
    if len(images) != len(called):
        raise UserError(
            f"images: there are {len(images)} of them, and {len(called)} names. Wire names of PDST Prompts to names, and make "
            "one image for each of its prompts (batch_size 1)."
        )
    return match(plan, called, images, "names")


def _entries(plan: Plan, label: str, made_with: str) -> list[Entry]:
    """One for each subject of which the share has images."""
    used = {shot.subject for shot in plan.share.values()}
    return [
        Entry(
            label_of(label, subject.name),
            None,
            subject,
            phrase_identity(subject, plan.phrases[subject.name]),
            plan.phrases[subject.name],
            label,
            made_with,
        )
        for subject in plan.dataset.subjects
        if subject.name in used
    ]


def _check_room(plan: Plan, entries: list[Entry], images: Mapping[str, Tensor | Path], name: str, save: bool) -> None:
    """Whether there is room for the results, under names that the disk takes.

    Raises:
        UserError: there is not.
    """
    sides = [image.shape[:2] for image in images.values() if isinstance(image, Tensor)]
    height, width = max(sides, key=lambda side: side[0] * side[1], default=(EvaluateOptions.height, EvaluateOptions.width))
    settings = EvaluateSettings(name=name, images_per_caption=plan.settings["images_per_caption"], save_images=save)
    options = EvaluateOptions(height=height, width=width, shard=plan.shard, shards=plan.shards)
    if problems := room_problems(entries, settings, options):
        raise UserError.of(problems)
