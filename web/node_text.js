// What a node says of its result, on the node: a few lines that can be selected and copied, and a link to what it wrote.
import { api } from "../../scripts/api.js";
import { addElement, fit } from "./graph_nodes.js";

const TALLEST = 150;
const parts = new WeakMap();

// A node that begins to work may say something soon.
export const prepare = (node) => void partOf(node);

function showText(node, part, text) {
    part.text.textContent = text;
    part.box.hidden = !text;
    layOut(node, part);
}

export function showOutput(node, output) {
    const text = [output?.text ?? []].flat().filter((line) => typeof line === "string" && line.trim()).join("\n\n");
    if (!text) return;
    const part = partOf(node);
    if (!part) return;
    part.links.replaceChildren(...[output.report ?? []].flat().filter(Boolean).map(reportLink));
    showText(node, part, text);
}

function reportLink(name) {
    const link = document.createElement("a");
    link.className = "attractor-button";
    link.href = api.apiURL(`/attractor/report?name=${encodeURIComponent(name)}`);
    link.target = "_blank";
    link.rel = "noopener";
    link.textContent = "Open the report";
    link.title = `output/pdst/${name}/report/report.html in a new tab`;
    return link;
}

function partOf(node) {
    if (node.attractorPanel) return null; // it says more
    if (!parts.has(node)) parts.set(node, addPart(node));
    return parts.get(node);
}

function addPart(node) {
    const box = document.createElement("div");
    box.className = "attractor-said";
    const text = document.createElement("div");
    text.className = "attractor-said-text";
    text.tabIndex = 0;
    text.setAttribute("role", "status");
    const links = document.createElement("div");
    links.className = "attractor-said-links";
    box.append(text, links);
    text.dataset.scrolls = "";
    box.hidden = true;
    const part = { box, text, links, height: 0 };
    const write = (line) => typeof line === "string" && line && showText(node, part, line);
    addElement(node, box, { height: () => part.height, write });
    return part;
}

function layOut(node, part) {
    const probe = part.box.cloneNode(true);
    probe.style.cssText = `position:absolute; visibility:hidden; height:auto; width:${Math.max(node.size[0] - 24, 160)}px`;
    document.body.append(probe);
    part.height = Math.min(probe.scrollHeight, TALLEST) + 12;
    probe.remove();
    fit(node);
}
