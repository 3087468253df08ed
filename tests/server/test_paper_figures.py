"""scripts/paper_figures.py: the paper's figures out of the example workflows, by one command."""

import subprocess
import sys

import pytest
import torch

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.token_file import save_token
from example_workflows import NAMES, ROOT

pytestmark = pytest.mark.one_host


def command(*words):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "paper_figures.py", *words], capture_output=True, text=True, timeout=300
    )


def test_each_figure_has_a_workflow():
    done = command("--dry-run")
    made = [line.split()[-1] for line in done.stdout.splitlines()]
    assert done.returncode == 0 and set(made) <= set(NAMES) and len(made) == 4
    assert "Fig. 5, 6: workflow 12_" in done.stdout
    assert command("4").returncode == 2 and command("1", "--set", "steps").returncode == 2


def test_a_figure_is_made_on_a_server(comfy_server, comfy, small_checkpoint):
    vectors = torch.randn(4, 768, generator=torch.Generator().manual_seed(3)) * 0.02
    subject, *attractors = (Embedding(vector[None]) for vector in vectors)
    token = PersonalizedToken("<figure>", "cat", "textual_inversion", 768, subject, tuple(attractors))
    save_token(token, comfy_server.output / "neti" / "paper-figures" / "paper-figures.safetensors")
    small = [word for name in ("steps=1", "width=64", "height=64", "batch_size=1") for word in ("--set", name)]
    before = len(comfy.get("/history"))
    done = command("9", "--server", comfy_server.url, "--checkpoint", small_checkpoint.name, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    entry = list(comfy.get("/history").values())[-1]
    assert len(comfy.get("/history")) == before + 1
    assert sum(len(output.get("images", [])) for output in entry["outputs"].values()) == 3
    failed = command("9", "--server", comfy_server.url, "--checkpoint", "nowhere.safetensors")
    assert failed.returncode == 1 and "nowhere.safetensors" in failed.stderr
