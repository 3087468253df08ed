"""Settings of an evaluation: a results file has them as ever, and widgets keep their places in saved workflows."""

import json
from dataclasses import fields
from pathlib import Path

from attractor.nodes.evaluation.nodes_evaluate import PDSTEvaluate, PDSTEvaluateOptions
from attractor.nodes.evaluation.options import EvaluateOptions, EvaluateSettings, recorded

# Append only: a workflow in UI format lists the values of widgets by place.
WIDGETS = [
    "name",
    "images_per_caption",
    "seed",
    "include_floor",
    "save_images",
    "metrics",
    "max_photos",
    "max_captions",
    "pairs",
    "labels",
    "start_over",
    "trigger",
]
OPTIONS = ["sampler", "scheduler", "steps", "cfg", "width", "height", "batch_size", "negative", "shard", "shards"]


def test_a_header_of_default_settings_is_that_of_the_first_version():
    assert json.dumps(recorded(EvaluateSettings(), EvaluateOptions())) == (
        '{"sampler": "euler", "scheduler": "normal", "steps": 30, "cfg": 7.0, "width": 512, "height": 512, "negative": "", '
        '"images_per_caption": 5, "seed": 0, "batch_size": 5, "metrics": true, "max_photos": 0, "max_captions": 0}'
    )


def test_widgets_keep_their_order():
    inputs = PDSTEvaluate.define_schema().inputs
    assert [i.id for i in inputs] == ["model", "clip", "vae", "dataset", "tokens", "encoders", "options", *WIDGETS]
    required = [i.optional for i in inputs if i.id in WIDGETS]
    assert required == sorted(required), "the page lists required widgets first: one behind an optional one would move all"
    assert [i.id for i in PDSTEvaluateOptions.define_schema().inputs] == OPTIONS


def test_an_options_node_left_alone_is_as_good_as_none():
    chosen = {i.id: i.default for i in PDSTEvaluateOptions.define_schema().inputs}
    assert PDSTEvaluateOptions.execute(**chosen).args == (EvaluateOptions(),)
    assert PDSTEvaluateOptions.execute().args == (EvaluateOptions(),)
    assert len(chosen) == len(fields(EvaluateOptions))


def test_the_help_page_lists_every_option_with_its_default():
    page = Path(__file__).resolve().parents[2] / "web" / "docs" / "AttractorPDSTEvaluateOptions.md"
    rows = [line.split("|")[1:3] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = [pair for names, values in rows for pair in zip(names.split(","), values.split(","), strict=True)]
    defaults = {row.name: row.default for row in fields(EvaluateOptions)}
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in defaults.items()}
    assert {name.strip(" `"): value.strip() for name, value in listed} == {**shown, "negative": "empty"}
