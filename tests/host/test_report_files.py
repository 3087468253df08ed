"""The report's figures, page and contact sheet: every label is text, everything is inside, and nothing typed by users runs."""

import csv
import importlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from attractor.nodes.errors import UserError
from attractor.nodes.evaluation.report.bubble import bubble, place_labels
from attractor.nodes.evaluation.report.exports import make_csv, make_markdown
from attractor.nodes.evaluation.report.figures import NARROW, WIDE, curves, intervals, training_curve
from attractor.nodes.evaluation.report.gather import collect
from attractor.nodes.evaluation.report.make_report import charts_of, write
from attractor.nodes.evaluation.report.sheet import draw_sheet, make_sheet
from attractor.nodes.evaluation.report.style import STYLE
from attractor.nodes.evaluation.report.tables import make_tables
from pdst_results import CORGI, ENCODERS, SUBJECTS, picture, write_checkpoints, write_demonstration, write_entry
from report_parts import FAST, MEANS, page_of

pytestmark = pytest.mark.one_host

BEST = "best, median, worst"
LONG = "a-very-long-name-of-a-token-that-goes-on-and-on-and-on-for-far-too-long"


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "methods"
    write_demonstration(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "checkpoints"
    write_checkpoints(folder)
    return folder


# --- figures -----------------------------------------------------------------------------------------


def texts(chart):
    """Every text in the figure's SVG."""
    return [element.text for element in ElementTree.fromstring(chart.svg("wide", "c")).iter("text")]


def near_paper(picture):
    """Whether the outermost pixels, a band half as wide as the margin, are white."""
    array = np.asarray(picture)
    return min(edge.min() for edge in (array[:8], array[-8:], array[:, :8], array[:, -8:])) == 255


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_label_of_a_figure_is_text(methods, checkpoints, width):
    data = collect([methods])
    names = {"NeTI", "NeTI+", "TI", "TI+", "floor"}
    found = texts(intervals(data, FAST, width))
    assert {*names, "CLIP-T", "CLIP-I", "DINO", "ceiling", "mean and 95% interval"} <= set(found)
    assert all(found.count(name) >= 3 for name in names), "a row of each system for each score"
    assert {*names, "CLIP-T (follows the caption)", "Fig. 5: CLIP-T against DINO"} <= set(texts(bubble(data, "dino", width)))
    assert "CLIP-I (looks like the held-out photo)" in texts(bubble(data, "clip_i", width))
    found = texts(curves(collect([checkpoints]), FAST, width))
    assert {"Fig. 1: scores over training steps", "my-dog-neti", "held-out photos", "training photos", "DINO"} <= set(found)
    assert {"200", "400", "training step"} <= set(found)
    assert any(re.fullmatch(r"0\.\d{1,2}", text) for text in found), "round numbers at the scores' axis"


def test_a_figure_takes_its_colours_from_the_page_and_is_the_same_each_time(methods):
    data = collect([methods])
    defined = set(re.findall(r"(--\w+):", STYLE))
    for draw in charts_of(data, FAST, "dino"):
        svg = draw(WIDE).svg("wide", "c")
        assert not re.search(r"#[0-9a-fA-F]{6}|font-family|<style|<metadata|xmlns", svg)
        assert set(re.findall(r"var\((--\w+)\)", svg)) <= defined
        assert svg == draw(WIDE).svg("wide", "c")


def test_names_are_drawn_as_they_were_typed(tmp_path):
    names = ["_a $x^2$ & <b>", "two\nlines", "$", "\x07bell"]
    for i, name in enumerate(names):
        write_entry(tmp_path / "e", f"{i}", CORGI, {k: v + i / 20 for k, v in MEANS.items()}, method=f"{name}{i}")
        write_entry(tmp_path / "e", f"{i}b", {"x": ("dog", "living")}, MEANS, method=f"{name}{i}")
    data = collect([tmp_path / "e"])
    drawn = {name + str(i) for i, name in enumerate(("_a $x^2$ & <b>", "two lines", "$", " bell"))}
    for chart in (intervals(data, FAST), bubble(data, "dino")):
        assert drawn <= set(texts(chart))
        assert chart.picture(1).width > WIDE


def test_names_that_would_cover_each_other_become_numbers_with_a_list(methods):
    data = collect([methods], "token")
    for width in (WIDE, NARROW):
        found = texts(bubble(data, "dino", width))
        assert {system.name for system in data.systems} <= set(found)
        assert all(found.count(str(number)) == 2 for number in range(1, 26)), "at the disc and in the list"


def test_labels_stand_apart_and_inside_the_frame():
    frame, rng = (0, 0, 700, 400), np.random.default_rng(0)
    for _ in range(20):
        discs = [(*place, 12) for place in rng.uniform((20, 20), (680, 380), (12, 2)).tolist()]
        boxes = place_labels(discs, [(70, 16)] * 12, frame)
        assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 700 and b[3] <= 400 for b in boxes)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_chart_over_checkpoints_has_both_lines_of_both_scores(checkpoints):
    chart = curves(collect([checkpoints]), FAST)
    dashed = [e for e in ElementTree.fromstring(chart.svg("wide", "c")).iter("path") if "dasharray" in e.get("style", "")]
    assert len(dashed) == 2 + 1, "DINO and CLIP-I on training photos, and the legend's sample"
    assert "DINO, training photos: step 100" in chart.text and "step 500 0.5" in chart.text


