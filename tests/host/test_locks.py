"""Two writers of one folder: the second is told, and a holder that dies leaves it free."""

import subprocess
import sys
from pathlib import Path

import pytest

from attractor.nodes.errors import UserError
from attractor.nodes.locks import only_writer

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import importlib.util, sys, time
from pathlib import Path
root, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["pack.nodes"] = type(sys)("pack.nodes")
sys.modules["pack.nodes"].__path__ = [root + "/nodes"]
from pack.nodes.locks import only_writer
with only_writer(Path(folder), "", ""):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds `tmp_path / "run"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(ROOT), str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()


def test_the_second_writer_is_told_who_has_it_and_a_killed_holder_leaves_it_free(other, tmp_path):
    with pytest.raises(UserError, match=f"name: x is being written by another ComfyUI .process {other.pid} on .* Wait."):
        with only_writer(tmp_path / "run", "name: x", "Wait."):
            pass
    with only_writer(tmp_path / "run", "name: x", "Wait.", part="shard-1-of-2."):
        pass  # another part of the folder
    other.kill()
    other.wait()
    with only_writer(tmp_path / "run", "name: x", "Wait."):
        assert (tmp_path / "run" / ".in-use.json").exists()
        (tmp_path / "run" / "token").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["token"], "nothing of the lock is left"


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with only_writer(tmp_path / "run", "name: x", "Wait."):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
