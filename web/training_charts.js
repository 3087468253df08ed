// The curves of a training run, by uPlot, in the theme's colours.
import uPlot from "./vendor/uplot/uPlot.esm.js";

const HUES = { blue: "#5b9bd5", green: "#7cb46b", amber: "#d9a441", purple: "#b486d1", red: "#e07a5f" };
const LOSSES = { subject: HUES.blue, background: HUES.green, joint: HUES.amber, prior: HUES.purple };
const SCORES = { clip_t: ["CLIP-T", HUES.blue], clip_i: ["CLIP-I", HUES.amber], dino: ["DINO", HUES.green] };

// Each answers {steps, series: [{label, values, ...look}], marks} or null where there is nothing to draw yet.

export function lossCurves({ curves = {}, watched }) {
    const fixed = { label: `fixed batch, ${watched || "always the same"}`, points: curves.fixed, bold: true };
    const others = Object.entries(LOSSES).map(([name, colour]) => ({ label: name, points: curves[name], colour }));
    return joined([fixed, ...others]);
}

export function contrastCurves({ curves = {}, schedule = [], step, steps }) {
    if (!curves.contrast?.length) return null;
    const rest = step < steps ? schedule.filter(([at]) => at >= step) : [];
    return joined([
        { label: "contrast loss", points: curves.contrast, colour: HUES.red },
        { label: "its weight w_c", points: curves.contrast_weight, colour: HUES.blue, scale: "w" },
        { label: "w_c to come", points: rest, colour: HUES.blue, scale: "w", dash: [4, 4] },
    ]);
}

export function scoreCurves({ scores = [], best }) {
    const of = (name) => scores.filter((entry) => name in entry).map((entry) => [entry.step, entry[name]]);
    const series = Object.entries(SCORES).flatMap(([name, [label, colour]]) => [
        { label, points: of(name), colour, width: 2, dots: true },
        { label: `${label} on training photos`, points: of(`${name}_train`), colour, dash: [3, 4], quiet: true },
    ]);
    const drawn = joined(series);
    return drawn && { ...drawn, mark: best ? { step: best.step, label: `best: step ${best.step}` } : null };
}

// Series on one axis of steps.
function joined(series) {
    const used = series.filter(({ points }) => points?.length);
    if (!used.length) return null;
    const steps = [...new Set(used.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, i) => [step, i]));
    return {
        steps,
        series: used.map(({ points, ...look }) => {
            const values = new Array(steps.length).fill(null);
            for (const [step, value] of points) values[place.get(step)] = value;
            return { ...look, values };
        }),
    };
}

// One chart in an element: a line of names with values above, the curves below.
export class Chart {
    constructor(empty) {
        this.element = document.createElement("div");
        this.element.className = "attractor-chart";
        this.names = document.createElement("div");
        this.names.className = "attractor-names";
        this.frame = document.createElement("div");
        this.frame.className = "attractor-frame";
        this.element.append(this.names, this.frame);
        this.empty = empty;
        new ResizeObserver(() => this.resize()).observe(this.frame);
    }

    // drawn: as of the functions above. last: the step at which the axis ends.
    draw(drawn, last) {
        this.drawn = drawn;
        if (!drawn) {
            this.plot?.destroy();
            this.plot = this.look = null;
            this.names.replaceChildren();
            this.frame.textContent = this.empty;
            return;
        }
        const colours = this.colours();
        const look = JSON.stringify([colours, last, drawn.series.map(({ label }) => label)]);
        if (look !== this.look || !this.plot) {
            this.look = look;
            this.plot?.destroy();
            this.frame.textContent = "";
            this.colour = (series) => series.colour ?? colours.text;
            this.plot = new uPlot(this.options(drawn, last, colours), this.data(), this.frame);
        } else {
            this.plot.setData(this.data());
        }
        this.name();
        this.resize();
    }

    data() {
        return [this.drawn.steps, ...this.drawn.series.map(({ values }) => values)];
    }

