"""What a node's widgets and inputs are in a host, by its /object_info (`info`)."""

from .description import links_of

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def inputs_of(kind, info):
    """(name, type, type as given, options, "required" or "optional") of a node's inputs, in order."""
    for part in ("required", "optional"):
        for name, (type_, *options) in info[kind]["input"].get(part, {}).items():
            yield name, "COMBO" if isinstance(type_, list) else type_, type_, options[0] if options else {}, part


def widgets_of(node, info):
    """(name, value, what the page adds behind it) of a node's widgets, in order."""
    found = []
    for name, type_, given, options, _ in inputs_of(node.kind, info):
        if type_ in WIDGETS and not options.get("forceInput"):
            choices = given if isinstance(given, list) else options.get("options", [""])
            plain = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": choices[0] if choices else ""}[type_]
            value = node.inputs.get(name, options.get("default", plain))
            if isinstance(value, tuple):  # wired: what the widget would have without
                value = options.get("default", plain)
            found.append((name, value, ["fixed"] if options.get("control_after_generate") else []))
    unknown = set(node.inputs) - {name for name, *_ in inputs_of(node.kind, info)}
    assert not unknown, (node.kind, unknown)
    return found


def sockets_of(node, info):
    """(name, type, output or None, whether it may stay unwired) of a node's inputs for wires, in order; wired widgets last."""
    wired, found, on_widgets = dict(links_of(node)), [], []
    for name, type_, _, options, part in inputs_of(node.kind, info):
        if type_ == "COMFY_AUTOGROW_V3":
            given = [key for key in wired if key.startswith(f"{name}.")]
            found += [(key, type_of(wired[key], info), wired[key], False) for key in given]
            found.append((f"{name}.input{len(given)}", type_of(wired[given[0]], info), None, True))
        elif type_ not in WIDGETS or options.get("forceInput"):
            found.append((name, type_, wired.get(name), part == "optional"))
        elif name in wired:
            on_widgets.append((name, type_, wired[name], False))
    return found + on_widgets


def type_of(link, info):
    return info[link[0].kind]["output"][link[1]]


def through(link, info):
    """The output that a wire comes from when bypassed nodes hand on what they get; None if they get nothing of its type."""
    while link and link[0].bypassed:
        node, slot = link
        sockets, type_ = sockets_of(node, info), type_of(link, info)
        same = sockets[slot : slot + 1] + sockets
        link = next((wire for _, kind, wire, _ in same if kind == type_), None)
    return link
