"""The report's page in a browser, from disk and without a network: whole, quiet, and readable on a screen and on a phone."""

from functools import partial

import pytest

from attractor.nodes.evaluation.report.figures import NARROW, WIDE, bubble, curves, intervals
from attractor.nodes.evaluation.report.gather import collect
from attractor.nodes.evaluation.report.page import make_page
from attractor.nodes.evaluation.report.sheet import make_sheet
from attractor.nodes.evaluation.report.tables import make_tables
from attractor.nodes.evaluation.statistics import Bootstrap
from chromium import Chromium, find
from pdst_results import CORGI, write_checkpoints, write_demonstration, write_entry

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium here: install one, or name it in ATTRACTOR_CHROMIUM")

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two reports: methods with a run of checkpoints; and names that are long, odd and hostile."""
    folder = tmp_path_factory.mktemp("pages")
    write_demonstration(folder / "methods")
    write_checkpoints(folder / "checkpoints", pictures=True)
    means = {"clip_t": 0.3, "clip_i": 0.7, "dino": 0.5, "clip_i_train": 0.75, "dino_train": 0.6}
    long = "x" * 120
    for i in range(5):
        odd = {
            f"<script>console.error('ran')</script>{long}": (f"dog {long}", "living"),
            **CORGI,
            f"Hund 🐶 {'w ' * 80}": ("d", "rigid"),
        }
        write_entry(
            folder / "odd", f"{long}-{i}", odd, means, method=f"m{i}", text="{} <img src=x onerror=console.error(1)> " + long
        )
    data = {"report": ["methods", "checkpoints"], "odd": ["odd"]}
    for name, parts in data.items():
        found, bootstrap = collect([folder / part for part in parts]), Bootstrap(200)
        charts = [partial(intervals, found, bootstrap), partial(bubble, found, "dino"), partial(curves, found, bootstrap)]
        page = make_page(
            name, found, make_tables(found, bootstrap), charts, (WIDE, NARROW), make_sheet(found, "best, median, worst")
        )
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(find(), tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def shown(browser, folder):
    """Opens a report; what the browser said and asked for starts anew."""

    def show(name, width, dark=False):
        browser.complaints.clear()
        browser.requests.clear()
        browser.open((folder / f"{name}.html").as_uri(), width, dark=dark)
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
