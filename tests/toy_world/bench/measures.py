"""What only a world with ground truth can measure: is it the subject, did the photos' setting leak, is the caption's there?"""

from ..scenes import Scene
from ..toy_subjects import ToySubject

MEASURES = ("subject", "leak", "scene")
DEFINITIONS = {
    "subject": "share of the subject's category, colour, pattern, shape and part that the judge sees; 0 where it sees none",
    "leak": "1 where the judge sees the place or the colour of the training photos' setting, which no caption names (lower is "
    "better)",
    "scene": "share of the caption's place, colour and, where one is named, gear that the judge sees",
}
_SUBJECT = ("category", "colour", "pattern", "shape", "part")


def measure(seen: dict, toy: ToySubject, scene: Scene) -> dict[str, float]:
    """The measures of an image, by name. seen: what `Judge.look` says. scene: of the test photo that the caption describes."""
    return {"subject": subject_share(seen, toy), "leak": float(confound_share(seen, toy) > 0), "scene": _scene(seen, scene)}


def subject_share(seen: dict, toy: ToySubject) -> float:
    if seen["presence"] == "no":
        return 0.0
    return sum(seen[name] == getattr(toy.subject, name) for name in _SUBJECT) / len(_SUBJECT)


def confound_share(seen: dict, toy: ToySubject) -> float:
    """How much of the training photos' setting is there: place and colour count half each."""
    return ((seen["place"] == toy.confound.place) + (seen["tint"] == toy.confound.tint)) / 2


def _scene(seen: dict, scene: Scene) -> float:
    found = [seen["place"] == scene.setting.place, seen["tint"] == scene.setting.tint]
    if scene.gear != "none":
        found.append(seen["gear"] == scene.gear)
    return sum(found) / len(found)
