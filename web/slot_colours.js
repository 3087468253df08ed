// Colours of the pack's own link types, in both renderers: the page's palettes know the host's types only and leave others grey.
import { app } from "../../scripts/app.js";

export const COLOURS = {
    PERSONALIZED_TOKEN: "#f06292",
    ATTRACTOR_TRAINING_OPTIONS: "#90a4ae",
    PDST_EVALUATE_OPTIONS: "#90a4ae",
    ATTRACTOR_FLORENCE2: "#4db6ac",
    ATTRACTOR_SAM2: "#26c6da",
    EVALUATION_ENCODERS: "#7986cb",
    PDST_DATASET: "#d4e157",
    PDST_PLAN: "#aed581",
    PDST_RESULTS: "#bc8f6f",
};

export function colourSlots() {
    const style = document.createElement("style"); // for slots that are elements
    style.textContent = `:root { ${Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`).join(" ")} }`;
    document.head.append(style);
    for (const table of [app.canvas?.default_connection_color_byType, app.canvas?.constructor.link_type_colors]) {
        if (table) Object.entries(COLOURS).forEach(([type, colour]) => keep(table, type, colour));
    }
}

// A palette that does not know a type sets its colour to nothing each time it is chosen; one that does is heeded.
function keep(table, type, colour) {
    let chosen = table[type];
    const set = (value) => void (chosen = value);
    Object.defineProperty(table, type, { get: () => chosen || colour, set, enumerable: true, configurable: true });
}
