"""Which version of the pack made a result, as results files have it."""

import re

import pytest

from attractor.nodes.host import versions

pytestmark = pytest.mark.one_host


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A pack of two files; what its version is now."""
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    for folder in ("trainer", "nodes/host", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.3"\n')
    (tmp_path / "trainer" / "a.py").write_bytes(b"one\ntwo\n")
    (tmp_path / "nodes" / "host" / "b.py").write_bytes(b"three\n")
    return versions.pack_version.__wrapped__


def test_the_hash_is_of_the_code_that_runs(pack, tmp_path):
    before = pack()
    assert re.fullmatch(r"1\.2\.3 \([0-9a-f]{8}\)", before)
    (tmp_path / "tests" / "c.py").write_bytes(b"x")
    (tmp_path / "trainer" / "notes.md").write_bytes(b"x")
    (tmp_path / "trainer" / "a.py").write_bytes(b"one\r\ntwo\r\n")
    assert pack() == before, "neither tests nor line ends are other code"
    (tmp_path / "nodes" / "host" / "b.py").write_bytes(b"four\n")
    changed = pack()
    (tmp_path / "nodes" / "host" / "b.py").rename(tmp_path / "nodes" / "b.py")
    assert len({before, changed, pack()}) == 3


def test_a_pack_without_its_settings_has_a_hash_only(pack, tmp_path):
    (tmp_path / "pyproject.toml").unlink()
    assert pack().startswith("unknown (")
