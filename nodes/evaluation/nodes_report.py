"""The PDST Report node."""

import os
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..errors import UserError
from ..host import folders
from ..host.progress import said
from ..link_types import PdstResultsType
from ..pictures import to_tensor
from .report import GROUPINGS, SHEETS
from .results import result_stamps

_MOST_EVALUATIONS = 1_000
_DEFAULTS: dict[str, Any] = {"baseline": "", "group_by": GROUPINGS[0], "resamples": 2000, "seed": 0}


class PDSTReport(io.ComfyNode):
    """Compares evaluations: tables, charts and a contact sheet, as images and files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTReport",
            display_name="PDST Report",
            category="attractor/evaluation",
            description="Compares evaluated tokens, methods and checkpoints: scores with intervals between a floor (the plain "
            "word in the token's place) and a ceiling (real photos), the paper's charts, and a contact sheet. Writes an HTML "
            "page, Markdown, CSV and JSON lines.",
            search_aliases=["benchmark", "compare tokens", "compare embeddings", "html report", "contact sheet", "overfitting"],
            is_output_node=True,
            inputs=[*_main_inputs(), *_advanced_inputs()],
            outputs=[
                io.Image.Output("scores", tooltip="Held-out scores with intervals."),
                io.Image.Output(
                    "bubbles", tooltip="The paper's Fig. 5: CLIP-T against DINO or CLIP-I; disc size is the third."
                ),
                io.Image.Output("curves", tooltip="The paper's Fig. 1: scores over steps, held-out and training photos."),
                io.Image.Output("contact_sheet", tooltip="Held-out photos beside each system's images of their captions."),
                io.String.Output("summary", tooltip="All tables in Markdown."),
                io.String.Output("path", tooltip="The HTML page on disk."),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, results: tuple[str, ...] | None = None, evaluations: str = "", name: str = "", **inputs: object
    ) -> str:
        """Changes when the results on disk change, so that the node runs again."""
        try:
            return result_stamps(_folders(results, evaluations))
        except UserError:
            return ""

    @classmethod
    def execute(
        cls,
        evaluations: str,
        name: str,
        y_axis: str,
        contact_sheet: str,
        results: tuple[str, ...] | None = None,
        **inputs: Any,
    ) -> io.NodeOutput:
        paths = _folders(results, evaluations)
        if problems := _target_problems(name.strip(), paths):
            raise UserError.of(problems)
        from .report.make_report import make_report  # only now: neither ComfyUI's start nor an error need wait for matplotlib

        settings = {**_DEFAULTS, **inputs, "y_axis": y_axis, "contact_sheet": contact_sheet}
        report = make_report(paths, _target(name, paths), name.strip() or paths[0].name, **settings)
        images = [to_tensor(picture) for picture in report.pictures]
        preview = ui.PreviewImage([image[0] for image in images], cls=cls).as_dict()
        shown = said(f"{report.summary}\n{report.path}", **preview, report=[folders.report_name(report.path)])
        return io.NodeOutput(*images, report.markdown, str(report.path), ui=shown)


def _folders(results: tuple[str, ...] | None, evaluations: str) -> list[Path]:
    """The folders of the evaluations that are wired and of those that are named.

    Raises:
        UserError: a name cannot be a folder's or there is no such folder, or no evaluation was given.
    """
    paths, problems = [Path(path) for path in results or ()], []
    names = list(dict.fromkeys(filter(None, map(str.strip, evaluations.splitlines()))))
    if len(names) > _MOST_EVALUATIONS:
        raise UserError(f"evaluations: there are {len(names):,} names, and {_MOST_EVALUATIONS:,} is the most. Remove some.")
    for line in names:
        try:
            path = folders.evaluation_path(line)
        except UserError as error:
            problems.append(f"evaluations: {error}")
            continue
        if not os.path.isdir(path):
            problems.append(f"evaluations: there is no folder {line} in output/pdst. Run PDST Evaluate under this name first.")
        paths.append(path)
    if problems:
        raise UserError.of(problems)
    if not paths:
        raise UserError(
            "results: none are wired and evaluations is empty. Wire PDST Evaluate's results, or name evaluations "
            "(folders in output/pdst), one per line."
        )
    return list(dict.fromkeys(path.resolve() for path in paths))


def _target(name: str, paths: list[Path]) -> Path:
    """Where the report goes: beside the results of the only evaluation, or under a name of its own.

    Raises:
        UserError: the name cannot be a folder's.
    """
    return (folders.evaluation_path(name.strip()) if name.strip() else paths[0]) / "report"


def _target_problems(name: str, paths: list[Path]) -> list[str]:
    """Why the report cannot be written there; empty if it can."""
    if name:
        return folders.name_problems(name, "name", folders.evaluations_folder(), [f"{name}/report/report.html"])
    return folders.place_problems(paths[0], ["report/report.html"], f"results: {paths[0].name}")


def _main_inputs() -> list:
    return [
        PdstResultsType.Input("results", optional=True, tooltip="From PDST Evaluate or PDST Score Images."),
        io.String.Input(
            "evaluations",
            default="",
            multiline=True,
            tooltip="Names of more evaluations (folders in output/pdst), one per line. With names only, nothing need be "
            "wired: for what was evaluated before, or on other machines once all shards are in the folder.",
        ),
        io.String.Input(
            "name",
            default="",
            tooltip="The report's title and its folder: output/pdst/<name>/report. Empty: beside the first evaluation.",
        ),
        io.Combo.Input(
            "y_axis",
            options=["dino", "clip_i"],
            default="dino",
            tooltip="Which score the bubble chart shows upwards; the other one is the size of the discs.",
        ),
        io.Combo.Input(
            "contact_sheet",
            options=list(SHEETS),
            default=SHEETS[0],
            tooltip="Which captions to show: the best, median and worst of each subject, or the first of every held-out "
            "photo. The evaluation must have saved its images.",
        ),
    ]


def _advanced_inputs() -> list:
    more = {"optional": True, "advanced": True}
    return [
        io.String.Input(
            "baseline",
            default=_DEFAULTS["baseline"],
            **more,
            tooltip="The system (its name in the table) that all others are compared with. Empty: every pair is compared.",
        ),
        io.Combo.Input(
            "group_by",
            options=list(GROUPINGS),
            default=_DEFAULTS["group_by"],
            **more,
            tooltip="method: the tokens of one method, each on its own subject, make one row, as in the paper. token: each "
            "token has its own row.",
        ),
        io.Int.Input(
            "resamples",
            default=_DEFAULTS["resamples"],
            min=100,
            max=100_000,
            **more,
            tooltip="Number of bootstrap resamples for the intervals.",
        ),
        io.Int.Input(
            "seed",
            default=_DEFAULTS["seed"],
            min=0,
            max=2**31 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            **more,
            tooltip="For the bootstrap: the same seed gives the same intervals.",
        ),
    ]
