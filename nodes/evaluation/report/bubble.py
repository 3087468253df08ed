"""The paper's Fig. 5: each system is a disc, placed and sized by its three scores."""

import math

from matplotlib.colors import to_rgba

from ... import plotting
from ...plotting import DASHED, SERIES, SOFT, Axes, Chart, Figure, Line2D, pixels, styled, text_width, words
from ..metrics import TITLES
from .figures import NARROW, WIDE, empty
from .gather import Collected, System
from .tables import held_out

_SMALLEST, _LARGEST = 9, 24  # pixels of radius
_FONT, _LINE = 13, 18  # pixels: a label's font, and the height of its line
_AWAY = (4, 14, 26, 40, 56)  # pixels from a disc to its label; from 14 on, a thin line joins the two
_ANGLES = (0, 180, 90, 270, 45, 315, 135, 225)  # degrees, clockwise from the right: where a label stands, best first

Box = tuple[float, float, float, float]  # left, top, right, bottom: pixels from the figure's left and top
Disc = tuple[float, float, float]  # x, y, radius, likewise


@styled()
def bubble(data: Collected, y_score: str, width: int = WIDE) -> Chart:
    """CLIP-T to the right, `y_score` up, the third score as the disc's size.

    Discs bear their systems' names or, where these would lie on top of each other, numbers, with a list of names below.
    """
    scores = held_out(data)
    if len(scores) < 3:
        return empty("Fig. 5: all three scores at once", "Needs CLIP-T, CLIP-I and DINO: evaluate with both encoders.", width)
    size_score = "clip_i" if y_score == "dino" else "dino"
    systems = [system for system in data.compared if system.images]
    figure, clear = _draw(systems, y_score, size_score, width, numbered=False)
    if not clear:
        figure, _ = _draw(systems, y_score, size_score, width, numbered=True)
    spoken = (f"{s.name}: " + ", ".join(f"{TITLES[score]} {s.mean(score):.3f}" for score in scores) for s in systems)
    caption = (
        "How to read it: each disc is one system. Further right, its images follow their captions more closely (CLIP-T). "
        f"Higher up, the subject looks more like the held-out photos ({TITLES[y_score]}). A larger disc says the same by "
        f"{TITLES[size_score]}. The best systems are large and at the top right."
    )
    title = f"Fig. 5: CLIP-T, {TITLES[y_score]} and {TITLES[size_score]} of each system"
    return Chart(figure, title, "; ".join(spoken), caption)


def _draw(systems: list[System], y_score: str, size_score: str, width: int, numbered: bool) -> tuple[Figure, bool]:
    """The figure, and whether no label lies on another."""
    names = [plotting.shorten(system.name, width - 130, _FONT) for system in systems]
    bottom = 372 if width == NARROW else 412
    figure = plotting.blank(width, bottom + 48 + (_list_height(names, width) if numbered else 0))
    sizes = [system.mean(size_score) for system in systems]
    plotting.heading(figure, f"Fig. 5: CLIP-T against {TITLES[y_score]}")
    words(figure, 0, 34, f"larger discs: higher {TITLES[size_score]}, {min(sizes):.3f} to {max(sizes):.3f}", color=SOFT)
    frame = (62, 54, width - 22, bottom)
    axes = plotting.panel(figure, *frame)
    axes.set_xlabel("CLIP-T (follows the caption)")
    axes.set_ylabel(f"{TITLES[y_score]} (looks like the held-out photo)")
    axes.yaxis.set_label_coords(-48 / (frame[2] - frame[0]), 0.5)
    plotting.few_ticks(axes.xaxis, 4 if width == NARROW else 7)
    plotting.few_ticks(axes.yaxis, 6)
    discs = _draw_discs(axes, systems, [(s.mean("clip_t"), s.mean(y_score)) for s in systems], sizes)
    labels = [str(number) for number in range(1, len(systems) + 1)] if numbered else names
    boxes = place_labels(discs, [(text_width(label, _FONT) + 2, _LINE) for label in labels], frame)
    for label, disc, box in zip(labels, discs, boxes, strict=True):
        _draw_label(figure, label, disc, box)
    if numbered:
        _draw_list(figure, names, bottom + 52)
    clear = not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    return figure, clear