def test_without_checkpoints_the_chart_over_them_says_so(methods):
    assert "Evaluate several checkpoints" in curves(collect([methods]), FAST).text


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_a_runs_own_curve_is_as_large_as_the_loss_chart(steps):
    one = {"clip_t": 0.3, "dino": 0.5, "dino_train": 0.6}
    chart = training_curve("my-dog", [{"step": 50 * (i + 1), **one} for i in range(steps)], 50, "")
    assert chart.picture(1).size == (640, 400) and near_paper(chart.picture(1))
    found = texts(chart)
    assert {"DINO", "CLIP-T", "held-out photos", "training photos", "kept as best: step 50"} <= set(found)
    assert "CLIP-I" not in found
    assert "No step" in training_curve("my-dog", [], None, "No step was scored.").text


def test_charts_of_one_score_or_one_system_are_drawn_too(tmp_path):
    write_entry(tmp_path / "e", "a", CORGI, {"dino": 0.5}, encoders={"dino": ENCODERS["dino"]}, photos=1, captions=1, images=1)
    data = collect([tmp_path / "e"])
    for chart in (intervals(data, FAST), bubble(data, "dino"), curves(data, FAST)):
        assert chart.picture(1).width > WIDE
    assert "both encoders" in bubble(data, "dino").text
    assert "NaN" not in page_of(data) and "nan" not in make_csv(make_tables(data, FAST))


def test_pictures_of_charts_keep_their_margin_white(methods, checkpoints, tmp_path):
    for i in range(5):
        write_entry(tmp_path / "e", f"{LONG}-{i}", CORGI, {k: v + i / 50 for k, v in MEANS.items()}, method=f"m{i}")
    for data in (collect([methods]), collect([tmp_path / "e"]), collect([methods], "token"), collect([checkpoints])):
        for chart in (intervals(data, FAST), bubble(data, "clip_i"), curves(data, FAST)):
            assert near_paper(chart.picture(1)), f"{chart.title}: something is drawn over the edge"


def test_drawing_leaves_matplotlibs_settings_as_they_were(methods):
    before = dict(matplotlib.rcParams)
    intervals(collect([methods]), FAST).picture(1)
    assert dict(matplotlib.rcParams) == before


def test_a_missing_matplotlib_is_named_with_its_remedy(monkeypatch):
    """As after `git clone`, which installs nothing."""
    for name in ("attractor.nodes.plotting", "attractor.nodes.training.charts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="python -m pip install matplotlib"):
        importlib.import_module("attractor.nodes.training.charts")


# --- files and page ----------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words.append(data)


def test_what_users_typed_stays_text_in_every_file(tmp_path):
    bad = "<script>alert('x')</script>"
    evil = {f'"><img src=x onerror=alert(1)> {bad}': (f"dog{bad}", "living")}
    write_entry(tmp_path / "e", "plain", evil, MEANS, method=f"=1+1{bad}", text=f"{{}} {bad} & ", pictures=True)
    write_entry(tmp_path / "f", "other", evil, MEANS, method=f"=1+1{bad}", text=f"{{}} {bad} & ")
    data = collect([tmp_path / "e", tmp_path / "f"])
    page = Page(page_of(data, make_sheet(data, BEST), title=f"mine {bad}"))
    assert "script" not in page.tags and page.tags.count("img") == 3 * 2
    assert all(value.startswith("data:") for name, value in page.attributes if name == "src")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert f"mine {bad}" in "".join(page.words), "shown as typed"
    markdown = make_markdown(f"mine {bad}", data, make_tables(data, FAST))
    assert "<script" not in markdown.replace("\\<", "")


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path):
    write_entry(tmp_path / "e", "a", {"=cmd()": ("@SUM(1)", "living")}, MEANS)
    rows = list(csv.DictReader(io.StringIO(make_csv(make_tables(collect([tmp_path / "e"]), FAST)))))
    assert not [r for r in rows if r["row"].startswith(("=", "@", "+", "-")) or r["text"].startswith(("=", "@"))]
    assert any(r["row"].startswith("'=cmd()") for r in rows)


def test_markdown_tables_have_as_many_cells_as_columns(methods):
    data = collect([methods])
    blocks = make_markdown("m", data, make_tables(data, FAST)).split("## ")[1:]
    assert len(blocks) == 7
    for block in blocks:
        lines = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len(lines) > 2 and len({line.count("|") for line in lines}) == 1


