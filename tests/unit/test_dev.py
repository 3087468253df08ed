"""scripts/dev.py: nothing false, foreign or half-made is ever used."""

import hashlib
import importlib.util
import io
import shutil
import sys
import tarfile
from pathlib import Path

import pytest


def _script(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dev, coverage_table = _script("dev"), _script("coverage_table")


def make_archive(path, *names):
    """A source distribution with these files; its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_host_is_unpacked(tmp_path):
    sha256 = make_archive(tmp_path / "a.tar.gz", "a-1/PKG-INFO", "a-1/vendor/ComfyUI/main.py", "a-1/vendor/ComfyUI/comfy/sd.py")
    host = tmp_path / "host-1"
    dev.unpack_host(tmp_path / "a.tar.gz", sha256, host)
    assert dev.is_host(host)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "host-1"]
    assert sorted(path.name for path in host.iterdir()) == ["comfy", "main.py"]


def test_archive_with_another_hash_is_refused(tmp_path):
    make_archive(tmp_path / "a.tar.gz", "a-1/vendor/ComfyUI/main.py")
    with pytest.raises(dev.Failed, match="not the file it should be"):
        dev.unpack_host(tmp_path / "a.tar.gz", "0" * 64, tmp_path / "host")
    assert not (tmp_path / "host").exists()


def test_archive_that_reaches_outside_leaves_nothing_behind(tmp_path):
    inside = tmp_path / "dev"
    inside.mkdir()
    sha256 = make_archive(tmp_path / "a.tar.gz", "a-1/vendor/ComfyUI/main.py", "a-1/vendor/ComfyUI/../../../escaped")
    with pytest.raises(tarfile.OutsideDestinationError):
        dev.unpack_host(tmp_path / "a.tar.gz", sha256, inside / "host")
    assert not list(inside.iterdir())
    assert not list(tmp_path.rglob("escaped"))


def test_interrupted_environment_is_made_again_and_a_whole_one_is_reused(tmp_path, monkeypatch):
    env = tmp_path / "dev" / "env"
    made = []
    monkeypatch.setattr(dev, "run", lambda command: Path(command[-1]).mkdir())  # for venv, which takes seconds

    def interrupted(python):
        (env / "leftover").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dev.make_env(env, interrupted)
    for _ in range(2):
        dev.make_env(env, made.append)
    assert made == [dev.env_python(env)]
    assert not (env / "leftover").exists()


def test_environment_changes_with_its_requirements_and_not_with_their_order():
    assert dev.env_name(["a==1", "b"]) == dev.env_name(["b", "a==1"])
    assert dev.env_name(["a==1", "b"]) != dev.env_name(["a==2", "b"])


def test_host_requirements_cannot_override_the_torch_that_fits(tmp_path):
    (tmp_path / "requirements.txt").write_text("torch\n# torchvision\ntorchaudio\nnumpy>=1 # why\n\n")
    lines = dev.requirement_lines(tmp_path)
    assert [line for line in lines if line.split("==")[0] in ("torch", "torchvision", "torchaudio")] == dev.TORCH
    assert "numpy>=1" in lines


@pytest.mark.parametrize("uv_works", [True, False])
def test_what_is_built_with_torch_comes_after_it_and_fetches_no_torch_of_its_own(tmp_path, monkeypatch, uv_works):
    commands = []

    def run(command, env):
        commands.append((list(map(str, command)), env))
        if "uv" in command and not uv_works:
            raise dev.Failed("has no network")

    monkeypatch.setattr(dev, "run", run)
    monkeypatch.setattr(dev, "tools_python", lambda: sys.executable)
    dev.install_packages(tmp_path / "python", ["sam2>=1.1.0", "torch==2", "numpy"])
    (first, _), (second, environment) = commands[-2:]
    assert first[-2:] == ["torch==2", "numpy"] and second[-1] == "sam2>=1.1.0" and "torch==2" not in second
    assert ("--no-build-isolation-package" if uv_works else "--no-build-isolation") in second
    assert ("uv" in second) == uv_works and environment["SAM2_BUILD_CUDA"] == "0"


def test_pip_settings_reach_uv_and_environment_variables_win():
    listing = "\n".join(
        [
            ":env:.index-url='https://env.example/simple'",
            "global.index-url='https://file.example/simple'",
            "global.find-links='one two'",
            "global.timeout='60'",
        ]
    )
    assert dev.pip_settings(listing) == {
        "UV_DEFAULT_INDEX": "https://env.example/simple",
        "UV_FIND_LINKS": "one,two",
    }


def test_wrong_comfyui_path_is_reported_and_not_replaced_by_a_download(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(dev.Failed, match="COMFYUI_PATH"):
        dev.find_host()


def test_named_release_wins_over_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(dev, "DEV", tmp_path)
    (tmp_path / "host-0.18.2").mkdir()
    assert dev.find_host("0.18.2") == tmp_path / "host-0.18.2"


def test_types_are_checked_across_folders_whatever_the_root_is_called(tmp_path, monkeypatch, capsys):
    root = tmp_path / "ComfyUI-Attractor-1.0"
    (tmp_path / "dev").mkdir()
    for folder, text in {"trainer": "def two() -> int:\n    return 2\n", "nodes": "from ..trainer.module import two\n"}.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").touch()
        (root / folder / "module.py").write_text(text)
    shutil.copy(dev.ROOT / "pyproject.toml", root)
    (root / "__init__.py").touch()
    monkeypatch.setattr(dev, "ROOT", root)
    monkeypatch.setattr(dev, "DEV", tmp_path / "dev")
    assert dev.check_types(sys.executable) == 0
    (root / "nodes" / "module.py").write_text("from ..trainer.module import two\n\nword: str = two()\n")
    capsys.readouterr()
    assert dev.check_types(sys.executable) != 0
    assert Path("nodes", "module.py").as_posix() + ":3: error" in capsys.readouterr().out.replace("\\", "/")


def test_the_commit_hook_runs_the_same_ruff():
    hooks = (dev.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert f"rev: v{dev.RUFF.partition('==')[2]} " in hooks


def test_coverage_table_counts_by_folder_and_names_the_least_covered_first():
    counts = {
        Path("nodes/a.py"): (1, 4),
        Path("nodes/b.py"): (3, 4),
        Path("trainer/c.py"): (2, 2),
        Path("trainer/__init__.py"): (0, 0),
    }
    assert [line.split() for line in coverage_table.table(counts)] == [
        ["line", "coverage"],
        ["nodes", "50.0%", *"4 of 8 lines not run".split()],
        ["trainer", "100.0%", *"0 of 2 lines not run".split()],
        ["together", "60.0%", *"4 of 10 lines not run".split()],
        ["least", "covered"],
        ["nodes/a.py", "25.0%", *"3 of 4 lines not run".split()],
        ["nodes/b.py", "75.0%", *"1 of 4 lines not run".split()],
        ["trainer/c.py", "100.0%", *"0 of 2 lines not run".split()],
    ]
