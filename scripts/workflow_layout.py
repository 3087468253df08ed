"""A workflow as a description, and ComfyUI's formats of it: for the page, with places; for the API; as a blueprint.

The rules of the layout are here: nodes stand under each other in columns, columns in groups, groups side by side in rows. A
wire to the next column goes straight; any other takes a lane above the row, so that no wire runs behind a node.
"""

import uuid
from dataclasses import dataclass, field

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
BYPASSED = 4  # a node's mode
OWN_VERSION, CORE_VERSION = "0.1.0", "0.18.2"
INPUTS, OUTPUTS = -10, -20  # what stands for a subgraph's inputs and outputs among its nodes
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
COLOURS = {"positive": ("#232", "#353"), "negative": ("#322", "#533"), "note": ("#222", "#000")}

# Width and height in the renderer that needs more, with what a node shows after its run.
SIZES = {
    "CheckpointLoaderSimple": (340, 140),
    "LoraLoader": (340, 190),
    "AttractorLoadSubjectImages": (340, 380),
    "AttractorLoadPDST": (340, 320),
    "AttractorLoadEvaluationEncoders": (340, 160),
    "AttractorLoadFlorence2": (340, 160),
    "AttractorLoadSAM2": (340, 160),
    "AttractorSubjectMask": (340, 640),
    "AttractorCropToSubject": (340, 210),
    "AttractorTrain": (460, 760),
    "AttractorTrainingOptions": (340, 1440),
    "AttractorLoadNeTIMapper": (340, 150),
    "AttractorLoadTokenCheckpoints": (340, 210),
    "AttractorApplyToken": (340, 220),
    "AttractorMixTokens": (340, 220),
    "AttractorPDSTEvaluate": (380, 760),
    "AttractorPDSTPrompts": (340, 420),
    "AttractorPDSTScoreImages": (380, 620),
    "AttractorPDSTReport": (560, 760),
    "SAM3_Detect": (340, 260),
    "CLIPTextEncode": (340, 150),
    "EmptyLatentImage": (340, 150),
    "KSampler": (340, 350),
    "VAEDecode": (220, 80),
    "InvertMask": (260, 80),
    "JoinImageWithAlpha": (260, 100),
    "SaveImage": (420, 480),
    "PreviewImage": (420, 420),
    "CreateList": (240, 180),
    "ControlNetLoader": (340, 90),
    "ControlNetApplyAdvanced": (340, 240),
    "ImageFromBatch": (340, 120),
    "Canny": (340, 120),
}
MODELS = {
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        "checkpoints",
    ),
    "sam3.1_multiplex_fp16.safetensors": (
        "https://huggingface.co/Comfy-Org/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors",
        "checkpoints",
    ),
    "control_v11p_sd15_canny_fp16.safetensors": (
        "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
        "control_v11p_sd15_canny_fp16.safetensors",
        "controlnet",
    ),
}


@dataclass(eq=False)
class Node:
    """A node of a description; `node[i]` is its output i. inputs: values of widgets, outputs of nodes, or lists of outputs."""

    id: int
    kind: str
    title: str
    inputs: dict
    bypassed: bool
    size: tuple[int, int]
    collapsed: bool = False
    place: tuple[int, int] = (0, 0)  # row and column, then
    pos: tuple[int, int] = (0, 0)  # pixels

    def __getitem__(self, slot):
        return (self, slot)


@dataclass
class Group:
    title: str
    row: int
    columns: list[list[Node]]


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


