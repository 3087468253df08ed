"""Where nodes, groups and wires lie.

Nodes stand under each other in columns, columns in groups, groups side by side in rows. A wire to the next column goes
straight; any other takes a lane above the row, so that no wire runs behind a node.
"""

from dataclasses import dataclass, field

from .description import Node, links_of

TITLE = 30  # pixels of a node's title, which is above its position
HEAD = 44  # of a group's
GAP = 26  # between nodes of a column
GUTTER = 84  # between columns, for wires
MARGIN = 28  # of a group
SLOT = 20  # between a node's outputs
LANE = 20  # between wires side by side
ROW = 70  # between rows, and the lanes besides
NOTE = 520  # width of the note, and the shaft for wires that go down at its right
SHAFT = NOTE - 80


@dataclass
class Lane:
    """Where the wires of an output run above a row: from `start`, in pixels from the left, to the nodes at their ends."""

    row: int
    link: tuple
    start: int
    ends: list[Node] = field(default_factory=list)
    above: "Lane | None" = None
    low: int | None = None
    number: int = 0
    y: int = 0
    leftmost: dict | None = None

    def meets(self, other):
        """Whether they would touch if they had the same height."""
        (a, b), (c, d) = self._reach(), other._reach()
        return a < d + GUTTER and c < b + GUTTER

    def _reach(self):
        places = [self.start, *(node.pos[0] for node in self.ends), *([] if self.low is None else [self.low])]
        return min(places), max(places)


def place(flow):
    """Give every node its position; the groups, and the lanes of wires."""
    _set_side_by_side(flow)
    lanes, made, top = _lanes(flow), [], 0
    for row in range(flow.rows):
        own = [lane for lane in lanes if lane.row == row]
        top += LANE * max((lane.number for lane in own), default=0)
        for lane in own:
            lane.y = top - LANE * lane.number
        low = top
        for group in (group for group in flow.groups if group.row == row):
            bottom = top
            for nodes in group.columns:
                y = top + HEAD
                for node in nodes:
                    node.pos = (node.pos[0], y + TITLE)
                    y += TITLE + node.size[1] + GAP
                bottom = max(bottom, y - GAP + MARGIN)
            left, right = group.columns[0][0].pos[0] - MARGIN, _right_of(flow, group.columns[-1][0]) + MARGIN
            made.append(_box(len(made) + 1, group.title, [left, top, right - left, bottom - top]))
            low = max(low, bottom)
        top = low + ROW
    return made, lanes


def _set_side_by_side(flow):
    for row in range(flow.rows):
        x, columns = NOTE + GUTTER, [nodes for group in flow.groups if group.row == row for nodes in group.columns]
        for number, nodes in enumerate(columns):
            for node in nodes:
                node.pos, node.place = (x, 0), (row, number)
            x += max(node.size[0] for node in nodes) + GUTTER


def _lanes(flow):
    """The lanes of all wires that do not go straight. An output has one in each row, shared by its wires."""
    lanes = {}
    for node in flow.nodes:
        for _, link in links_of(node):
            (row, column), (from_row, from_column) = node.place, link[0].place
            if (row, column - 1) != (from_row, from_column):
                lane = lanes.setdefault((row, link), Lane(row, link, _right_of(flow, link[0])))
                lane.ends.append(node)
            for between in range(from_row + 1, row):  # rows that a wire only passes
                lanes.setdefault((between, link), Lane(between, link, _right_of(flow, link[0])))
    found = sorted(lanes.values(), key=lambda lane: lane.row)
    for lane in found:
        if lane.row - lane.link[0].place[0] > 1:  # down the shaft at the left, from the lane in the row above
            lane.above = next(other for other in found if (other.row, other.link) == (lane.row - 1, lane.link))
            lane.above.low = lane.start = lane.low = SHAFT
    for lane in found:  # the lowest that is free over the whole length
        taken = {other.number for other in found if other.row == lane.row and other.number and other.meets(lane)}
        lane.number = next(number for number in range(1, len(found) + 1) if number not in taken)
    return found


def _right_of(flow, node):
    """The right edge of a node's column."""
    return max(other.pos[0] + other.size[0] for other in flow.nodes if other.place == node.place)


def reroutes(flow, lanes, links):
    """The corners of the wires, and for each link the last one before its target."""
    by_id, made, last = {node.id: node for node in flow.nodes}, [], {}

    def corner(parent, x, y):
        made.append({"id": len(made) + 1, "pos": [x, y]} | ({"parentId": parent["id"]} if parent else {}))
        return made[-1]

    for lane in lanes:
        off, wires = 12 + 6 * lane.number, {}
        for number, source, output, target, _, _ in links:
            if by_id[target] in lane.ends and (by_id[source], output) == lane.link:
                wires.setdefault(by_id[target].pos[0], []).append(number)
        if lane.above:
            start = corner(corner(lane.above.leftmost, SHAFT + off, lane.above.y), SHAFT + off, lane.y)
        else:
            source, slot = lane.link
            start = corner(corner(None, lane.start + off, source.pos[1] + SLOT * slot + 14), lane.start + off, lane.y)
        lane.leftmost = start
        for side in (
            sorted(x for x in wires if x > start["pos"][0]),
            sorted(x for x in wires if x < start["pos"][0])[::-1],
        ):
            parent = start
            for x in side:
                parent = corner(parent, x - off, lane.y)
                last |= dict.fromkeys(wires[x], parent["id"])
            lane.leftmost = min(lane.leftmost, parent, key=lambda found: found["pos"][0])
    for reroute in made:
        reroute["linkIds"] = [number for number in last if reroute["id"] in _chain(made, last[number])]
    return made, last


def _chain(reroutes, last):
    """A reroute and all before it."""
    found = []
    while last:
        found.append(last)
        last = reroutes[last - 1].get("parentId")
    return found


def _box(number, title, bounding):
    return {"id": number, "title": title, "bounding": bounding, "color": "#3f789e", "font_size": 24, "flags": {}}
