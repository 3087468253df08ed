"""What the nodes show in ComfyUI's own frontend, in a real browser, in both of its renderers.

Screenshots are kept in the folder that ATTRACTOR_SCREENSHOTS names, or else in pytest's own.
"""

import itertools
import json
import os
import time
from pathlib import Path

import pytest
from graphs import add_photos, add_tiny, add_training

from chromium import Chromium, find
from comfy_client import ComfyClient, Graph
from comfy_server import link
from example_workflows import NAMES, ROOT, SAM3, SD15, UI, read_api
from pdst_results import write_demonstration

pytestmark = [
    pytest.mark.one_host,
    pytest.mark.skipif(find() is None, reason="no Chromium here: install one, or name it in ATTRACTOR_CHROMIUM"),
]
READY = "window.app?.graph && window.LiteGraph?.registered_node_types?.AttractorTrain ? true : false"
NODE = "app.graph.nodes.find(node => node.type === 'AttractorTrain')"
PANEL = "document.querySelector('.attractor-panel')"
# Of the frontend's own making.
NOT_OURS = (
    *("deprecated", "accessed before initialization", "ERR_ABORTED", "huggingface.co", "/api/userdata", "/user.css"),
    "beforeunload",  # on a reload
)
TALLEST = 700  # pixels of a training node with its panel, at 100 %, in the legacy renderer


