"""A real ComfyUI server with the pack and the test nodes, once per session."""

from pathlib import Path

import pytest

from comfy_client import ComfyClient
from comfy_server import ComfyServer, link

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def server_packs():
    return {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}


@pytest.fixture(scope="session")
def comfy_server(host_root, tmp_path_factory, server_packs, small_checkpoint):
    # Nothing in a test may depend on what can be downloaded.
    env = {"HF_HUB_OFFLINE": "1"}
    base = tmp_path_factory.mktemp("comfy")
    with ComfyServer(host_root, base, server_packs, [small_checkpoint], env=env) as server:
        yield server


@pytest.fixture(scope="session")
def server_encoders(comfy_server, small_encoders):
    """The small CLIP, DINO and DINOv2, where the session's server looks for encoders."""
    for folder in (small_encoders / "evaluation").iterdir():
        link(folder, comfy_server.base / "models" / "evaluation" / folder.name)


@pytest.fixture
def comfy(comfy_server):
    """A client of the session's server, which is started again if a test has left it dead: the next ones are not to blame."""
    if not comfy_server.is_running:
        comfy_server.restart()
    return ComfyClient(comfy_server.url)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    server = getattr(item, "funcargs", {}).get("comfy_server")
    if report.when == "call" and report.failed and server is not None:
        report.sections.append(("end of the server's log", server.log_text()[-6000:]))
