"""Every node explains itself: a help page, and a tooltip on each input and output."""

import asyncio
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "web" / "docs"


@pytest.fixture(scope="module")
def schemas():
    import attractor

    extension = asyncio.run(attractor.comfy_entrypoint())
    asyncio.run(extension.on_load())  # registers the folders that lists are made of
    return [node.define_schema() for node in asyncio.run(extension.get_node_list())]


def test_every_node_has_a_help_page_and_every_page_a_node(schemas):
    named = {schema.node_id for schema in schemas}
    assert named == {path.stem for path in PAGES.glob("*.md")}
    assert all(len((PAGES / f"{name}.md").read_text(encoding="utf-8")) > 200 for name in named)


def test_every_input_and_output_has_a_tooltip(schemas):
    bare = [
        f"{schema.node_id}.{part.id}" for schema in schemas for part in (*schema.inputs, *schema.outputs) if not part.tooltip
    ]
    assert not bare
    assert all(schema.description and schema.display_name for schema in schemas)
