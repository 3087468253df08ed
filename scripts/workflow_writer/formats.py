"""ComfyUI's formats of a description: for the API, for the page, and as a blueprint. info: the host's /object_info."""

import uuid

from .layout import GUTTER, NOTE, SHAFT, TITLE, place, reroutes
from .sockets import inputs_of, sockets_of, through, type_of, widgets_of

BYPASSED = 4  # a node's mode
OWN_VERSION, CORE_VERSION = "0.1.0", "0.18.2"
INPUTS, OUTPUTS = -10, -20  # what stands for a subgraph's inputs and outputs among its nodes
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
COLOURS = {"positive": ("#232", "#353"), "negative": ("#322", "#533"), "note": ("#222", "#000")}
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


def api(flow, info):
    """info: the host's /object_info."""
    prompt = {}
    for node in flow.nodes:
        if not node.bypassed:
            values = {name: value for name, value, _ in widgets_of(node, info)}
            wires = {name: through(link, info) for name, _, link, _ in sockets_of(node, info) if link}
            values |= {name: [str(link[0].id), link[1]] for name, link in wires.items() if link}
            prompt[str(node.id)] = {"inputs": values, "class_type": node.kind, "_meta": {"title": node.title}}
    return prompt


def ui(flow, info):
    """info: the host's /object_info."""
    groups, lanes = place(flow)
    links = _wires(flow, info)
    corners, last = reroutes(flow, lanes, links)
    nodes = [_note(flow)] + [_node(node, links, info) for node in flow.nodes]
    return {
        "id": _uuid(flow.name),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {
            "info": {"name": flow.name, "author": "ComfyUI-Attractor", "description": flow.description},
            "reroutes": corners,
            "linkExtensions": [{"id": link, "parentId": reroute} for link, reroute in last.items()],
        },
        "version": 0.4,
    }


def blueprint(flow, info, category, inputs, outputs):
    """A subgraph for the node library. inputs: name -> [(node, its input or widget)]; outputs: name -> an output."""
    place(flow)
    links, ports, shown = _wires(flow, info), [], {node.id: [] for node in flow.nodes}
    for index, (name, targets) in enumerate(inputs.items()):
        first = len(links) + 1
        for node, own in targets:
            sockets = [socket for socket, *_ in sockets_of(node, info)]
            if own not in sockets:
                shown[node.id].append(own)
                sockets += shown[node.id]
            kind = next(type_ for socket, type_, *_ in inputs_of(node.kind, info) if socket == own)
            links.append([len(links) + 1, INPUTS, index, node.id, sockets.index(own), kind])
        ports.append(_port(flow.name, name, kind, range(first, len(links) + 1)))
    ends = []
    for index, (name, link) in enumerate(outputs.items()):
        links.append([len(links) + 1, link[0].id, link[1], OUTPUTS, index, type_of(link, info)])
        ends.append(_port(flow.name, name, type_of(link, info), [len(links)]))
    right = max(node.pos[0] + node.size[0] for node in flow.nodes) + GUTTER
    widgets = [(name, node, own) for name, ((node, own), *_) in inputs.items() if own in shown[node.id]]
    inner = {
        "id": _uuid(flow.name),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(flow.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": flow.name,
        "inputNode": {"id": INPUTS, "bounding": [NOTE - 160, 0, 140, 20 * len(ports) + 40]},
        "outputNode": {"id": OUTPUTS, "bounding": [right, 0, 140, 20 * len(ends) + 40]},
        "inputs": ports,
        "outputs": ends,
        "widgets": [],
        "nodes": [_node(node, links, info, shown[node.id]) for node in flow.nodes],
        "groups": [],
        "links": [dict(zip(LINK, link, strict=True)) for link in links],
        "extra": {},
        "category": category,
        "description": flow.description,
    }
    named = {name for name, *_ in widgets}
    outer = {
        "id": len(flow.nodes) + 1,
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
        "title": flow.name,
    }
    top = {"revision": 0, "last_node_id": outer["id"], "last_link_id": 0, "nodes": [outer], "links": [], "version": 0.4}
    return {**top, "definitions": {"subgraphs": [inner]}, "extra": {}}


def _wires(flow, info):
    """The links between the nodes, as the format for the page has them."""
    links = []
    for node in flow.nodes:
        for slot, (_, kind, link, _) in enumerate(sockets_of(node, info)):
            if link:
                links.append([len(links) + 1, link[0].id, link[1], node.id, slot, kind])
    return links


def _node(node, links, info, shown=()):
    """A node in the format for the page. shown: widgets that are wired."""
    sockets = [
        {"name": name, "type": kind, **({"shape": 7} if optional else {})} for name, kind, _, optional in sockets_of(node, info)
    ]
    types = {name: kind for name, kind, *_ in inputs_of(node.kind, info)}
    sockets += [{"name": name, "type": types[name]} for name in shown]
    on_widgets = {name for name, *_ in widgets_of(node, info)}
    sockets = [{**one, "widget": {"name": one["name"]}} if one["name"] in on_widgets else one for one in sockets]
    for slot, socket in enumerate(sockets):
        socket["link"] = next((number for number, _, _, *target, _ in links if target == [node.id, slot]), None)
    outputs = []
    for slot, (kind, name) in enumerate(zip(info[node.kind]["output"], info[node.kind]["output_name"], strict=True)):
        out = [number for number, source, output, *_ in links if (source, output) == (node.id, slot)]
        kind = next((link[5] for link in links if link[0] in out), kind)
        outputs.append({"name": name, "type": kind, "links": out or None})
    properties = {"Node name for S&R": node.kind, **_origin(node.kind)}
    values = [value for _, value, more in widgets_of(node, info) for value in (value, *more)]
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