@pytest.fixture(scope="module", params=["legacy", "vue"])
def page(request, comfy_server, small_checkpoint, tmp_path_factory):
    """The frontend with one of its renderers. The server has the checkpoint that the example workflows name."""
    for name in (SD15, SAM3):
        link(small_checkpoint, comfy_server.base / "models" / "checkpoints" / name)
    ComfyClient(comfy_server.url).request("/settings/Comfy.TutorialCompleted", True)  # no dialog that welcomes a newcomer
    with Chromium(find(), tmp_path_factory.mktemp("profile")) as browser:
        browser.renderer = request.param
        browser.open(comfy_server.url, 1280, 900)
        wait(browser, READY)
        browser.run(f"app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {json.dumps(request.param == 'vue')})")
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Where screenshots are kept: ATTRACTOR_SCREENSHOTS, or pytest's own folder."""
    folder = Path(os.environ.get("ATTRACTOR_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wait(browser, condition, seconds=90):
    until = time.monotonic() + seconds
    while not browser.run(condition):
        assert time.monotonic() < until, (condition, browser.run(f"{PANEL}?.innerText"), browser.complaints[-5:])
        time.sleep(0.2)


def load(browser, graph):
    browser.run(f"app.loadApiJson({json.dumps(graph.prompt)}, 'training')")
    wait(browser, f"{NODE} ? true : false")
    # Or the frontend draws a new seed of the test model for every run.
    seeds = "app.graph.nodes.flatMap(node => node.widgets ?? []).filter(widget => widget.name === 'control_after_generate')"
    browser.run(f"{seeds}.forEach(widget => {{ widget.value = 'fixed' }})")


def state(name):
    return f"{PANEL}?.dataset.state === '{name}'"


def look(browser, path):
    """The node at 100 %, in the middle of the window."""
    browser.run(
        f"(([x, y]) => {{ app.canvas.ds.scale = 1; app.canvas.ds.offset = [320 - x, 110 - y]; }})({NODE}.pos);"
        "app.canvas.setDirty(true, true)"
    )
    time.sleep(0.7)
    browser.screenshot(path)


def complaints(browser):
    return [text for text in browser.complaints if not any(words in text for words in NOT_OURS)]


def test_a_run_is_followed_reloaded_cancelled_and_resumed(page, comfy, pictures):
    graph, name = Graph(), f"panel-{page.renderer}"
    images, masks = add_photos(graph, comfy, count=2)
    quick = {"sample_every": 3, "sample_steps": 1, "fixed_loss_every": 1, "prompts_per_step": "one"}
    quick["more_sample_prompts"] = "a {} in the snow"
    trained = {"name": name, "method": "textual_inversion+", "steps": 400, "resume": True, **quick}
    add_training(graph, add_tiny(graph), images, masks, **trained)

    load(page, graph)
    wait(page, f"({PANEL}?.innerText ?? '').includes('No run is named {name}')")
    page.run("app.queuePrompt(0, 1)")
    wait(page, f"{state('training')} && {PANEL}.querySelector('canvas') ? true : false")
    look(page, pictures / f"{page.renderer}-1-training.png")

    page.open(comfy.url, 1280, 900)  # in the middle of it
    wait(page, READY)
    load(page, graph)
    wait(page, f"{PANEL}?.querySelector('canvas') && /Step [1-9]/.test({PANEL}.innerText) ? true : false")
    wait(page, f"{PANEL}.querySelectorAll('.attractor-samples img[src*=step-]').length > 0")
    comfy.interrupt()
    wait(page, state("cancelled"))
    said = page.run(f"{PANEL}.innerText")
    assert "Cancelled at step" in said and f"Kept in output/neti/{name}: queue again to go on" in said
    look(page, pictures / f"{page.renderer}-2-cancelled.png")

    last = page.run(f"Number({PANEL}.innerText.match(/Step (\\d+)/)[1])") + 4
    page.run(f"{NODE}.widgets.find(widget => widget.name === 'steps').value = {last}")
    page.run("app.queuePrompt(0, 1)")
    wait(page, f"{PANEL}.innerText.includes('resumed at step')")
    wait(page, state("done"))
    assert f"output/neti/{name}/{name}.safetensors" in page.run(f"{PANEL}.innerText")
    for tab in ("Contrast", "Samples"):
        page.run(f"[...{PANEL}.querySelectorAll('.attractor-tab')].find(tab => tab.textContent === '{tab}').click()")
        look(page, pictures / f"{page.renderer}-3-{tab.lower()}.png")
    wait(page, f"[...{PANEL}.querySelectorAll('figure img')].filter(image => image.naturalWidth > 0).length === 3")
    labels = page.run(f"[...{PANEL}.querySelectorAll('figcaption')].map(caption => caption.textContent)")
    assert [label.split(", ")[-1] for label in labels] == ["prompt 1", "prompt 2", "training photo"]
    assert page.run("[...document.querySelectorAll('[data-testid^=node-body-] > img')].every(i => !i.getClientRects().length)")
    assert page.run(f"!({NODE}.imgs ?? []).length"), "the host shows the chart as well"
    if page.renderer == "legacy":
        assert page.run(f"{NODE}.size[1] + LiteGraph.NODE_TITLE_HEIGHT") <= TALLEST
    assert not complaints(page), complaints(page)


def test_a_report_opens_from_its_node(page, comfy, comfy_server, pictures):
    write_demonstration(comfy_server.output / "pdst" / "shown")
    graph = Graph()
    inputs = {"evaluations": "shown", "name": "", "y_axis": "dino", "contact_sheet": "none", "resamples": 100}
    graph.add("AttractorPDSTReport", **inputs)
    page.run(f"app.loadApiJson({json.dumps(graph.prompt)}, 'report')")
    wait(page, "app.graph.nodes.length === 1")
    # Workflows from files have an id, by which the history knows them again.
    page.run("app.loadGraphData({...app.graph.serialize(), id: crypto.randomUUID()})")
    wait(page, "app.graph.nodes.length === 1 && !/^0+-/.test(app.graph.id)")
    page.run("app.queuePrompt(0, 1)")
    wait(page, "document.querySelector('.attractor-said a') ? true : false")
    said = page.run("document.querySelector('.attractor-said').innerText")
    assert "report.html" in said and "floor" in said
    page.run("app.canvas.ds.scale = 1; app.canvas.ds.offset = [320, 110]; app.canvas.setDirty(true, true)")
    time.sleep(1.5)
    page.screenshot(pictures / f"{page.renderer}-4-report-node.png")
    said = "[...document.querySelectorAll('[data-node-id], .dom-widget')].map(element => element.innerText).join('')"
    assert page.run(said).count("real photos") == 1, "the host says it as well"

    address = page.run("document.querySelector('.attractor-said a').href")
    page.open(address, 1280, 900)
    assert page.run("document.querySelectorAll('svg').length") > 0 and "shown" in page.run("document.title")
    page.screenshot(pictures / f"{page.renderer}-5-report.png")
    assert not complaints(page), complaints(page)
    page.open(comfy.url, 1280, 900)  # the workflow is there again, and what its node said
    wait(page, "(document.querySelector('.attractor-said')?.innerText ?? '').includes('report.html')")


TYPES = {  # every link type of the pack's own, and the input or output that shows it
    "PERSONALIZED_TOKEN": ("AttractorApplyToken", "inputs", "token"),
    "ATTRACTOR_TRAINING_OPTIONS": ("AttractorTrain", "inputs", "options"),
    "ATTRACTOR_FLORENCE2": ("AttractorSubjectMask", "inputs", "florence2"),
    "ATTRACTOR_SAM2": ("AttractorSubjectMask", "inputs", "sam2"),
    "EVALUATION_ENCODERS": ("AttractorPDSTEvaluate", "inputs", "encoders"),
    "PDST_EVALUATE_OPTIONS": ("AttractorPDSTEvaluate", "inputs", "options"),
    "PDST_DATASET": ("AttractorPDSTEvaluate", "inputs", "dataset"),
    "PDST_RESULTS": ("AttractorPDSTReport", "inputs", "results"),
}
COLOURS_NOW = """Object.fromEntries(Object.keys(TYPES).map(type => [type, [
    app.canvas.default_connection_color_byType[type], app.canvas.constructor.link_type_colors[type],
    getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`).trim()]]))"""


def test_links_of_our_own_have_colours_and_the_nodes_speak_chinese(page, comfy, pictures):
    page.complaints.clear()
    graph = Graph()
    for node in sorted({node for node, *_ in TYPES.values()}):
        graph.add(node)
    page.run(f"app.loadApiJson({json.dumps(graph.prompt)}, 'colours')")
    wait(page, f"app.graph.nodes.length === {len(graph.prompt)}")
    for kind, (node, side, name) in TYPES.items():
        found = f"app.graph.nodes.find(node => node.type === '{node}').{side}.find(slot => slot.name === '{name}').type"
        assert page.run(found) == kind, "a test of types that are gone"
    for palette in ("light", "dark"):  # each wipes out what it does not know
        page.run(f"app.extensionManager.setting.set('Comfy.ColorPalette', '{palette}')")
        time.sleep(0.3)
        colours = page.run(COLOURS_NOW.replace("TYPES", json.dumps(TYPES)))
        assert all(len(set(three)) == 1 and three[0].startswith("#") for three in colours.values()), colours
    if page.renderer == "vue":
        try:
            page.run("app.extensionManager.setting.set('Comfy.Locale', 'zh')")
            page.open(comfy.url, 1280, 900)
            wait(page, f"{READY} && {NODE}?.title === '训练吸引子嵌入'")  # the workflow is there again
            wait(page, f"{NODE}?.widgets.some(widget => widget.label === '步数 (steps)') ?? false")
            wait(page, "[...document.querySelectorAll('[data-node-id]')].some(node => node.innerText.includes('(strength)'))")
            page.screenshot(pictures / "vue-6-chinese.png")
        finally:
            page.run("app.extensionManager.setting.set('Comfy.Locale', 'en')")
    assert not complaints(page), complaints(page)


# Left, top, right and bottom of every node as it is on the page, in the graph's units.
BOXES = {
    "legacy": """app.graph.nodes.map(node => {
        const [x, y, width, height] = node.getBounding ? node.getBounding() : node.boundingRect;
        return [node.title, x, y, x + width, y + height];
    })""",
    "vue": """[...document.querySelectorAll('[data-node-id]')].map(element => {
        const {left, top, right, bottom} = element.getBoundingClientRect(), {scale} = app.canvas.ds;
        const node = app.graph.getNodeById(element.dataset.nodeId);
        return [node.title, left / scale, top / scale, right / scale, bottom / scale];
    })""",
}
FAULTS = """({
    unknown: app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type] && !node.subgraph).map(n => n.type),
    red: app.graph.nodes.filter(node => node.has_errors).map(node => node.title),
    said: [...document.querySelectorAll('[role=dialog], .p-toast-message, [data-testid*=error], [data-testid*=missing]')]
        .filter(element => element.getClientRects().length).map(element => element.innerText),
})"""


def open_workflow(page, workflow, name, ready):
    """Load a workflow; again if the page, which brings back what was open before a reload, has put that in its place."""
    for _ in range(5):
        page.run(f"app.loadGraphData({workflow}, true, true, {json.dumps(name)}, {{openSource: 'template'}})")
        until = time.monotonic() + 8
        while time.monotonic() < until:
            if page.run(ready):
                return
            time.sleep(0.2)
    raise AssertionError((name, page.run("app.graph.nodes.map(node => node.title)"), page.complaints[-5:]))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_workflow_opens_as_it_should(page, comfy, pictures, name):
    """Nothing missing, nothing red, nothing on top of anything else; and the page makes the committed API format of it."""
    page.complaints.clear()
    workflow = (UI / f"{name}.json").read_text(encoding="utf-8")
    count = len(json.loads(workflow)["nodes"])
    open_workflow(page, workflow, name, f"app.graph.nodes.length === {count}")
    wait(page, f"{BOXES[page.renderer]}.length === {count}")
    time.sleep(0.5)
    page.screenshot(pictures / f"{page.renderer}-workflow-{name}.png")
    assert page.run(FAULTS) == {"unknown": [], "red": [], "said": []}
    over = [
        (one, other)
        for (one, *a), (other, *b) in itertools.combinations(page.run(BOXES[page.renderer]), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert not over
    prompt = page.run("app.graphToPrompt().then(({output}) => output)")
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in read_api(name).items()
    }
    assert not complaints(page), complaints(page)


@pytest.mark.parametrize(
    "name, inside",
    [
        ("Mask a subject", {"AttractorLoadFlorence2", "AttractorLoadSAM2", "AttractorSubjectMask", "AttractorCropToSubject"}),
        ("Train a subject", {"AttractorTrain", "AttractorApplyToken"}),
    ],
)
def test_a_blueprint_opens_as_one_node(page, pictures, name, inside):
    page.complaints.clear()
    blueprint = (ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8")
    open_workflow(page, blueprint, name, f"app.graph.nodes.length === 1 && app.graph.nodes[0].title === {json.dumps(name)}")
    time.sleep(0.5)
    page.screenshot(pictures / f"{page.renderer}-blueprint-{name.split()[0].lower()}.png")
    assert page.run(FAULTS) == {"unknown": [], "red": [], "said": []}
    prompt = page.run("app.graphToPrompt().then(({output}) => output)")
    assert {node["class_type"] for node in prompt.values()} == inside
    widgets = page.run("app.graph.nodes[0].widgets.map(widget => widget.name)")
    assert {"phrase", "download_if_missing"} <= set(widgets) or {"placeholder", "steps", "method"} <= set(widgets), widgets
    assert not complaints(page), complaints(page)
