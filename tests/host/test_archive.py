"""What the registry would publish: `comfy node validate` and `comfy node pack`, and what comes out of the archive.

The registry's own program lies in an environment of its own, which scripts/dev.py makes and names in ATTRACTOR_COMFY_CLI.
"""

import asyncio
import importlib
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import tomllib
from PIL import Image

from source_files import ROOT

CLI = os.environ.get("ATTRACTOR_COMFY_CLI", "")
pytestmark = [
    pytest.mark.one_host,
    pytest.mark.skipif(not Path(CLI).is_file(), reason="ATTRACTOR_COMFY_CLI: no comfy-cli there; scripts/dev.py brings it"),
]
LARGEST = 1_500_000  # bytes
TOP = {
    *("__init__.py", "nodes", "trainer", "web", "locales", "workflows", "example_workflows", "example_photos"),
    *("subgraphs", "docs"),
    *("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "pyproject.toml", "requirements.txt"),
}


@pytest.fixture(scope="module")
def comfy_cli(tmp_path_factory):
    """Runs the registry's program in a copy of the pack as git has it, with no network and no telemetry; what it said."""
    copy, home = tmp_path_factory.mktemp("published") / "pack", tmp_path_factory.mktemp("home")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    quiet = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "HOME": str(home), "XDG_CONFIG_HOME": str(home), "NO_COLOR": "1"}

    def run(*words):
        command = [CLI, "--skip-prompt", "--no-enable-telemetry", *words]
        done = subprocess.run(
            command, cwd=copy, env={**os.environ, **nowhere, **quiet}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.folder = copy
    return run


@pytest.fixture(scope="module")
def archive(comfy_cli):
    comfy_cli("node", "pack")
    return comfy_cli.folder / "node.zip"


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked") / "attractor"
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_registry_finds_nothing_wrong(comfy_cli):
    said = comfy_cli("node", "validate")
    assert "All validation checks passed" in said and "Warning" not in said and "Error" not in said, said


def test_the_archive_is_small_and_has_what_users_need_alone(archive, unpacked):
    assert archive.stat().st_size <= LARGEST, f"{archive.stat().st_size:,} bytes"
    found = files(unpacked)
    assert {PurePosixPath(name).parts[0] for name in found} <= TOP
    for needed in ("__init__.py", "requirements.txt", "LICENSE", "README.md", "web/attractor.js", "locales/zh/nodeDefs.json"):
        assert needed in found
    assert not [name for name in found if "test" in PurePosixPath(name).name.split("_")]


def test_the_pack_runs_out_of_its_archive(unpacked):
    """Every module is imported, those too that the start does without."""
    spec = importlib.util.spec_from_file_location(
        "published", unpacked / "__init__.py", submodule_search_locations=[str(unpacked)]
    )
    module = sys.modules["published"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        extension = asyncio.run(module.comfy_entrypoint())
        asyncio.run(extension.on_load())
        nodes = [node.define_schema() for node in asyncio.run(extension.get_node_list())]
        assert {node.node_id for node in nodes} == {page.stem for page in (unpacked / "web" / "docs").glob("*.md")}
        for part in ("nodes", "trainer"):
            for found in pkgutil.walk_packages([str(unpacked / part)], f"published.{part}."):
                assert Path(importlib.import_module(found.name).__file__).is_relative_to(unpacked)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "published"]:
            del sys.modules[name]


def test_the_page_finds_its_scripts_and_styles(unpacked):
    for script in (unpacked / "web").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        for name in re.findall(r'from "\./([^"]+)"', text) + re.findall(r'"([\w/.]+\.css)"', text):
            assert (script.parent / name).is_file(), f"{script.name}: {name}"


def test_every_link_in_a_published_page_leads_to_a_published_file(unpacked):
    broken, links = [], 0
    for page in unpacked.rglob("*.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if re.match(r"https?://|mailto:|#", target):
                continue
            links += 1
            if not (page.parent / target.split("#")[0]).exists():
                broken.append(f"{page.relative_to(unpacked)}: {target}")
    assert links > 10 and not broken, broken


def test_links_to_our_own_repository_lead_to_files_of_it(unpacked):
    """Pages that are not published are linked to by their address."""
    own = r"https://(?:github\.com/attractor/ComfyUI-Attractor/(?:blob|tree)|raw\.githubusercontent\.com/attractor/ComfyUI-Attractor)/main/"
    found = []
    for page in (*unpacked.rglob("*.md"), unpacked / "pyproject.toml"):
        found += re.findall(own + r"([\w./-]+)", page.read_text(encoding="utf-8"))
    assert found and not [name for name in found if not (ROOT / name).exists()]


def test_the_registrys_page_has_its_facts():
    """What comfy-cli and the host read of pyproject.toml, by the names they read."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = described["project"], described["tool"]["comfy"]
    assert {"Homepage", "Documentation", "Repository", "Issues"} <= set(project["urls"])
    assert "Operating System :: OS Independent" in project["classifiers"]
    wanted = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert project["dependencies"] == wanted
    for words in ("Textual Inversion", "SD1.5", "embedding", "train", "personalise"):
        assert words in project["description"]
    with Image.open(ROOT / "docs/registry" / comfy["Icon"].rpartition("/")[2]) as icon:
        assert icon.size[0] == icon.size[1] <= 400
    with Image.open(ROOT / "docs/registry" / comfy["Banner"].rpartition("/")[2]) as banner:
        assert banner.width * 9 == banner.height * 21
