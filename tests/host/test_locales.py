"""The nodes' words in other languages: nothing missing, nothing stale, nothing that the page could not show."""

import importlib.util
import json
import re
import shutil

import pytest

from source_files import ROOT

spec = importlib.util.spec_from_file_location("locales", ROOT / "scripts" / "locales.py")
locales = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locales)


def test_english_is_what_the_nodes_say_and_every_language_is_whole(schemas):
    """If it fails: python scripts/dev.py locales writes English; the other languages are written by hand."""
    assert {path.name for path in locales.LOCALES.iterdir()} == {"en", "zh"}
    assert locales.faults(schemas) == []


def test_chinese_is_chinese(schemas):
    texts = dict(locales.texts(locales.read("zh", "nodeDefs.json")))
    told = {key: text for key, text in texts.items() if key.endswith((".description", ".tooltip"))}
    assert len(told) > 200
    assert [key for key, text in told.items() if not re.search("[\u4e00-\u9fff]", text)] == []
    for schema in schemas:  # messages and help pages name widgets by their ids
        for part in schema.inputs:
            name = texts[f"{schema.node_id}.inputs.{part.id}.name"]
            assert not hasattr(part, "default") or part.id in name or getattr(part, "force_input", None), name


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda nodes: nodes["AttractorTrain"].pop("description"), "AttractorTrain.description is missing"),
        (
            lambda nodes: nodes["AttractorTrain"]["inputs"].update(old={"name": "x"}),
            "AttractorTrain.inputs.old.name is of nothing",
        ),
        (
            lambda nodes: nodes["AttractorTrain"].update(description="{} a"),
            "AttractorTrain.description has a special character",
        ),
        (lambda nodes: nodes["AttractorTrain"].update(description=" "), "AttractorTrain.description is empty"),
    ],
)
def test_a_fault_of_a_translation_is_found(schemas, tmp_path, monkeypatch, change, said):
    shutil.copytree(locales.LOCALES, tmp_path / "locales")
    monkeypatch.setattr(locales, "LOCALES", tmp_path / "locales")
    path = tmp_path / "locales" / "zh" / "nodeDefs.json"
    nodes = json.loads(path.read_text(encoding="utf-8"))
    change(nodes)
    path.write_text(json.dumps(nodes), encoding="utf-8")
    assert locales.faults(schemas) == [f"locales/zh/nodeDefs.json: {said}"]


def test_a_tooltip_that_was_changed_makes_english_stale(schemas, tmp_path, monkeypatch):
    shutil.copytree(locales.LOCALES, tmp_path / "locales")
    monkeypatch.setattr(locales, "LOCALES", tmp_path / "locales")
    path = tmp_path / "locales" / "en" / "nodeDefs.json"
    path.write_text(path.read_text(encoding="utf-8").replace("AdamW, constant", "Adam"), encoding="utf-8")
    assert locales.faults(schemas) == ["locales/en/nodeDefs.json: run python scripts/dev.py locales"]
