"""The toy world's data set passes the pack's own checks; its training leaves weights that the host samples from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from attractor.nodes.evaluation.pdst import read_dataset
from toy_world import judges, models, scenes, toy_subjects, train_judges
from toy_world.autoencoder import Autoencoder

pytestmark = pytest.mark.one_host
TESTS = Path(__file__).resolve().parents[1]
# Two steps of everything on 16 pictures, in a process of its own, where the weights go into a folder of the test.
RUN = """
import sys
from pathlib import Path
work = Path(sys.argv.pop(1))
from toy_world import models, train
train.PICTURES, train.BATCH, models.WEIGHTS = 16, 2, work / "weights"
train.main()
"""
SAMPLE = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from comfy.cli_args import args
args.cpu = True
from toy_world import models
models.WEIGHTS = Path(sys.argv[1]) / "weights"
import comfy.sample
model, clip, vae = models.load_model(), models.load_clip(), models.load_vae()
positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red monster", ""))
latents = torch.zeros(1, 4, 16, 16)
noise = comfy.sample.prepare_noise(latents, 0)
samples = comfy.sample.sample(model, noise, 2, 3.0, "euler", "normal", positive, negative, latents, disable_pbar=True)
print(tuple(vae.decode(samples).shape), bool(torch.isfinite(samples).all()))
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "support")])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_training_resumes_and_leaves_weights_that_the_host_samples_from(tmp_path, host_root):
    stages = ["--work", tmp_path, "--autoencoder-steps", "2"]
    out = run(RUN, tmp_path, "pictures", "autoencoder", "diffusion", *stages, "--steps", "1")
    run(RUN, tmp_path, "diffusion", "write", *stages, "--steps", "2")
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {
        "unet.safetensors",
        "text.safetensors",
        "autoencoder.safetensors",
    }
    assert sum(path.stat().st_size for path in (tmp_path / "weights").iterdir()) < 25e6, out
    assert run(SAMPLE, tmp_path, host_root).split("\n")[-2] == "(1, 128, 128, 3) True"


def test_missing_weights_are_said_with_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="autoencoder.safetensors. Train them .* -m toy_world.train"):
        models.load_vae()


def test_the_data_set_is_whole_and_its_cutouts_are_the_subject(tmp_path):
    toy = toy_subjects.toy_subject(0)
    toy_subjects.write_subject(toy, tmp_path / "toy", tmp_path / "cutouts")
    (subject,) = read_dataset(tmp_path / "toy").subjects
    assert (subject.name, subject.super_category, subject.kind) == ("monster-1", "monster", "living")
    assert (len(subject.train), len(subject.test), len(subject.test[0].captions)) == (5, 10, 10)
    assert len(list((tmp_path / "cutouts" / "monster-1").glob("*.png"))) == 5


def test_the_judge_knows_every_attribute_of_a_scene():
    toy = toy_subjects.toy_subject(0)
    truth = judges.truth(toy.test[0])
    assert set(truth) == set(judges.ATTRIBUTES)
    assert judges.ATTRIBUTES["colour"][truth["colour"]] == toy.subject.colour
    empty = judges.truth(scenes.Scene(None, toy.confound))
    assert empty["colour"] == judges.UNSAID and judges.ATTRIBUTES["presence"][empty["presence"]] == "no"
    logits = judges.Judge()(torch.zeros(2, 3, judges.SIDE, judges.SIDE))
    assert {name: values.shape[1] for name, values in logits.items()} == {n: len(o) for n, o in judges.ATTRIBUTES.items()}


def test_judges_are_trained_and_read_again(tmp_path, monkeypatch, host_root):
    monkeypatch.setattr(train_judges, "SUBJECTS", 90)
    monkeypatch.setattr(train_judges, "HELD_OUT", 2)
    monkeypatch.setattr(train_judges, "SOFT", 22)
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("COMFYUI_PATH", str(host_root))
    torch.save({"average": Autoencoder().state_dict()}, tmp_path / "autoencoder.pt")
    train_judges.render_views(tmp_path, 1)
    train_judges.soften_views(tmp_path)
    assert np.load(tmp_path / "views.npy").shape == (90, train_judges.VIEWS, judges.SIDE, judges.SIDE, 3)
    for stage in (train_judges.train_judge, train_judges.train_clip, train_judges.train_dino):
        stage(tmp_path, steps=1)
    train_judges.write_weights(tmp_path)
    train_judges.evaluate(tmp_path)
    assert {"judge", "clip", "dino"} <= set(json.loads((tmp_path / "weights" / "figures.json").read_text())["judges"])
    (seen,) = judges.load_judge().look(torch.rand(1, 128, 128, 3))
    assert all(seen[name] in options for name, options in judges.ATTRIBUTES.items())
