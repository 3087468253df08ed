"""The report's page in a browser, from disk and without a network: whole, quiet, and readable on a screen and on a phone."""

import pytest

from attractor.nodes.evaluation.report.gather import collect
from attractor.nodes.evaluation.report.sheet import make_sheet
from chromium import Chromium, find
from pdst_results import CORGI, write_checkpoints, write_demonstration, write_entry
from report_parts import MEANS, page_of

pytestmark = [
    pytest.mark.one_host,
    pytest.mark.skipif(find() is None, reason="no Chromium here: install one, or name it in ATTRACTOR_CHROMIUM"),
]

OVERFLOWING = """[...document.querySelectorAll("body *")].filter(e => !e.closest("svg") && !e.closest(".scroll") &&
    e.getClientRects().length && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1))
    .map(e => e.outerHTML.slice(0, 120))"""
SMALLEST = """Math.min(...[...document.querySelectorAll("td, th, p, li, figcaption, small, svg text")]
    .filter(e => e.getClientRects().length && e.textContent.trim())
    .map(e => parseFloat(getComputedStyle(e).fontSize) *
        (e.ownerSVGElement ? e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width : 1)))"""
CONTRAST = """(() => {
    const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
    const share = [.2126, .7152, .0722]
    const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel).reduce((s, v, i) => s + v * share[i], 0)
    const paper = light(getComputedStyle(document.body).backgroundColor)
    return Math.min(...[...document.querySelectorAll("h1, h2, p, td, th, b, small, summary, svg text")]
        .filter(e => e.getClientRects().length).map(e => light(getComputedStyle(e)[e.ownerSVGElement ? "fill" : "color"]))
        .map(l => (Math.max(l, paper) + .05) / (Math.min(l, paper) + .05)))
})()"""


# Labels of the charts that leave their figure, or lie on each other by more than a pixel.
BAD_LABELS = """[...document.querySelectorAll("svg")].filter(s => s.getClientRects().length).flatMap(svg => {
    const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")]
    const boxes = texts.map(t => t.getBoundingClientRect()), bad = []
    const across = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left)
    const down = (a, b) => Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
    boxes.forEach((box, i) => {
        if (across(box, frame) < box.width - 1 || down(box, frame) < box.height - 1)
            bad.push("outside: " + texts[i].textContent)
        boxes.slice(0, i).forEach((other, k) => {
            if (across(box, other) > 1 && down(box, other) > 1)
                bad.push(texts[k].textContent + " on " + texts[i].textContent)
        })
    })
    return bad
})"""
CUT_OFF = """[...document.querySelectorAll("body *")].filter(e => !e.closest("svg") && e.getClientRects().length &&
    e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
HIDDEN = """[...document.querySelectorAll("table, .cells, .chart, .note")].filter(e => e.getBoundingClientRect().height < 10 ||
    !e.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true})).map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reports of methods with a run of checkpoints; of many tokens; and of names that are long, odd and hostile."""
    folder = tmp_path_factory.mktemp("pages")
    write_demonstration(folder / "methods")
    write_checkpoints(folder / "checkpoints", pictures=True)
    long = "x" * 120
    for i in range(5):
        odd = {
            f"<script>console.error('ran')</script>{long}": (f"dog {long}", "living"),
            **CORGI,
            f"Hund 🐶 {'w ' * 80}": ("d", "rigid"),
        }
        write_entry(
            folder / "odd", f"{long}-{i}", odd, MEANS, method=f"m{i}", text="{} <img src=x onerror=console.error(1)> " + long
        )
    reports = {"report": ["methods", "checkpoints"], "odd": ["odd"], "tokens": ["methods"]}
    for name, parts in reports.items():
        data = collect([folder / part for part in parts], "token" if name == "tokens" else "method")
        page = page_of(data, make_sheet(data, "none" if name == "tokens" else "best, median, worst"), name)
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(find(), tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def shown(browser, folder):
    """Opens a report; what the browser said and asked for starts anew."""

    def show(name, width, dark=False, opened=True, media=""):
        browser.complaints.clear()
        browser.requests.clear()
        browser.open((folder / f"{name}.html").as_uri(), width, dark=dark, media=media)
        if opened:
            browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        return browser

    return show


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report", "odd"])
def test_the_page_is_quiet_whole_and_no_wider_than_its_window(shown, folder, name, width):
    browser = shown(name, width)
    browser.screenshot(folder / f"{name}-{width}.png")
    assert browser.complaints == []
    assert [address for address in browser.requests if not address.startswith("data:")] == [(folder / f"{name}.html").as_uri()]
    pictures = browser.run("[...document.images].map(i => [i.naturalWidth > 60, i.getBoundingClientRect().width > 100])")
    assert all(all(seen) for seen in pictures) and len(pictures) == (114 if name == "report" else 0)
    assert browser.run("document.documentElement.scrollWidth") == width == browser.run("innerWidth")
    assert browser.run(OVERFLOWING) == []
    assert browser.run("document.querySelectorAll('svg').length") == 6
    assert browser.run("[...document.querySelectorAll('svg')].filter(s => s.getClientRects().length).length") == 3


@pytest.mark.parametrize("width", [1280, 700, 400])
@pytest.mark.parametrize("name", ["report", "odd", "tokens"])
def test_labels_of_charts_stay_inside_and_apart(shown, name, width):
    assert shown(name, width).run(BAD_LABELS) == []


@pytest.mark.parametrize("name", ["report", "odd", "tokens"])
def test_paper_shows_everything(shown, name):
    """As wide as A4 between its margins: closed parts are printed too, and no table loses a column."""
    browser = shown(name, 688, opened=False, media="print", dark=True)
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 3
    assert browser.run(HIDDEN) == []
    assert browser.run(CUT_OFF) == []
    assert browser.run(CONTRAST) >= 4.5 and browser.run("getComputedStyle(document.body).color") == "rgb(34, 38, 43)"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read(shown, width, dark):
    """11 pixels at least, charts too, and the contrast that WCAG AA asks of text."""
    browser = shown("report", width, dark)
    assert browser.run(SMALLEST) >= 10.5
    assert browser.run(CONTRAST) >= 4.5
    assert (browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") != dark


def test_charts_and_tables_have_names_and_the_keyboard_reaches_wide_tables(shown):
    browser = shown("report", 400)
    for script in (
        "[...document.querySelectorAll('svg')].every(s => s.querySelector('title').textContent)",
        "[...document.images].every(i => i.alt)",
        "!!document.documentElement.lang && !!document.title",
        "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))",
        "[...document.querySelectorAll('tbody tr')].every(r => r.querySelector('th[scope=row]'))",
    ):
        assert browser.run(script) is True, script