    colours() {
        const style = getComputedStyle(this.element);
        return { text: style.color, soft: style.getPropertyValue("outline-color"), font: `10px ${style.fontFamily}` };
    }

    resize() {
        const { clientWidth: width, clientHeight: height } = this.frame;
        if (this.plot && width > 40 && height > 40 && (width !== this.plot.width || height !== this.plot.height)) {
            this.plot.setSize({ width, height });
        }
    }

    options(drawn, last, { text, soft, font }) {
        const axis = { stroke: soft, font, grid: { stroke: soft, width: 0.25 }, ticks: { show: false } };
        const right = drawn.series.some(({ scale }) => scale);
        return {
            width: Math.max(this.frame.clientWidth, 80),
            height: Math.max(this.frame.clientHeight, 60),
            padding: [6, right ? 0 : 10, 0, 0],
            legend: { show: false },
            cursor: {
                y: false,
                points: { size: 5 },
                drag: { x: false, y: false },
                // The graph's zoom is a CSS transform, which the mouse's place does not know of.
                move: (plot, left, top) => {
                    const zoom = plot.over.getBoundingClientRect().width / plot.over.offsetWidth || 1;
                    return [left / zoom, top / zoom];
                },
            },
            scales: { x: { time: false, range: (_, low) => [Math.min(low, 1), Math.max(last, 2)] } },
            axes: [
                { ...axis, size: 18, gap: 2, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000] },
                { ...axis, size: 44, gap: 4, space: 26 },
                ...(right ? [{ ...axis, scale: "w", side: 1, size: 40, gap: 4, space: 26, grid: { show: false } }] : []),
            ],
            series: [
                {},
                ...drawn.series.map((series) => ({
                    label: series.label,
                    scale: series.scale ?? "y",
                    stroke: series.colour ?? text,
                    width: series.bold ? 2.5 : (series.width ?? 1.25),
                    dash: series.dash,
                    spanGaps: true,
                    points: { show: (plot, i) => series.dots || plot.data[i].filter((value) => value !== null).length < 12, size: 5 },
                })),
            ],
            hooks: { setCursor: [() => this.name()], draw: [(plot) => this.mark(plot, text, font)] },
        };
    }

    // The names of the curves, with their values under the mouse, or else the latest.
    name() {
        const at = this.plot?.cursor?.idx;
        const spans = this.drawn.series.filter(({ quiet }) => !quiet || at != null).map((series) => {
            const name = document.createElement("span");
            const value = at == null ? series.values.findLast((found) => found !== null) : nearest(series.values, at);
            name.textContent = value == null ? series.label : `${series.label} ${short(value)}`;
            name.style.setProperty("--at-series", this.colour(series));
            name.classList.toggle("bold", !!series.bold);
            name.classList.toggle("dashed", !!series.dash);
            return name;
        });
        const step = document.createElement("b");
        step.textContent = at == null ? "" : `step ${this.drawn.steps[at]}`;
        this.names.replaceChildren(...(at == null ? [] : [step]), ...spans);
    }

    mark(plot, colour, font) {
        const { mark } = this.drawn;
        if (!mark) return;
        const { ctx, bbox } = plot;
        const ratio = uPlot.pxRatio;
        const x = plot.valToPos(mark.step, "x", true);
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = colour;
        ctx.lineWidth = ratio;
        ctx.setLineDash([2 * ratio, 3 * ratio]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.font = font.replace(/^\d+px/, `${10 * ratio}px`);
        const left = x + ctx.measureText(mark.label).width + 8 * ratio > bbox.left + bbox.width;
        ctx.textAlign = left ? "right" : "left";
        ctx.fillText(mark.label, x + (left ? -4 : 4) * ratio, bbox.top + 10 * ratio);
        ctx.restore();
    }
}

function nearest(values, at) {
    for (let off = 0; off < values.length; off++) {
        const found = values[at - off] ?? values[at + off];
        if (found != null) return found;
    }
    return null;
}

const short = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3));
