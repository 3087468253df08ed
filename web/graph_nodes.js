// The pack's nodes in the graph on the page.
import { app } from "../../scripts/app.js";

export const isOurs = (node) => /^Attractor[A-Z]/.test(node.comfyClass ?? node.type ?? "");

// The node of an id as the server says it: 7, or 12:7 for one in a subgraph.
export function nodeOf(id) {
    let graph = app.rootGraph ?? app.graph;
    const path = String(id).split(":");
    for (const part of path.slice(0, -1)) {
        graph = graph?.getNodeById(isNaN(part) ? part : Number(part))?.subgraph;
    }
    const last = path.at(-1);
    return graph?.getNodeById(isNaN(last) ? last : Number(last)) ?? null;
}

// A node as tall as what is on it; the new renderer sees to that itself.
export function fit(node) {
    if (!window.LiteGraph?.vueNodesMode) {
        const [width, height] = node.computeSize();
        node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
    }
    node.setDirtyCanvas?.(true, true);
}

// The wheel zooms the graph over an element too, unless the element has something to scroll.
function forwardWheel(element) {
    element.addEventListener("wheel", (event) => {
        const scrolls = event.target.closest?.("[data-scrolls]");
        if (scrolls && scrolls.scrollHeight > scrolls.clientHeight + 1) event.stopPropagation();
        else if (!window.LiteGraph?.vueNodesMode) app.canvas?.processMouseWheel?.(event);
    });
}

// An element on a node, below its widgets, that is in no workflow file and no queued prompt. It goes by the name of the host's
// own widget for text while a node works: the host finds it there, writes into it and makes none of its own.
// height: a function that gives its least height in pixels. fixed: whether that is its most too. write: for the host's text.
export function addElement(node, element, { height, fixed = true, write = () => {} }) {
    forwardWheel(element);
    const widget = node.addDOMWidget("$$node-text-preview", "attractor", element, {
        serialize: false,
        hideOnZoom: false,
        margin: 6,
        getMinHeight: height,
        ...(fixed ? { getMaxHeight: height } : {}),
        getValue: () => "",
        setValue: write,
    });
    widget.serialize = false;
    return widget;
}
