"""The same seed gives the same token, bit for bit, as the trainer gave before it was taken apart.

Compared with the old code out of git, in one process, so that it holds on every machine; a stored hash would hold on one
kind of processor only.
"""

import importlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import comfy.model_management as mm
import pytest
import torch
from safetensors import safe_open

from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet
from test_nodes.tiny_sd15 import tiny_clip, tiny_model

pytestmark = pytest.mark.one_host
ROOT = Path(__file__).resolve().parents[2]
BEFORE = "6e93b5dd53ecbf942a05791b76ad0b8407b870c4"  # the last commit with the step in one piece
CASES = {
    "neti+": {},
    "textual_inversion+": {},
    "neti": {},
    "textual_inversion": {},
    "neti+ with embeddings": {"attractor_kind": "embedding", "prompts_per_step": "one", "contrast_schedule": "linear"},
    "textual_inversion+ with a prior": {"prior_weight": 0.5, "joint_weight": 0.0, "loss_mean": "all", "batch_size": 3},
}


@pytest.fixture(scope="module")
def old_pack(tmp_path_factory):
    """The old trainer as the package `attractor_before`."""
    if subprocess.run(["git", "cat-file", "-e", BEFORE], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("the history is not here (a shallow clone, or an archive): nothing to compare with")
    folder = tmp_path_factory.mktemp("before") / "attractor_before"
    archive = subprocess.run(["git", "archive", BEFORE, "trainer"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    sys.path.insert(0, str(folder.parent))
    yield "attractor_before"
    sys.path.remove(str(folder.parent))


@pytest.fixture(scope="module")
def models():
    model, clip = tiny_model(seed=1, width=64), tiny_clip(seed=1, layers=1)
    model.model.requires_grad_(False)
    clip.cond_stage_model.requires_grad_(False)
    mm.load_models_gpu([model, clip.patcher], force_full_load=True)
    return HostUNet(model), HostTextEncoder(clip)


def train(pack, models, path, case, changes):
    """Two steps with the trainer of a pack; its curves and what is in the token's file."""
    parts = {name: importlib.import_module(f"{pack}.trainer.{name}") for name in ("dataset", "loop", "settings", "token_file")}
    generator = torch.Generator().manual_seed(5)
    images, masks = torch.rand(3, 128, 128, 3, generator=generator), torch.rand(3, 128, 128, generator=generator)
    given = {"method": case.split(" ")[0], "steps": 2, "batch_size": 2, "seed": 7, "super_category": "cat", **changes}
    settings = parts["settings"].TrainingSettings(**given)

    def encode(pixels):
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)[:, [0, 1, 2, 0]] * 2 - 1

    photos = parts["dataset"].cache_photos(images, masks, encode, settings)
    unet, text = models
    trainer = parts["loop"].build_trainer(settings, photos, text, unet)
    for _ in trainer.run():
        pass
    parts["token_file"].save_token(trainer.token({"images": 3}), path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no __iter__)
        header = json.loads(file.metadata()["attractor"])
    return trainer.curves, tensors, header


@pytest.mark.parametrize("case", CASES)
def test_a_seed_gives_the_token_that_it_gave_before(old_pack, models, tmp_path, case):
    old_curves, old, old_header = train(old_pack, models, tmp_path / "old.safetensors", case, CASES[case])
    curves, new, header = train("attractor", models, tmp_path / "new.safetensors", case, CASES[case])
    assert str(curves) == str(old_curves)  # as text: NaN where a step has no value
    assert list(new) == list(old) and all(torch.equal(new[name], old[name]) for name in old)
    old_settings, settings = (head["record"].pop("settings") for head in (old_header, header))
    assert header == old_header, "the file's format has changed without a version"
    free = {"gradient_checkpointing"}  # how a step is carried out
    assert all(settings[name] == value for name, value in old_settings.items() if name not in free)
