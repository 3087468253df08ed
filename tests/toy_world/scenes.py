"""The toy world's scenes: monsters and vases before six places, drawn from signed distances, with captions and ground truth.

A scene is a subject (what it is: category, colour, pattern, shape, parts), a setting (place and its colour), a pose and
gear. All of it is known, so a picture can be judged: is it the same subject, is it the caption's place? Colour, pattern,
shape, gear and setting are in the captions; parts, eyes and exact shades are not: they make a subject an individual.
"""

import colorsys
import random
from dataclasses import dataclass, replace

import numpy as np

SIZE = 128  # pixels
CATEGORIES = ("monster", "vase")
COLOURS = {  # hue, saturation, value
    "red": (0.99, 0.85, 0.85),
    "orange": (0.075, 0.92, 0.97),
    "yellow": (0.15, 0.85, 0.96),
    "green": (0.34, 0.75, 0.68),
    "blue": (0.61, 0.85, 0.88),
    "purple": (0.77, 0.65, 0.75),
    "pink": (0.91, 0.48, 0.98),
    "white": (0.12, 0.04, 0.96),
}
PATTERNS = ("plain", "striped", "spotted")
SHAPES = ("round", "tall", "wide")
PARTS = {"monster": ("horns", "ears", "antennae"), "vase": ("handles", "rim", "foot")}
GEAR = ("none", "hat", "flowers")
PLACES = ("forest", "city", "beach", "mountains", "desert", "night")
TINTS = {"red": 0.0, "yellow": 0.14, "green": 0.33, "blue": 0.58, "purple": 0.77, "grey": None}

# Word pairs that no training scene has: what shows that a model puts words together instead of remembering scenes.
UNSEEN_SUBJECTS = frozenset(
    {
        ("red", "spotted"),
        ("orange", "plain"),
        ("yellow", "striped"),
        ("green", "spotted"),
        ("blue", "striped"),
        ("purple", "plain"),
        ("pink", "striped"),
        ("white", "spotted"),
    }
)
UNSEEN_SETTINGS = frozenset(
    {
        ("forest", "purple"),
        ("city", "green"),
        ("beach", "red"),
        ("mountains", "yellow"),
        ("desert", "blue"),
        ("night", "grey"),
    }
)


@dataclass(frozen=True)
class Subject:
    """An individual. Shades and proportions are offsets in -1..1 of the named colour and shape."""

    category: str
    colour: str
    pattern: str
    shape: str
    part: str
    pattern_colour: str
    eyes: int
    shade: float
    proportion: float
    period: float

    @property
    def named(self) -> str:
        """What a caption says of it, without the category: "red striped tall"."""
        return f"{self.shape} {self.colour} {self.pattern}"


@dataclass(frozen=True)
class Setting:
    place: str
    tint: str
    seed: int

    @property
    def named(self) -> str:
        return f"{self.tint} {self.place}"


@dataclass(frozen=True)
class Pose:
    """Position in pixels from the middle of the ground, size as a factor, tilt in radians, light as a factor."""

    x: float = 0.0
    y: float = 0.0
    size: float = 1.0
    tilt: float = 0.0
    light: float = 1.0


@dataclass(frozen=True)
class Scene:
    """subject None: the setting alone."""

    subject: Subject | None
    setting: Setting
    pose: Pose = Pose()
    gear: str = "none"


# -- drawing at random ----------------------------------------------------------------------------------


def random_subject(rng: random.Random, unseen: bool = False) -> Subject:
    """An individual whose colour and pattern are an unseen pair, or a seen one."""
    category = rng.choice(CATEGORIES)
    pairs = [(c, p) for c in COLOURS for p in PATTERNS if ((c, p) in UNSEEN_SUBJECTS) == unseen]
    colour, pattern = rng.choice(pairs)
    return Subject(
        category,
        colour,
        pattern,
        rng.choice(SHAPES),
        rng.choice(PARTS[category]),
        rng.choice([c for c in COLOURS if c != colour]),
        rng.choice((1, 2, 3)),
        rng.uniform(-1, 1),
        rng.uniform(-1, 1),
        rng.uniform(-1, 1),
    )


def random_setting(rng: random.Random, unseen: bool = False) -> Setting:
    pairs = [(p, t) for p in PLACES for t in TINTS if ((p, t) in UNSEEN_SETTINGS) == unseen]
    return Setting(*rng.choice(pairs), rng.randrange(2**31))


def random_pose(rng: random.Random) -> Pose:
    return Pose(
        rng.uniform(-22, 22), rng.uniform(-7, 7), rng.uniform(0.85, 1.2), rng.uniform(-0.12, 0.12), rng.uniform(0.88, 1.08)
    )


