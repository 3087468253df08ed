"""A PDST data set of the toy world: subjects and settings that no model was trained on, training photos with one setting each.

The five training photos of a subject share their place and colour, as a person's photos of their dog share the sofa. So what
overfits shows: the setting comes along wherever the token goes.
"""

import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from . import scenes

TRAIN, TEST, CAPTIONS = 5, 10, 10
DATASET = "toy"  # its folder in models/pdst
_FRAMES = (
    "a photo of a {subject}{gear} in the {setting}",
    "a rendering of a {subject}{gear} in the {setting}",
    "the photo of a {subject}{gear} in the {setting}",
    "a photo of the {subject}{gear} in the {setting}",
    "a good photo of the {subject}{gear} in the {setting}",
    "a rendition of a {subject}{gear} in the {setting}",
    "a photo of one {subject}{gear} in the {setting}",
    "a painting of a {subject}{gear} in the {setting}",
    "a {subject}{gear} in the {setting}",
    "a close-up photo of a {subject}{gear} in the {setting}",
)


@dataclass(frozen=True)
class ToySubject:
    """A subject and its photos: five with one setting, ten with others."""

    name: str
    subject: scenes.Subject
    train: tuple[scenes.Scene, ...]
    test: tuple[scenes.Scene, ...]

    @property
    def confound(self) -> scenes.Setting:
        """The setting of the training photos."""
        return self.train[0].setting


def toy_subject(index: int, seed: int = 7) -> ToySubject:
    """The index-th subject: monsters and vases in turn, of a colour and pattern that training never had together."""
    rng = random.Random(f"toy pdst {seed} {index}")
    category = scenes.CATEGORIES[index % len(scenes.CATEGORIES)]
    subject = scenes.random_subject(rng, unseen=True)
    while subject.category != category:
        subject = scenes.random_subject(rng, unseen=True)
    confound = scenes.random_setting(rng)

    def anew(setting: scenes.Setting) -> scenes.Setting:
        return replace(setting, seed=rng.randrange(2**31))

    train = [scenes.Scene(subject, anew(confound), scenes.random_pose(rng), "none") for _ in range(TRAIN)]
    test = []
    while len(test) < TEST:
        setting = scenes.random_setting(rng, unseen=len(test) % 3 == 2)
        if setting.place != confound.place and setting.tint != confound.tint:
            gear = rng.choices(scenes.GEAR, (2, 1, 1))[0]
            test.append(scenes.Scene(subject, setting, scenes.random_pose(rng), gear))
    return ToySubject(f"{category}-{index // 2 + 1}", subject, tuple(train), tuple(test))


def captions(scene: scenes.Scene) -> list[str]:
    """The ten captions of a test photo, with {} for the subject: what is said of gear and setting is all there."""
    return [frame.format(subject="{}", gear=scenes.worn(scene.gear), setting=scene.setting.named) for frame in _FRAMES]


def write_subject(toy: ToySubject, root: Path, cutouts: Path | None = None) -> Path:
    """The subject's folder in a PDST data set at `root`; its training photos with the mask as alpha in `cutouts`/<name> too."""
    folder = root / toy.name
    for part, photos in (("train", toy.train), ("test", toy.test)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(photos, 1):
            picture, mask = scenes.render(scene)
            Image.fromarray(picture).save(folder / part / f"{number:02d}.png")
            if part == "test":
                (folder / part / f"{number:02d}.txt").write_text("\n".join(captions(scene)) + "\n")
            elif cutouts is not None:
                (cutouts / toy.name).mkdir(parents=True, exist_ok=True)
                rgba = np.dstack([picture, (mask * 255).round().astype(np.uint8)])
                Image.fromarray(rgba, "RGBA").save(cutouts / toy.name / f"{number:02d}.png")
    kind = "living" if toy.subject.category == "monster" else "rigid"
    meta = {"super_category": toy.subject.category, "kind": kind, "source": "drawn by tests/toy_world", "licence": "CC0"}
    (folder / "meta.json").write_text(json.dumps({**meta, "truth": asdict(toy.subject)}, indent=1))
    return folder
