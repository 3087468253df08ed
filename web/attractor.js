// What the pack adds to ComfyUI's page: the text of its nodes, the live panel of the training node, and the colours of its links.
// The nodes work without.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

import { isOurs, nodeOf } from "./graph_nodes.js";
import { prepare, showOutput } from "./node_text.js";
import { colourSlots } from "./slot_colours.js";
import { addPanel, listen } from "./training_panel.js";

for (const file of ["vendor/uplot/uPlot.min.css", "attractor.css"]) {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL(file, import.meta.url).href;
    document.head.append(style);
}

listen(); // before the page is connected: the host complains of events that nobody waits for

app.registerExtension({
    name: "attractor.nodes",

    nodeCreated(node) {
        if (node.comfyClass === "AttractorTrain") addPanel(node);
    },

    loadedGraphNode(node) {
        node.attractorPanel?.look();
    },

    setup() {
        colourSlots();
        api.addEventListener("executing", ({ detail }) => {
            const node = detail && nodeOf(detail);
            if (node && isOurs(node)) prepare(node);
        });
        api.addEventListener("executed", ({ detail }) => {
            const node = nodeOf(detail.display_node ?? detail.node);
            if (node && isOurs(node)) showOutput(node, detail.output);
        });
    },

    // A workflow that was loaded from the history comes with what its nodes said.
    onNodeOutputsUpdated(outputs) {
        for (const [id, output] of Object.entries(outputs ?? {})) {
            const node = nodeOf(id);
            if (node && isOurs(node)) showOutput(node, output);
        }
    },

    // After a reload of the page the workflow is there without it: the history knows.
    async afterConfigureGraph() {
        const workflow = app.graph?.id;
        const nodes = app.graph?.nodes?.filter(isOurs) ?? [];
        if (!workflow || !nodes.length) return;
        const history = await (await api.fetchApi("/history?max_items=32")).json();
        const runs = Object.values(history).filter((run) => run.prompt?.[3]?.extra_pnginfo?.workflow?.id === workflow);
        for (const run of runs) {
            for (const node of nodes) {
                if (run.outputs?.[node.id]) showOutput(node, run.outputs[node.id]);
            }
        }
    },
});