def random_scene(rng: random.Random, empty: float = 0.0) -> Scene:
    """A scene of seen pairs; `empty` is the share of settings without a subject."""
    setting = random_setting(rng)
    if rng.random() < empty:
        return Scene(None, setting, Pose(light=rng.uniform(0.88, 1.08)))
    gear = rng.choices(GEAR, (2, 1, 1))[0]
    return Scene(random_subject(rng), setting, random_pose(rng), gear)


def worn(gear: str) -> str:
    """The words for the gear, with a leading space."""
    return {"none": "", "hat": " with a hat", "flowers": " with flowers"}[gear]


_ARTICLES = (
    "a photo of a {}",
    "a rendering of a {}",
    "the photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a close-up photo of a {}",
    "a rendition of a {}",
    "a photo of one {}",
    "a painting of a {}",
    "a {}",
)


def caption(scene: Scene, rng: random.Random) -> str:
    """Words for a training scene: every attribute is left out at times, so that each word is learnt by itself."""
    setting = scene.setting
    where = rng.choices((setting.named, setting.place, f"{setting.tint} background", ""), (6, 2, 1, 1.5))[0]
    frame = rng.choice(_ARTICLES)
    if scene.subject is None:
        return frame.format(where or setting.named)
    subject = scene.subject
    words = [w for w, keep in ((subject.shape, 0.7), (subject.colour, 0.82), (subject.pattern, 0.82)) if rng.random() < keep]
    text = frame.format(" ".join([*words, subject.category]))
    if rng.random() < 0.92:
        text += worn(scene.gear)
    return text + (f" in the {where}" if where else "")


def full_caption(scene: Scene, subject: str | None = None) -> str:
    """Everything that can be said; `subject` in place of the subject's own words (such as "{}")."""
    words = subject or f"{scene.subject.named} {scene.subject.category}"
    return f"a photo of a {words}{worn(scene.gear)} in the {scene.setting.named}"


# -- rendering ------------------------------------------------------------------------------------------


def _rgb(hue, saturation, value):
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)), np.float32)


def _ellipse(x, y, cx, cy, rx, ry):
    """Signed distance, near enough at the edge, in pixels: negative inside."""
    d = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    return (d - 1) * min(rx, ry)


def _box(x, y, cx, cy, rx, ry):
    return np.maximum(np.abs(x - cx) - rx, np.abs(y - cy) - ry)


def _segment(x, y, ax, ay, bx, by, radius):
    px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
    t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(px - t * dx, py - t * dy) - radius


def _triangle(x, y, cx, top, bottom, half):
    """An upright triangle with its tip at (cx, top)."""
    slope = np.abs(x - cx) - half * (y - top) / (bottom - top)
    return np.maximum(slope * 0.8, y - bottom)


class _Canvas:
    """A picture of (SIZE * scale)^2 pixels; `x` and `y` are the pixels' places in 0..SIZE, whatever the scale."""

    def __init__(self, scale):
        side = SIZE * scale
        self.scale = scale
        self.y, self.x = (np.mgrid[0:side, 0:side].astype(np.float32) + 0.5) / scale
        self.pixels = np.zeros((side, side, 3), np.float32)
        self.mask = np.zeros((side, side), np.float32)

    def paint(self, distance, colour, subject=False):
        """Fill where `distance` is negative, with one pixel of anti-aliasing; colour (3,) or one for every pixel."""
        cover = np.clip(0.5 - distance * self.scale, 0, 1)
        self.pixels += cover[..., None] * (colour - self.pixels)
        if subject:
            self.mask = np.maximum(self.mask, cover)


