"""What looks at the toy world's pictures, as committed: right about true scenes, and the pack's loaders read it."""

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from attractor.nodes.evaluation.encoders import load_clip, load_dino
from toy_world import check_model, judges, models, scenes

pytestmark = pytest.mark.one_host

SURE = ("presence", "category", "colour", "pattern", "shape", "gear", "place", "tint")
FRESH = "scenes that none of them was trained on"


def pictures(found):
    """IMAGE (n, H, W, 3) of scenes."""
    return torch.stack([torch.from_numpy(scenes.render(scene)[0]) / 255 for scene in found])


def fresh(count, unseen):
    rng = random.Random(f"{FRESH} {unseen}")
    return [
        scenes.Scene(
            scenes.random_subject(rng, unseen),
            scenes.random_setting(rng, unseen),
            scenes.random_pose(rng),
            rng.choice(scenes.GEAR),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory, host_root):
    folder = tmp_path_factory.mktemp("evaluation")
    judges.write_encoders(folder, host_root)
    return load_clip(folder / "toy-clip"), load_dino(folder / "toy-dino")


def test_the_judge_is_right_about_true_scenes():
    """Those of word pairs that the diffusion model never saw are no harder."""
    found = fresh(60, True) + fresh(60, False)
    found += [scenes.Scene(None, scene.setting) for scene in found[::6]]
    seen = judges.load_judge().look(pictures(found))
    right = {name: [] for name in judges.ATTRIBUTES}
    for scene, words in zip(found, seen, strict=True):
        for name, number in judges.truth(scene).items():
            if number != judges.UNSAID:
                right[name].append(words[name] == judges.ATTRIBUTES[name][number])
    share = {name: sum(values) / len(values) for name, values in right.items()}
    assert all(share[name] >= 0.95 for name in SURE), share
    assert share["part"] >= 0.8 and share["eyes"] >= 0.9 and share["pattern_colour"] >= 0.8, share


def test_clip_puts_the_right_caption_first(encoders):
    """Of captions that differ from the right one in one word of the subject or of the setting."""
    clip, _ = encoders
    found = fresh(24, True)
    swaps = {"colour": scenes.COLOURS, "pattern": scenes.PATTERNS, "category": scenes.CATEGORIES}
    right = []
    for number, (scene, features) in enumerate(zip(found, clip.image(pictures(found)), strict=True)):
        rng = random.Random(number)
        wrong = [
            scenes.full_caption(
                replace(
                    scene,
                    subject=replace(
                        scene.subject, **{name: rng.choice([word for word in words if word != getattr(scene.subject, name)])}
                    ),
                )
            )
            for name, words in swaps.items()
        ]
        place = rng.choice([word for word in scenes.PLACES if word != scene.setting.place])
        wrong.append(scenes.full_caption(replace(scene, setting=replace(scene.setting, place=place))))
        cosines = clip.text([scenes.full_caption(scene), *wrong]) @ features
        right += (cosines[0] > cosines[1:]).tolist()
    assert sum(right) / len(right) >= 0.85


def test_dino_knows_a_subject_again_elsewhere(encoders):
    """Rather than another subject in the same place."""
    _, dino = encoders
    here = fresh(24, True)
    elsewhere = [
        replace(scene, setting=other.setting, pose=other.pose) for scene, other in zip(here, reversed(here), strict=True)
    ]
    first, again = dino.image(pictures(here)), dino.image(pictures(elsewhere))
    cosines = first @ again.T
    same_subject, same_setting = cosines.diag(), cosines.flip(1).diag()
    assert (same_subject > same_setting).float().mean() >= 0.9
    assert same_subject.mean() > cosines.mean() + 0.3


def test_the_committed_files_are_small_and_say_how_they_were_made():
    size = 0
    for name in ("judge", "clip", "dino"):
        path = models.WEIGHTS / f"{name}.safetensors"
        size += path.stat().st_size
        with safe_open(path, "pt") as file:
            assert {"command", "seed", "steps", "seconds", "torch"} <= set(file.metadata())
    assert size < 5e6
    assert {"judge", "clip", "dino"} <= set(json.loads((models.WEIGHTS / "figures.json").read_text())["judges"])


def test_the_check_of_the_model_counts_what_captions_name():
    found = check_model.unseen_scenes(8)
    assert all(
        (s.subject.colour, s.subject.pattern) in scenes.UNSEEN_SUBJECTS
        and (s.setting.place, s.setting.tint) in scenes.UNSEEN_SETTINGS
        for s in found
    )
    seen = [check_model.named(scene) for scene in found]
    assert check_model.shares(found, seen)["all"] == 1.0
    half = [{**words, "colour": "another"} for words in seen]
    shares = check_model.shares(found, half)
    assert shares["colour"] == 0.0 and shares["background"] == 1.0 and 0.7 < shares["subject"] < 0.81
    assert check_model.contact_sheet(found, pictures(found), half).width > 6 * 192


def test_the_check_samples_every_caption_with_the_hosts_sampler(host_root):
    """As a graph with a prompt each would, on untrained weights."""
    model, clip = models.build_model(), models.build_clip()
    vae = models.build_vae(models.Autoencoder())
    captions = [scenes.full_caption(scene) for scene in check_model.unseen_scenes(2)]
    both = check_model.sample(model, clip, vae, captions, 1, 3.0)
    assert both.shape == (2, scenes.SIZE, scenes.SIZE, 3) and bool(torch.isfinite(both).all())
    swapped = check_model.sample(model, clip, vae, captions[:1] + captions[:1], 1, 3.0)
    assert torch.allclose(both[0], swapped[0], atol=1e-3) and not torch.allclose(both[1], swapped[1], atol=1e-3)