def _draw_discs(axes: Axes, systems: list[System], points: list[tuple[float, float]], sizes: list[float]) -> list[Disc]:
    """A disc at each point, the largest first, so that none hides another."""
    axes.set_xlim(plotting.span([x for x, _ in points], 0.3))
    axes.set_ylim(plotting.span([y for _, y in points], 0.25))
    low, high = min(sizes), max(sizes)
    shares = [(size - low) / (high - low) if high > low else 0.5 for size in sizes]
    radii = [_SMALLEST + (_LARGEST - _SMALLEST) * share for share in shares]
    for i in sorted(range(len(systems)), key=lambda i: -radii[i]):
        floor, colour = systems[i].floor, SERIES[i % len(SERIES)]
        look = {"fc": "none", "ec": SOFT, "ls": DASHED} if floor else {"fc": to_rgba(colour, 0.35), "ec": colour}
        axes.scatter(*points[i], s=(2 * radii[i]) ** 2, linewidths=1.5, clip_on=False, zorder=2, **look)
    height = pixels(axes.figure)[1]
    places = axes.transData.transform(points).tolist()
    return [(x, height - y, radius) for (x, y), radius in zip(places, radii, strict=True)]


def place_labels(discs: list[Disc], sizes: list[tuple[float, float]], frame: Box) -> list[Box]:
    """Where labels of these sizes (width, height) stand: inside the frame, near their discs, covering as little as can be.

    Greedy, one label after another, so labels may still overlap where discs crowd.
    """
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in discs]
    boxes: list[Box] = []
    for disc, size in zip(discs, sizes, strict=True):
        spots = [_spot(disc, size, angle, away, frame) for away in _AWAY for angle in _ANGLES]

        def cost(i: int, spots: list[Box] = spots) -> float:
            on_labels = sum(_overlap(spots[i], box) for box in boxes)
            on_discs = sum(_overlap(spots[i], box) for box in taken)
            return 100 * on_labels + on_discs + 0.5 * i  # half a pixel for each better spot

        boxes.append(spots[min(range(len(spots)), key=cost)])
    return boxes


def _spot(disc: Disc, size: tuple[float, float], angle: float, away: float, frame: Box) -> Box:
    """The box that touches the circle `away` around the disc at an angle, moved into the frame where it leaves it."""
    (x, y, radius), (width, height) = disc, size
    right, down = round(math.cos(math.radians(angle)), 3), round(math.sin(math.radians(angle)), 3)
    left = x + (radius + away) * right + width * (_sign(right) - 1) / 2
    top = y + (radius + away) * down + height * (_sign(down) - 1) / 2
    left = min(max(left, frame[0] + 2), frame[2] - width)
    top = min(max(top, frame[1]), frame[3] - height)
    return left, top, left + width, top + height


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _overlap(a: Box, b: Box) -> float:
    """Square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _draw_label(figure: Figure, label: str, disc: Disc, box: Box) -> None:
    """The label in its box, and a line to its disc if it stands apart."""
    (x, y, radius), (width, height) = disc, pixels(figure)
    near_x, near_y = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
    distance = math.hypot(near_x - x, near_y - y)
    if distance > radius + _AWAY[0] + 4:
        edge_x, edge_y = x + (near_x - x) * radius / distance, y + (near_y - y) * radius / distance
        ends = [edge_x / width, near_x / width], [1 - edge_y / height, 1 - near_y / height]
        figure.add_artist(Line2D(*ends, color=SOFT, linewidth=0.8, transform=figure.transFigure))
    words(figure, box[0] + 1, (box[1] + box[3]) / 2, label, size=_FONT)


def _columns(names: list[str], width: int) -> int:
    """How many columns a numbered list of the names takes."""
    return max(1, int(width // (max(text_width(name, 12) for name in names) + 44)))


def _list_height(names: list[str], width: int) -> int:
    return 12 + _LINE * math.ceil(len(names) / _columns(names, width))


def _draw_list(figure: Figure, names: list[str], top: float) -> None:
    width, _ = pixels(figure)
    columns = _columns(names, int(width))
    rows = math.ceil(len(names) / columns)
    for i, name in enumerate(names):
        left, y = (i // rows) * width / columns, top + _LINE * (i % rows + 0.5)
        words(figure, left + 20, y, str(i + 1), ha="right", weight="bold")
        words(figure, left + 28, y, name)