def render(scene: Scene, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The picture (S, S, 3) as uint8 and the subject's mask (S, S) as float32 in 0..1, gear included; S = SIZE * scale."""
    canvas = _Canvas(scale)
    _draw_setting(canvas, scene.setting)
    if scene.subject is not None:
        _draw_subject(canvas, scene.subject, scene.pose, scene.gear)
    return (np.clip(canvas.pixels * scene.pose.light, 0, 1) * 255 + 0.5).astype(np.uint8), canvas.mask


def _draw_setting(canvas: _Canvas, setting: Setting) -> None:
    xs, ys = canvas.x, canvas.y
    rng = random.Random(setting.seed)
    tint = TINTS[setting.tint]
    hue, strength = (0.0, 0.0) if tint is None else (tint + rng.uniform(-0.02, 0.02), rng.uniform(0.85, 1.1))

    def shade(saturation, value):
        return _rgb(hue, saturation * strength, value + rng.uniform(-0.04, 0.04))

    horizon = 62 + rng.uniform(-6, 6)
    shift = rng.uniform(0, 40)
    if setting.place == "night":
        canvas.pixels += shade(0.75, 0.2)
        for _ in range(26):
            canvas.paint(_ellipse(xs, ys, rng.uniform(0, 128), rng.uniform(0, horizon + 20), 1.5, 1.5), shade(0.15, 0.97))
        canvas.paint(_ellipse(xs, ys, 20 + 2 * shift, 20 + rng.uniform(-4, 6), 11, 11), shade(0.2, 0.95))
        canvas.paint(horizon + 26 - ys, shade(0.8, 0.1))
        return
    canvas.pixels += shade(0.3, 0.93)
    if setting.place == "forest":
        canvas.paint(horizon + 18 - ys, shade(0.6, 0.5))
        for i in range(6):
            cx, top = 26 * i - 24 + shift, horizon - 44 + rng.uniform(-10, 10)
            canvas.paint(_box(xs, ys, cx, horizon + 18, 2.5, 10), shade(0.35, 0.25))
            canvas.paint(_triangle(xs, ys, cx, top, horizon + 14, 16), shade(0.8, rng.uniform(0.4, 0.6)))
    elif setting.place == "city":
        canvas.paint(horizon + 30 - ys, shade(0.2, 0.42))
        for i in range(6):
            cx, top = 26 * i - 22 + shift, horizon - rng.uniform(15, 50)
            wall, half = shade(0.55, rng.uniform(0.45, 0.7)), 11.0
            distance = np.maximum(np.abs(xs - cx) - half, np.maximum(top - ys, ys - horizon - 30))
            canvas.paint(distance, wall)
            window = np.maximum(np.abs((xs - cx + 20) % 8 - 4) - 2, np.abs((ys - top) % 10 - 6) - 2.5)
            canvas.paint(np.maximum(window, distance + 3), shade(0.25, 0.95))
    elif setting.place == "beach":
        canvas.paint(_ellipse(xs, ys, 16 + 2.4 * shift, horizon - 34, 12, 12), shade(0.55, 1.0))
        canvas.paint(horizon - ys, shade(0.75, 0.62))
        for i in range(4):
            wave = horizon + 5 + 6 * i + 1.6 * np.sin((xs + shift * (i + 1)) / 6)
            canvas.paint(np.abs(ys - wave) - 0.8, shade(0.3, 0.95))
        canvas.paint(horizon + 28 + 2 * np.sin((xs + shift) / 17) - ys, shade(0.28, 0.86))
    elif setting.place == "mountains":
        for i, cx in enumerate((10 + shift, 62 + shift * 0.7, 112 + shift * 0.4, -14 + shift)):
            top = horizon - 46 + rng.uniform(-8, 10) + 5 * (i % 2)
            peak = _triangle(xs, ys, cx, top, horizon + 24, 46)
            canvas.paint(peak, shade(0.55, rng.uniform(0.4, 0.6)))
            canvas.paint(np.maximum(peak, ys - top - 15 - 3 * np.sin(xs / 3)), shade(0.05, 0.97))
        canvas.paint(horizon + 22 - ys, shade(0.5, 0.48))
    else:  # desert
        canvas.paint(horizon - 6 + 8 * np.sin((xs + 2 * shift) / 21) - ys, shade(0.5, 0.75))
        canvas.paint(horizon + 16 + 9 * np.sin((xs + 4 * shift) / 27) - ys, shade(0.6, 0.62))
        for cx in (8 + 1.2 * shift, 78 + shift):
            green = shade(0.85, 0.36)
            base = horizon + 10 + rng.uniform(-4, 6)
            canvas.paint(_segment(xs, ys, cx, base, cx, base - 34, 4), green)
            for side, height in ((-1, 14), (1, 20)):
                elbow = cx + side * 10
                canvas.paint(_segment(xs, ys, cx, base - height, elbow, base - height, 2.8), green)
                canvas.paint(_segment(xs, ys, elbow, base - height, elbow, base - height - 9, 2.8), green)


def _coat(subject: Subject, u, v, scale):
    """Colour at every pixel of the body: base, with stripes or spots in the second colour; u, v from the body's middle."""
    hue, saturation, value = COLOURS[subject.colour]
    base = _rgb(hue + 0.018 * subject.shade, saturation + 0.06 * subject.shade, value - 0.06 * abs(subject.shade))
    second = _rgb(*COLOURS[subject.pattern_colour]) * 0.9
    period = 11 + 1.5 * subject.period
    if subject.pattern == "striped":
        wave = np.abs((v + 40 * period) % period - period / 2) - period / 4 + 0.2
    elif subject.pattern == "spotted":
        row = np.floor(v / period)
        wave = np.hypot((u + (row % 2) * period / 2) % period - period / 2, v % period - period / 2) - period * 0.3
    else:
        wave = np.full_like(u, 9.0)
    cover = np.clip(0.5 - wave * scale, 0, 1)[..., None]
    return base + cover * (second - base), base, second


_RADII = {"round": (25, 25), "tall": (18, 32), "wide": (32, 19)}


def _draw_subject(canvas: _Canvas, subject: Subject, pose: Pose, gear: str) -> None:
    rx, ry = _RADII[subject.shape]
    rx, ry = rx * (1 + 0.08 * subject.proportion), ry * (1 - 0.08 * subject.proportion)
    foot_y = 108 + pose.y  # where it stands
    cos, sin = np.cos(pose.tilt), np.sin(pose.tilt)
    x0, y0 = (canvas.x - 64 - pose.x) / pose.size, (canvas.y - foot_y) / pose.size
    x, y = cos * x0 + sin * y0, -sin * x0 + cos * y0 + 6 + ry  # the body's middle is the origin, down is positive
    coat, base, second = _coat(subject, x, y, canvas.scale)
    # Light from the upper left gives the flat shapes some volume.
    light = np.clip(1.06 - 0.16 * (x / rx + y / ry) / 2, 0.75, 1.15)[..., None]
    coat = coat * light
    dark = np.array([0.08, 0.08, 0.12], np.float32)

    def paint(distance, colour):
        canvas.paint(distance * pose.size, colour, subject=True)

    if subject.category == "monster":
        for side in (-1, 1):
            paint(_segment(x, y, side * rx * 0.45, ry * 0.7, side * rx * 0.5, ry + 5, 5), base * 0.8)
            paint(_segment(x, y, side * rx * 0.85, ry * 0.05, side * (rx + 9), ry * 0.4, 4), base * 0.85)
            if subject.part == "horns":
                paint(_segment(x, y, side * rx * 0.5, -ry * 0.75, side * rx * 0.75, -ry - 11, 3.5), second)
            elif subject.part == "ears":
                paint(_ellipse(x, y, side * rx * 0.65, -ry * 0.85, 9, 10), base * 0.85)
                paint(_ellipse(x, y, side * rx * 0.65, -ry * 0.85, 5, 6), second)
            else:
                paint(_segment(x, y, side * rx * 0.3, -ry * 0.8, side * rx * 0.45, -ry - 13, 1.6), dark)
                paint(_ellipse(x, y, side * rx * 0.45, -ry - 14, 4.5, 4.5), second)
        paint(_ellipse(x, y, 0, 0, rx, ry), coat)
        spread = 11.0
        for i in range(subject.eyes):
            ex = (i - (subject.eyes - 1) / 2) * spread
            paint(_ellipse(x, y, ex, -ry * 0.3, 6, 6.5), np.ones(3, np.float32))
            paint(_ellipse(x, y, ex + 0.8, -ry * 0.3 + 1, 2.8, 3.2), dark)
        paint(np.maximum(_ellipse(x, y, 0, ry * 0.12, 9, 7), ry * 0.14 - y), dark)
    else:
        neck = rx * 0.42
        if subject.part == "handles":
            for side in (-1, 1):
                paint(np.abs(_ellipse(x, y, side * rx * 0.95, -ry * 0.1, 9, ry * 0.42)) - 2.2, base * 0.75)
        paint(_box(x, y, 0, -ry * 0.9, neck, ry * 0.35), coat * 0.95)
        paint(_ellipse(x, y, 0, 0, rx, ry), coat)
        if subject.part == "rim":
            paint(_box(x, y, 0, -ry * 1.2, neck + 7, 3.2), second)
        if subject.part == "foot":
            paint(np.maximum(_triangle(x, y, 0, ry * 0.3, ry + 6, rx * 0.8), -(y - ry * 0.75)), second)
        else:
            paint(_box(x, y, 0, ry * 0.97, rx * 0.5, 4), base * 0.7)
    if gear == "hat":
        top = -ry - (1 if subject.category == "monster" else 4)
        paint(_box(x, y, 0, top, 17, 2.6), dark)
        paint(_box(x, y, 0, top - 10, 10, 9.5), dark)
        paint(_box(x, y, 0, top - 4, 10, 2), np.array([0.85, 0.1, 0.15], np.float32))
    elif gear == "flowers":
        ground = -ry * 0.95
        for dx, height, colour in ((-13, 17, "yellow"), (0, 24, "pink"), (13, 17, "white")):
            paint(_segment(x, y, dx * 0.2, ground, dx, ground - height, 1.1), np.array([0.1, 0.45, 0.15], np.float32))
            petal = 6.2 + 1.6 * np.cos(5 * np.arctan2(y - ground + height, x - dx))
            paint(np.hypot(x - dx, y - ground + height) - petal, _rgb(*COLOURS[colour]))
            paint(_ellipse(x, y, dx, ground - height, 2.6, 2.6), np.array([0.9, 0.55, 0.05], np.float32))


def relit(scene: Scene, rng: random.Random, **changes) -> Scene:
    """The same subject in another pose; `changes` as of `dataclasses.replace`."""
    return replace(scene, pose=random_pose(rng), **changes)
