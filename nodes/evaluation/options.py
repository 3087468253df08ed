"""The settings of PDST Evaluate and PDST Evaluate Options: a row each, the only place that knows its default and limits."""

from dataclasses import dataclass, field, fields
from typing import Any

from comfy_api.latest import io

from ..host.sampling import SAMPLERS, SCHEDULERS, Sampling

_KINDS = {bool: io.Boolean, int: io.Int, float: io.Float, str: io.String}
_ADVANCED = {"optional": True, "advanced": True}


def _row(default: Any, tooltip: str, **widget: object) -> Any:
    """A setting. widget: what else its widget is made with, such as min, max, step, options or multiline."""
    return field(default=default, metadata={"tooltip": tooltip, **widget})


def widgets(settings: type, **common: object) -> list:
    """A node's inputs, one for each row of a class. common: for all of them."""
    found = []
    for row in fields(settings):
        kind = io.Combo if "options" in row.metadata else _KINDS[type(row.default)]
        found.append(kind.Input(row.name, default=row.default, **{**row.metadata, **common}))
    return found


@dataclass(frozen=True)
class EvaluateSettings:
    """What is set on PDST Evaluate."""

    name: str = _row(
        "my-evaluation",
        "Name of the folder under output/pdst. An evaluation of the same name continues where it stopped, and takes more "
        "tokens; if settings or files have changed, it is refused.",
    )
    images_per_caption: int = _row(5, "Images of each caption (paper: 5, in its appendix 10).", min=1, max=100)
    seed: int = _row(
        0,
        "Each image gets a seed of its own, derived from this one, subject, photo, caption and number.",
        min=0,
        max=2**53 - 1,
        control_after_generate=io.ControlAfterGenerate.fixed,
    )
    include_floor: bool = _row(
        True, "Also evaluate the floor: the plain word of the super-category in place of the token, as if nothing was learned."
    )
    save_images: bool = _row(True, "Keep all images (PNG), for contact sheets. Off: scores only.")
    metrics: bool = _row(True, "Off: make the images without scores.", **_ADVANCED)
    max_photos: int = _row(
        0, "For a quick look: only the first test photos of each subject. 0: all.", min=0, max=10_000, **_ADVANCED
    )
    max_captions: int = _row(
        0, "For a quick look: only the first captions of each photo. 0: all.", min=0, max=10_000, **_ADVANCED
    )
    pairs: str = _row(
        "",
        "Which token belongs to which subject, one pair per line: <my-dog> = dog-1. Needed only if the data set has several "
        "subjects and neither the placeholder nor the super-category tells which one is meant.",
        multiline=True,
        **_ADVANCED,
    )
    labels: str = _row(
        "",
        "Names in the results, one per line: of each token, and then of each trigger phrase. Empty: made from placeholder, "
        "method and step, or from the phrase. The report groups phrases by such a name as it groups tokens by method.",
        multiline=True,
        **_ADVANCED,
    )
    start_over: bool = _row(
        False,
        "Delete the results of these tokens under this name, and any others there that do not match the settings, every time "
        "this is queued. Turn it off again afterwards.",
        **_ADVANCED,
    )
    trigger: str = _row(
        "",
        "For a LoRA, a DreamBooth checkpoint or any other model: what the subject is called in prompts instead of a token, "
        "such as sks dog. {super_category} in it becomes the subject's. If the data set has several subjects, a line for each: "
        "dog-1: sks dog. Tokens may be wired as well, and are evaluated beside it.",
        multiline=True,
        optional=True,
    )


@dataclass(frozen=True)
class EvaluateOptions:
    """What is set on PDST Evaluate Options: sampling, and the share of the images that this server makes."""

    sampler: str = _row(
        Sampling.sampler,
        "ComfyUI's samplers. Those that add noise while sampling (ancestral, SDE) run one image at a time, so that each image "
        "depends on its own seed only. The paper does not say which one it used.",
        options=list(SAMPLERS),
    )
    scheduler: str = _row(Sampling.scheduler, "ComfyUI's schedulers.", options=list(SCHEDULERS))
    steps: int = _row(Sampling.steps, "Sampling steps. The paper gives no number.", min=1, max=1000)
    cfg: float = _row(
        Sampling.cfg, "Guidance scale. The paper gives no number. Flux-type models want 1.", min=1.0, max=30.0, step=0.5
    )
    width: int = _row(Sampling.width, "Width of the images in pixels. SDXL, SD3 and Flux want 1024.", min=64, max=2048, step=8)
    height: int = _row(
        Sampling.height, "Height of the images in pixels. SDXL, SD3 and Flux want 1024.", min=64, max=2048, step=8
    )
    batch_size: int = _row(
        5,
        "Images sampled at once, all of the same caption. Another batch size changes images by rounding only; results of "
        "different batch sizes are still not mixed.",
        min=1,
        max=64,
    )
    negative: str = _row(Sampling.negative, "Negative prompt of all images.")
    shard: int = _row(
        1,
        "Which share (shard) of the images this server makes. Run 1 to K on K servers and put the files into one folder: the "
        "report then shows the numbers of a single run.",
        min=1,
        max=1000,
    )
    shards: int = _row(1, "How many shares the images are split into. 1: this server makes everything.", min=1, max=1000)

    @property
    def sampling(self) -> Sampling:
        return Sampling(**{row.name: getattr(self, row.name) for row in fields(Sampling)})


def recorded(settings: EvaluateSettings, options: EvaluateOptions) -> dict:
    """What of these the images and scores depend on, as the header of a results file has it.

    Results are continued only if this is equal, so names, order and values never change without a version.
    """
    return {
        **options.sampling.to_dict(),
        "images_per_caption": settings.images_per_caption,
        "seed": settings.seed,
        "batch_size": options.batch_size,
        "metrics": settings.metrics,
        "max_photos": settings.max_photos,
        "max_captions": settings.max_captions,
    }