def test_the_page_brings_everything_along(methods):
    data = collect([methods])
    page = Page(page_of(data, make_sheet(data, BEST)))
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data", "action")]
    assert sum(address.startswith("data:") for address in addresses) == 6 * 3 * 6 + 1
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not set(page.tags) & {"script", "iframe", "object", "embed", "form", "base"}
    assert "@import" not in "".join(page.words) and "url(" not in "".join(page.words)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in addresses if link.startswith("#")} <= set(ids)
    clips = [re.fullmatch(r"url\(#(.+)\)", value)[1] for name, value in page.attributes if name == "clip-path"]
    assert clips and set(clips) <= set(ids), "each figure is clipped by its own frame"
    alternatives = [value for name, value in page.attributes if name == "alt"]
    assert len(alternatives) == page.tags.count("img") and all(alternatives), "pictures that a screen reader cannot name"
    assert page.tags.count("h1") == 1
    assert page.tags.count("nav") == 1 and sum(link.startswith("#") for link in addresses) >= 9, "a contents list of every part"
    said = " ".join(page.words)
    assert "Floor: what the model draws without a token" in said and "Ceiling: what real photos of the subject score" in said


# --- contact sheet -----------------------------------------------------------------------------------


def test_rows_are_the_best_the_median_and_the_worst(methods):
    data = collect([methods])
    sheet = make_sheet(data, BEST)
    assert [s.name for s in sheet.columns] == ["NeTI", "NeTI+", "TI", "TI+", "floor"] and len(sheet.rows) == 18
    for name in SUBJECTS:
        means = {}
        for system in data.systems[:4]:
            for key, value in system.values("dino", [name]).items():
                means[key] = means.get(key, 0) + value / 4
        ranked = sorted(means, key=means.get, reverse=True)
        rows = [r for r in sheet.rows if r.subject == name]
        assert [r.place for r in rows] == ["best", "median", "worst"]
        assert [r.images[0].key for r in rows] == [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
        assert all(len({image.key for image in r.images}) == 1 for r in rows), "a row is of one caption"
        assert all(r.caption.startswith(SUBJECTS[name][0]) for r in rows)


def test_the_held_out_photo_stands_beside_the_images_of_its_caption(methods, tmp_path):
    data = collect([methods])
    sheet = make_sheet(data, "every photo")
    assert len(sheet.rows) == 6 * 2 and all(r.place == "" for r in sheet.rows)
    for r in sheet.rows:
        photo = r.images[0].key[1].removesuffix(".png")
        assert r.reference == (methods / "photos" / r.subject / f"{photo}.jpg").resolve()
        assert all(f"/{r.subject}/{photo}-0-0.png" in str(image.path) for image in r.images)
    drawn = np.asarray(draw_sheet(make_sheet(data, BEST), rows=1))
    assert drawn.shape[1] > 6 * 224
    assert make_sheet(data, "none") is None and draw_sheet(None).width == 640


def test_pictures_outside_the_evaluation_or_broken_are_not_shown(tmp_path):
    folder = tmp_path / "e"
    write_entry(folder, "a", CORGI, MEANS, pictures=True)
    picture("corgi", "in deep snow", 1).save(tmp_path / "secret.png")
    path = folder / "a.jsonl"
    header, *records = [json.loads(line) for line in path.read_text().splitlines()]
    for i, record in enumerate(records):
        record["image"] = ["../secret.png", str(tmp_path / "secret.png"), "images/none.png", record["image"]][i % 4]
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, *records]))
    data = collect([folder])
    assert sum(image.path is not None for image in data.systems[0].images.values()) == 2
    for kept in (folder / "images").rglob("*.png"):
        kept.write_bytes(b"no picture")
    assert "no picture" in page_of(data, make_sheet(data, BEST)) and draw_sheet(make_sheet(data, BEST)).width > 224


def test_a_subject_of_many_photos_does_not_make_an_endless_page(tmp_path):
    write_entry(tmp_path / "e", "a", CORGI, MEANS, photos=250, captions=1, images=1)
    for i in range(250):
        path = tmp_path / "e" / f"{i}.png"
        Image.new("RGB", (8, 8)).save(path)
    path = tmp_path / "e" / "a.jsonl"
    header, *records = [json.loads(line) for line in path.read_text().splitlines()]
    for i, record in enumerate(records):
        record["image"] = f"{i}.png"
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, *records]))
    sheet = make_sheet(collect([tmp_path / "e"]), "every photo")
    assert len(sheet.rows) == 240 and sheet.note == "10 rows are left out."


# --- writing -----------------------------------------------------------------------------------------


def test_a_report_that_cannot_be_written_leaves_the_old_one(methods, tmp_path, monkeypatch):
    data, tables = collect([methods]), make_tables(collect([methods]), FAST)
    folder = tmp_path / "report"
    write(folder, "old", "old", tables, data)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"images.jsonl", "scores.csv", "report.md", "report.html"}
    real = Path.write_text

    def full(self, text, *arguments, **more):
        if text == "new page":
            real(self, text[:3], *arguments, **more)
            raise OSError(28, "No space left on device")
        return real(self, text, *arguments, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left.*Free disk space"):
        write(folder, "new page", "new", tables, data)
    assert (folder / "report.html").read_bytes() == before["report.html"] == b"old"
    assert {path.name for path in folder.iterdir()} == set(before), "half a file is left"
