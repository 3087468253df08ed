"""The nodes in ComfyUI's own frontend, in a real browser."""

import json
import time

import pytest
from graphs import add_photos, add_tiny, add_training

from chromium import Chromium, find
from comfy_client import Graph

pytestmark = [
    pytest.mark.one_host,
    pytest.mark.skipif(find() is None, reason="no Chromium here: install one, or name it in ATTRACTOR_CHROMIUM"),
]
TALLEST = 700  # pixels of a training node with its chart, at 100 %
READY = "window.app?.graph && window.LiteGraph?.registered_node_types?.AttractorTrain ? true : false"
NODE = "app.graph.nodes.find(node => node.type === 'AttractorTrain')"


@pytest.fixture
def page(comfy_server, tmp_path):
    """The frontend, loaded; with the legacy renderer, which is its default."""
    with Chromium(find(), tmp_path / "profile") as browser:
        browser.open(comfy_server.url, 1600, 1000)
        wait(browser, READY)
        yield browser


def wait(browser, condition, seconds=60):
    until = time.monotonic() + seconds
    while not browser.run(condition):
        assert time.monotonic() < until, condition
        time.sleep(0.3)


def test_the_training_node_with_its_chart_fits_on_a_screen(comfy, page, tmp_path):
    graph = Graph()
    images, masks = add_photos(graph, comfy, count=2)
    add_training(graph, add_tiny(graph), images, masks, name="on-screen", method="textual_inversion+", steps=2)
    page.run(f"app.loadApiJson({json.dumps(graph.prompt)}, 'training')")
    wait(page, f"{NODE} ? true : false")
    empty = page.run(f"{NODE}.size[1] + LiteGraph.NODE_TITLE_HEIGHT")
    page.run("app.queuePrompt(0, 1)")
    wait(page, f"({NODE}.imgs ?? []).length > 0", 120)
    time.sleep(1)
    height = page.run(f"{NODE}.size[1] + LiteGraph.NODE_TITLE_HEIGHT")
    page.screenshot(tmp_path / "node.png")
    assert empty < height <= TALLEST, "the node grows by its chart and still fits on a screen"
