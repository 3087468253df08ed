"""PDST Report: the schema and its wiring."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..errors import UserError
from ..host import folders
from ..link_types import PdstResultsType
from ..pictures import to_tensor
from .report import GROUPINGS, SHEETS
from .results import result_stamps

_DEFAULTS = {"baseline": "", "group_by": GROUPINGS[0], "resamples": 2000, "seed": 0}


class PDSTReport(io.ComfyNode):
    """Tables, charts and a contact sheet of evaluations, as pictures and files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorPDSTReport",
            display_name="PDST Report",
            category="attractor/evaluation",
            description="Compares evaluated tokens, methods and checkpoints: scores with intervals, the paper's charts and a "
            "contact sheet. Writes one HTML page, Markdown, CSV and JSON lines.",
            search_aliases=["benchmark", "compare tokens", "html report", "contact sheet", "overfitting"],
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.Image.Output("scores", tooltip="Held-out scores with intervals."),
                io.Image.Output("bubbles", tooltip="The paper's Fig. 5: CLIP-T across, DINO or CLIP-I up, the third as size."),
                io.Image.Output("curves", tooltip="The paper's Fig. 1: scores over checkpoints, held-out and training photos."),
                io.Image.Output("contact_sheet", tooltip="Held-out photos beside what each system made of their captions."),
                io.String.Output("summary", tooltip="All tables in Markdown."),
                io.String.Output("path", tooltip="The HTML page on disk."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, results=None, evaluations: str = "", name: str = "", **inputs):
        """Runs again when results on disk have changed."""
        try:
            paths = _folders(results, evaluations)
        except UserError:
            return ""
        return result_stamps(paths)

    @classmethod
    def execute(cls, evaluations: str, name: str, y_axis: str, contact_sheet: str, results=None, **inputs) -> io.NodeOutput:
        from .report.make_report import make_report  # only now: ComfyUI's start need not wait for drawing and writing

        paths = _folders(results, evaluations)
        settings = {**_DEFAULTS, **inputs, "y_axis": y_axis, "contact_sheet": contact_sheet}
        report = make_report(paths, _target(name, paths), name.strip() or paths[0].name, **settings)
        images = [to_tensor(picture) for picture in report.pictures]
        preview = ui.PreviewImage([image[0] for image in images], cls=cls).as_dict()
        text = f"{report.path}\n\n{report.summary}"
        return io.NodeOutput(*images, report.markdown, str(report.path), ui={**preview, "text": [text]})


def _folders(results, evaluations: str) -> list[Path]:
    """The evaluations that are wired and those that are named.

    Raises:
        UserError: a name is no plain one, or there are none.
    """
    paths, problems = [Path(path) for path in results or ()], []
    for line in filter(None, map(str.strip, evaluations.splitlines())):
        try:
            path = folders.evaluation_path(line)
        except UserError as error:
            problems.append(f"evaluations: {error}")
            continue
        if not path.is_dir():
            problems.append(f"evaluations: there is no folder {line} in output/pdst. Run PDST Evaluate under this name first.")
        paths.append(path)
    if problems:
        raise UserError.of(problems)
    if not paths:
        raise UserError(
            "results: none are wired and evaluations is empty. Wire PDST Evaluate's results, or name evaluations "
            "(folders in output/pdst), one a line."
        )
    return list(dict.fromkeys(path.resolve() for path in paths))


def _target(name: str, paths: list[Path]) -> Path:
    """Where the report goes: beside the results of the only evaluation, or under a name of its own.

    Raises:
        UserError: the name is no plain one.
    """
    return (folders.evaluation_path(name.strip()) if name.strip() else paths[0]) / "report"


def _inputs() -> list:
    more = {"optional": True, "advanced": True}
    return [
        PdstResultsType.Input("results", optional=True, tooltip="From PDST Evaluate."),
        io.String.Input(
            "evaluations",
            default="",
            multiline=True,
            tooltip="Names of more evaluations (folders in output/pdst), one a line. Needs no wire: reports what "
            "was evaluated before, or on other machines once all shards lie in the folder.",
        ),
        io.String.Input(
            "name",
            default="",
            tooltip="Title, and folder under output/pdst that the report goes into (its subfolder report). Empty: "
            "the first evaluation's.",
        ),
        io.Combo.Input(
            "y_axis",
            options=["dino", "clip_i"],
            default="dino",
            tooltip="What the bubble chart has upwards; the other one is the size of the discs.",
        ),
        io.Combo.Input(
            "contact_sheet",
            options=list(SHEETS),
            default=SHEETS[0],
            tooltip="Which captions to show: the best, median and worst of each subject, or the first of every "
            "held-out photo. Needs images that were saved.",
        ),
        io.String.Input(
            "baseline",
            default="",
            **more,
            tooltip="A system (its name in the table) that all others are compared with. Empty: every pair.",
        ),
        io.Combo.Input(
            "group_by",
            options=list(GROUPINGS),
            default=GROUPINGS[0],
            **more,
            tooltip="method: tokens of one method, each on its subject, make one row, as in the paper. token: each "
            "has a row of its own.",
        ),
        io.Int.Input(
            "resamples",
            default=_DEFAULTS["resamples"],
            min=100,
            max=100_000,
            **more,
            tooltip="Bootstrap resamples for the intervals.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            **more,
            tooltip="Of the bootstrap: the same seed gives the same intervals.",
        ),
    ]
