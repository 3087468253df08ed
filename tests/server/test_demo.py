"""The demo leaves what it promises, and says why when a step fails."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from toy_world import toy_subjects

pytestmark = pytest.mark.one_host

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("demo", SCRIPTS / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_leaves_token_chart_report_and_a_contact_sheet(demo, tmp_path, capsys, host_root):
    output = tmp_path / "output"
    words = ["--steps", "2", "--sampling-steps", "1", "--photos", "1", "--output", str(output)]
    assert demo.main(words, tmp_path / "server") == 0
    said = capsys.readouterr().out
    for name in ("demo.png", "neti/demo/demo.safetensors", "neti/demo/chart.png", "pdst/demo/report/report.html"):
        assert (output / name).is_file() and str(output / name) in said, said
    with Image.open(output / "demo.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 1000
    assert len(list((output / "neti" / "demo" / "samples").iterdir())) == 2
    assert len(list((output / "pdst" / "demo").glob("*.jsonl"))) == 2, "scores of token and plain word"


def test_a_step_that_fails_ends_it_with_the_servers_error(demo, tmp_path, monkeypatch, host_root):
    write = toy_subjects.write_subject

    def broken(toy, root, cutouts):
        write(toy, root, cutouts)
        (cutouts / toy.name / "02.png").write_bytes(b"no picture")

    monkeypatch.setattr(toy_subjects, "write_subject", broken)
    with pytest.raises(SystemExit, match="(?s)AttractorLoadSubjectImages: .*02.png"):
        demo.main(["--output", str(tmp_path / "output")], tmp_path / "server")
    assert not (tmp_path / "output" / "demo.png").exists()