class Workflow:
    """Built from left to right: `group`, then `column` and `add` in turn; `row` begins anew at the left."""

    def __init__(self, name, description, note):
        self.name, self.description, self.note = name, description, note
        self.nodes, self.groups, self.rows = [], [], 1

    def row(self):
        self.rows += 1

    def group(self, title):
        self.groups.append(Group(title, self.rows - 1, [[]]))

    def column(self):
        if self.groups[-1].columns[-1]:
            self.groups[-1].columns.append([])

    def add(self, kind, title, size=None, bypassed=False, collapsed=False, **inputs):
        size = (SIZES[kind][0], 0) if collapsed else size or SIZES[kind]
        node = Node(len(self.nodes) + 1, kind, title, inputs, bypassed, size, collapsed)
        self.nodes.append(node)
        self.groups[-1].columns[-1].append(node)
        return node

    # -- the format for the API -------------------------------------------------------------------------

    def api(self, info):
        """info: the host's /object_info."""
        prompt = {}
        for node in self.nodes:
            if not node.bypassed:
                values = {name: value for name, value, _ in _widgets(node, info)}
                wires = {name: _through(link, info) for name, _, link, _ in _sockets(node, info) if link}
                values |= {name: [str(link[0].id), link[1]] for name, link in wires.items() if link}
                prompt[str(node.id)] = {"inputs": values, "class_type": node.kind, "_meta": {"title": node.title}}
        return prompt

    # -- the format for the page ------------------------------------------------------------------------

    def ui(self, info):
        """info: the host's /object_info."""
        groups, lanes = self._place()
        links = self._wires(info)
        reroutes, last = self._reroutes(lanes, links)
        nodes = [_note(self)] + [_node(node, links, info) for node in self.nodes]
        return {
            "id": _uuid(self.name),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {
                "info": {"name": self.name, "author": "ComfyUI-Attractor", "description": self.description},
                "reroutes": reroutes,
                "linkExtensions": [{"id": link, "parentId": reroute} for link, reroute in last.items()],
            },
            "version": 0.4,
        }

    # -- a blueprint -------------------------------------------------------------------------------------

    def blueprint(self, info, category, inputs, outputs):
        """A subgraph for the node library. inputs: name -> [(node, its input or widget)]; outputs: name -> an output."""
        self._place()
        links, ports, shown = self._wires(info), [], {node.id: [] for node in self.nodes}
        for index, (name, targets) in enumerate(inputs.items()):
            first = len(links) + 1
            for node, own in targets:
                sockets = [socket for socket, *_ in _sockets(node, info)]
                if own not in sockets:
                    shown[node.id].append(own)
                    sockets += shown[node.id]
                kind = next(type_ for socket, type_, *_ in _inputs(node.kind, info) if socket == own)
                links.append([len(links) + 1, INPUTS, index, node.id, sockets.index(own), kind])
            ports.append(_port(self.name, name, kind, range(first, len(links) + 1)))
        ends = []
        for index, (name, link) in enumerate(outputs.items()):
            links.append([len(links) + 1, link[0].id, link[1], OUTPUTS, index, _type(link, info)])
            ends.append(_port(self.name, name, _type(link, info), [len(links)]))
        right = max(node.pos[0] + node.size[0] for node in self.nodes) + GUTTER
        widgets = [(name, node, own) for name, ((node, own), *_) in inputs.items() if own in shown[node.id]]
        inner = {
            "id": _uuid(self.name),
            "version": 1,
            "state": {"lastGroupId": 0, "lastNodeId": len(self.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUTS, "bounding": [NOTE - 160, 0, 140, 20 * len(ports) + 40]},
            "outputNode": {"id": OUTPUTS, "bounding": [right, 0, 140, 20 * len(ends) + 40]},
            "inputs": ports,
            "outputs": ends,
            "widgets": [],
            "nodes": [_node(node, links, info, shown[node.id]) for node in self.nodes],
            "groups": [],
            "links": [dict(zip(LINK, link, strict=True)) for link in links],
            "extra": {},
            "category": category,
            "description": self.description,
        }
        named = {name for name, *_ in widgets}
        outer = {
            "id": len(self.nodes) + 1,
            "type": inner["id"],
            "pos": [0, 0],
            "size": [340, 70 + 22 * max(len(ports) - len(widgets), len(ends)) + 38 * len(widgets)],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [
                {"name": port["name"], "type": port["type"], "link": None}
                | ({"widget": {"name": port["name"]}} if port["name"] in named else {})
                for port in ports
            ],
            "outputs": [{"name": end["name"], "type": end["type"], "links": []} for end in ends],
            "properties": {"proxyWidgets": [[str(node.id), own] for _, node, own in widgets], **_origin("Attractor")},
            "widgets_values": [],
            "title": self.name,
        }
        top = {"revision": 0, "last_node_id": outer["id"], "last_link_id": 0, "nodes": [outer], "links": [], "version": 0.4}
        return {**top, "definitions": {"subgraphs": [inner]}, "extra": {}}

    def _wires(self, info):
        """The links between the nodes, as the format for the page has them."""
        links = []
        for node in self.nodes:
            for slot, (_, kind, link, _) in enumerate(_sockets(node, info)):
                if link:
                    links.append([len(links) + 1, link[0].id, link[1], node.id, slot, kind])
        return links

    # -- places ------------------------------------------------------------------------------------------

    def _place(self):
        """Give every node its position; the groups, and the lanes of wires."""
        self._set_side_by_side()
        lanes, made, top = self._lanes(), [], 0
        for row in range(self.rows):
            own = [lane for lane in lanes if lane.row == row]
            top += LANE * max((lane.number for lane in own), default=0)
            for lane in own:
                lane.y = top - LANE * lane.number
            low = top
            for group in (group for group in self.groups if group.row == row):
                bottom = top
                for nodes in group.columns:
                    y = top + HEAD
                    for node in nodes:
                        node.pos = (node.pos[0], y + TITLE)
                        y += TITLE + node.size[1] + GAP
                    bottom = max(bottom, y - GAP + MARGIN)
                left, right = group.columns[0][0].pos[0] - MARGIN, self._right_of(group.columns[-1][0]) + MARGIN
                made.append(_group(len(made) + 1, group.title, [left, top, right - left, bottom - top]))
                low = max(low, bottom)
            top = low + ROW
        return made, lanes

    def _set_side_by_side(self):
        for row in range(self.rows):
            x, columns = NOTE + GUTTER, [nodes for group in self.groups if group.row == row for nodes in group.columns]
            for number, nodes in enumerate(columns):
                for node in nodes:
                    node.pos, node.place = (x, 0), (row, number)
                x += max(node.size[0] for node in nodes) + GUTTER

    def _lanes(self):
        """The lanes of all wires that do not go straight. An output has one in each row, shared by its wires."""
        lanes = {}
        for node in self.nodes:
            for _, link in _links(node):
                (row, column), (from_row, from_column) = node.place, link[0].place
                if (row, column - 1) != (from_row, from_column):
                    lane = lanes.setdefault((row, link), Lane(row, link, self._right_of(link[0])))
                    lane.ends.append(node)
                for between in range(from_row + 1, row):  # rows that a wire only passes
                    lanes.setdefault((between, link), Lane(between, link, self._right_of(link[0])))
        found = sorted(lanes.values(), key=lambda lane: lane.row)
        for lane in found:
            if lane.row - lane.link[0].place[0] > 1:  # down the shaft at the left, from the lane in the row above
                lane.above = next(other for other in found if (other.row, other.link) == (lane.row - 1, lane.link))
                lane.above.low = lane.start = lane.low = SHAFT
        for lane in found:  # the lowest that is free over the whole length
            taken = {other.number for other in found if other.row == lane.row and other.number and other.meets(lane)}
            lane.number = next(number for number in range(1, len(found) + 1) if number not in taken)
        return found

    def _right_of(self, node):
        """The right edge of a node's column."""
        return max(other.pos[0] + other.size[0] for other in self.nodes if other.place == node.place)

    def _reroutes(self, lanes, links):
        """The corners of the wires, and for each link the last one before its target."""
        by_id, made, last = {node.id: node for node in self.nodes}, [], {}

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


def _links(node):
    """(name, output) of all that is wired to a node."""
    for name, value in node.inputs.items():
        if isinstance(value, list):
            yield from ((f"{name}.input{i}", link) for i, link in enumerate(value))
        elif isinstance(value, tuple):
            yield name, value


def _inputs(kind, info):
    """(name, type, options, whether it must be wired) of a node's inputs, in order."""
    for part in ("required", "optional"):
        for name, (type_, *options) in info[kind]["input"].get(part, {}).items():
            yield name, "COMBO" if isinstance(type_, list) else type_, type_, options[0] if options else {}, part


def _widgets(node, info):
    """(name, value, what the page adds behind it) of a node's widgets, in order."""
    found = []
    for name, type_, given, options, _ in _inputs(node.kind, info):
        if type_ in WIDGETS and not options.get("forceInput"):
            choices = given if isinstance(given, list) else options.get("options", [""])
            plain = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": choices[0] if choices else ""}[type_]
            value = node.inputs.get(name, options.get("default", plain))
            if isinstance(value, tuple):  # wired: what the widget would have without
                value = options.get("default", plain)
            found.append((name, value, ["fixed"] if options.get("control_after_generate") else []))
    unknown = set(node.inputs) - {name for name, *_ in _inputs(node.kind, info)}
    assert not unknown, (node.kind, unknown)
    return found


def _sockets(node, info):
    """(name, type, output or None, whether it may stay unwired) of a node's inputs for wires, in order; wired widgets last."""
    wired, found, on_widgets = dict(_links(node)), [], []
    for name, type_, _, options, part in _inputs(node.kind, info):
        if type_ == "COMFY_AUTOGROW_V3":
            given = [key for key in wired if key.startswith(f"{name}.")]
            found += [(key, _type(wired[key], info), wired[key], False) for key in given]
            found.append((f"{name}.input{len(given)}", _type(wired[given[0]], info), None, True))
        elif type_ not in WIDGETS or options.get("forceInput"):
            found.append((name, type_, wired.get(name), part == "optional"))
        elif name in wired:
            on_widgets.append((name, type_, wired[name], False))
    return found + on_widgets


def _type(link, info):
    return info[link[0].kind]["output"][link[1]]


def _through(link, info):
    """The output that a wire comes from when bypassed nodes hand on what they get; None if they get nothing of its type."""
    while link and link[0].bypassed:
        node, slot = link
        sockets, type_ = _sockets(node, info), _type(link, info)
        same = sockets[slot : slot + 1] + sockets
        link = next((wire for _, kind, wire, _ in same if kind == type_), None)
    return link


def _node(node, links, info, shown=()):
    """A node in the format for the page. shown: widgets that are wired."""
    sockets = [
        {"name": name, "type": kind, **({"shape": 7} if optional else {})} for name, kind, _, optional in _sockets(node, info)
    ]
    types = {name: kind for name, kind, *_ in _inputs(node.kind, info)}
    sockets += [{"name": name, "type": types[name]} for name in shown]
    on_widgets = {name for name, *_ in _widgets(node, info)}
    sockets = [{**one, "widget": {"name": one["name"]}} if one["name"] in on_widgets else one for one in sockets]
    for slot, socket in enumerate(sockets):
        socket["link"] = next((number for number, _, _, *target, _ in links if target == [node.id, slot]), None)
    outputs = []
    for slot, (kind, name) in enumerate(zip(info[node.kind]["output"], info[node.kind]["output_name"], strict=True)):
        out = [number for number, source, output, *_ in links if (source, output) == (node.id, slot)]
        kind = next((link[5] for link in links if link[0] in out), kind)
        outputs.append({"name": name, "type": kind, "links": out or None})
    properties = {"Node name for S&R": node.kind, **_origin(node.kind)}
    values = [value for _, value, more in _widgets(node, info) for value in (value, *more)]
    models = [{"name": v, "url": MODELS[v][0], "directory": MODELS[v][1]} for v in values if isinstance(v, str) and v in MODELS]
    if models:
        properties["models"] = models
    made = {
        "id": node.id,
        "type": node.kind,
        "pos": list(node.pos),
        "size": list(node.size),
        "flags": {"collapsed": True} if node.collapsed else {},
        "order": node.id,
        "mode": BYPASSED if node.bypassed else 0,
        "inputs": sockets,
        "outputs": outputs,
        "title": node.title,
        "properties": properties,
        "widgets_values": values,
    }
    if node.kind == "CLIPTextEncode":
        made["color"], made["bgcolor"] = COLOURS["negative" if node.title.startswith("Negative") else "positive"]
    return made


def _origin(kind):
    """Where a missing node is to be had."""
    own = kind.startswith("Attractor")
    return {"cnr_id": "attractor", "ver": OWN_VERSION} if own else {"cnr_id": "comfy-core", "ver": CORE_VERSION}


def _port(graph, name, kind, links):
    return {"id": _uuid(f"{graph}/{name}/{kind}"), "name": name, "type": kind, "linkIds": list(links), "label": name}


def _uuid(name):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"attractor/{name}"))


def _note(flow):
    lines = len(flow.note) // 50 + flow.note.count("\n\n") + flow.note.count("\n- ") + flow.note.count("\n1")
    return {
        "id": len(flow.nodes) + 1,
        "type": "MarkdownNote",
        "pos": [0, TITLE],
        "size": [SHAFT - 20, 90 + 17 * lines],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [f"# {flow.description}\n\n{flow.note.strip()}"],
        "color": COLOURS["note"][0],
        "bgcolor": COLOURS["note"][1],
    }


def _group(number, title, bounding):
    return {"id": number, "title": title, "bounding": bounding, "color": "#3f789e", "font_size": 24, "flags": {}}
