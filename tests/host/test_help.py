"""Every node explains itself: a help page, a tooltip on each input and output, and the words that people search for."""

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "web" / "docs"


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


@pytest.mark.parametrize(
    "words, node",
    [
        ("textual inversion", "AttractorTrain"),
        ("train", "AttractorTrain"),
        ("train embedding", "AttractorTrain"),
        ("SD1.5", "AttractorTrain"),
        ("personalise", "AttractorTrain"),
        ("personalize", "AttractorApplyToken"),
        ("textual inversion", "AttractorApplyToken"),
        ("embedding", "AttractorLoadNeTIMapper"),
        ("embedding", "AttractorSaveToken"),
    ],
)
def test_the_host_finds_a_node_by_what_people_type(schemas, words, node):
    """Its search looks at these three only; the description is what is read next."""
    schema = next(schema for schema in schemas if schema.node_id == node)
    searched = [schema.node_id, schema.display_name, *schema.search_aliases]
    assert any(words.lower() in text.lower() for text in searched), searched


def test_the_first_sentence_of_the_training_node_says_what_it_is(schemas):
    description = next(schema.description for schema in schemas if schema.node_id == "AttractorTrain")
    for words in ("Textual inversion", "Stable Diffusion 1.5", "trains", "embedding", "personalises"):
        assert words in description.split(". Chart")[0]


@pytest.mark.parametrize(
    "word, page, explained",
    [
        ("NeTI", "AttractorLoadNeTIMapper", "small network that gives the token another embedding"),
        ("PDST", "AttractorLoadPDST", "is the paper's data set"),
        ("PDST", "AttractorPDSTEvaluate", "the paper's protocol, called PDST"),
        ("floor", "AttractorPDSTEvaluate", "plain word of the super-category in the token's place"),
        ("ceiling", "AttractorPDSTReport", "what real photos of the subject score"),
        ("shard", "AttractorPDSTEvaluate", "makes a share, a *shard*"),
        ("trigger", "AttractorPDSTEvaluate", "what the subject is called in prompts"),
        ("tau", "AttractorTrainingOptions", "Temperature of the InfoNCE loss"),
    ],
)
def test_words_that_nobody_knows_are_explained_where_they_stand(word, page, explained):
    text = " ".join((PAGES / f"{page}.md").read_text(encoding="utf-8").split())
    assert word in text and explained in text


def test_every_link_type_of_our_own_has_a_colour():
    from attractor.nodes import link_types

    ours = {kind.io_type for name, kind in vars(link_types).items() if name.endswith("Type")}
    script = (PAGES.parent / "slot_colours.js").read_text(encoding="utf-8")
    assert len(ours) == 9 and ours == set(re.findall(r"^    (\w+): \"#[0-9a-f]{6}\",$", script, re.MULTILINE))
