"""The toy world's scenes: what a picture shows is what its scene says."""

import random

import numpy as np
import pytest

from toy_world import scenes, toy_subjects


def some(count, seed=0):
    rng = random.Random(seed)
    return [scenes.random_scene(rng) for _ in range(count)]


def test_same_seed_same_pictures():
    for one, other in zip(some(5), some(5), strict=True):
        assert one == other
        assert all(np.array_equal(a, b) for a, b in zip(scenes.render(one), scenes.render(other), strict=True))


def test_the_mask_is_where_the_subject_is():
    """A picture differs from its setting alone inside the mask, and nowhere else."""
    for scene in some(20):
        picture, mask = scenes.render(scene)
        empty, _ = scenes.render(scenes.Scene(None, scene.setting, scene.pose))
        changed = np.abs(picture.astype(int) - empty).max(-1) > 0
        assert not changed[mask == 0].any()
        assert 0.02 < (mask > 0.5).mean() < 0.5
        assert changed[mask > 0.99].mean() > 0.9


def test_training_never_has_the_pairs_that_are_held_back():
    for scene in some(2000):
        assert (scene.subject.colour, scene.subject.pattern) not in scenes.UNSEEN_SUBJECTS
        assert (scene.setting.place, scene.setting.tint) not in scenes.UNSEEN_SETTINGS


def test_every_word_is_in_training():
    rng = random.Random(0)
    words = set(" ".join(scenes.caption(scene, rng) for scene in some(600)).split())
    assert words >= {
        *scenes.COLOURS,
        *scenes.PATTERNS,
        *scenes.SHAPES,
        *scenes.PLACES,
        *scenes.TINTS,
        *scenes.CATEGORIES,
        "hat",
        "flowers",
    }


def test_a_caption_says_nothing_that_is_not_there():
    rng = random.Random(1)
    groups = [(scenes.COLOURS, "colour"), (scenes.PATTERNS, "pattern"), (scenes.SHAPES, "shape")]
    for scene in some(300):
        subject, _, setting = scenes.caption(scene, rng).partition(" in the ")
        for words, attribute in groups:
            assert set(subject.split()) & set(words) <= {getattr(scene.subject, attribute)}
        assert set(setting.split()) <= {scene.setting.place, scene.setting.tint, "background"}
        assert ("hat" in subject) <= (scene.gear == "hat")


@pytest.mark.parametrize("index", range(12))
def test_a_subject_of_the_data_set_is_unseen_and_its_training_photos_share_a_setting(index):
    toy = toy_subjects.toy_subject(index)
    assert (toy.subject.colour, toy.subject.pattern) in scenes.UNSEEN_SUBJECTS
    assert len({(scene.setting.place, scene.setting.tint) for scene in toy.train}) == 1
    for scene in toy.test:
        assert scene.setting.place != toy.confound.place and scene.setting.tint != toy.confound.tint
    assert len({scene.setting.seed for scene in (*toy.train, *toy.test)}) == toy_subjects.TRAIN + toy_subjects.TEST
