// The live panel of Train Attractor Embedding. It is a view of what the server says of the run that the node names: a reload, a
// second browser and a finished run show the same.
import { api } from "../../scripts/api.js";
import { addElement, fit } from "./graph_nodes.js";
import { labelOf, openGallery, pictureOf } from "./sample_gallery.js";
import { Chart, contrastCurves, lossCurves, scoreCurves } from "./training_charts.js";

const EVENT = "attractor.run";
const SECONDS_APART = 2; // between two looks at the curves
const RUNS = ["preparing", "training", "scoring", "sampling"]; // states of a run that goes on
const USABLE_NAME = /^[\p{L}\p{N}_][\p{L}\p{N}_ .+-]*(\/[\p{L}\p{N}_][\p{L}\p{N}_ .+-]*)*$/u;
const IDLE = 56, FULL = 222; // pixels: the least height without and with a run
const WIDTH = 420; // of a new node
const panels = new Set();

export function listen() {
    api.addEventListener(EVENT, ({ detail }) => panels.forEach((panel) => panel.hear(detail)));
    api.addEventListener("reconnected", () => panels.forEach((panel) => panel.look()));
    api.addEventListener("executed", () => panels.forEach((panel) => panel.look()));
}

export function addPanel(node) {
    const panel = new Panel(node);
    node.attractorPanel = panel;
    // What the host would show of the same: charts as a picture, in either renderer.
    node.hideOutputImages = true;
    node.onDrawBackground = () => {};
    panels.add(panel);
    node.setSize([Math.max(node.size[0], WIDTH), node.size[1]]);
    const removed = node.onRemoved;
    node.onRemoved = function (...args) {
        panels.delete(panel);
        panel.end();
        return removed?.apply(this, args);
    };
}

class Panel {
    constructor(node) {
        this.node = node;
        this.tab = "loss";
        this.run = { state: "none", text: "" };
        this.build();
        this.widget = addElement(node, this.root, { height: () => this.height(), fixed: false });
        this.watchName();
        this.look();
    }

    // -- what the server says ------------------------------------------------------------------------

    get name() {
        const widget = this.node.widgets?.find(({ name }) => name === "name");
        const wired = this.node.inputs?.find((input) => input.name === "name" && input.link != null);
        return wired ? (this.heard ?? "") : String(widget?.value ?? "").trim();
    }

    watchName() {
        const widget = this.node.widgets?.find(({ name }) => name === "name");
        if (!widget) return;
        const before = widget.callback;
        widget.callback = (...args) => {
            before?.apply(widget, args);
            this.run = { state: "none", text: "" };
            this.look(500);
        };
    }

    hear(record) {
        if (String(record.node) === String(this.node.id)) this.heard = record.name;
        if (record.name !== this.name) return;
        this.latest = record;
        this.run = { ...this.run, ...record };
        this.show();
        this.look(this.looked && RUNS.includes(record.state) ? SECONDS_APART * 1000 - (Date.now() - this.looked) : 0);
    }

    // Ask for the whole state, soon; the calls in between are one.
    look(wait = 100) {
        if (this.asking) this.again = true;
        else this.timer ??= setTimeout(() => this.ask(), Math.max(wait, 50));
    }

    async ask() {
        [this.timer, this.asking, this.again, this.latest] = [null, true, false, null];
        await this.fetch();
        this.asking = false;
        this.looked = Date.now();
        this.show();
        if (this.again) this.look(500);
    }

    async fetch() {
        const name = this.name;
        try {
            if (name && USABLE_NAME.test(name)) {
                const answer = await api.fetchApi(`/attractor/run?name=${encodeURIComponent(name)}`);
                const run = await answer.json();
                if (name === this.name) this.run = answer.ok ? this.known(run) : { state: "none", text: run.error };
            } else {
                this.run = { state: "none", text: "" };
            }
        } catch {
            this.run = { ...this.run, notes: ["the server does not answer"] };
        }
        if (this.latest?.name === this.run.name) this.run = { ...this.run, ...this.latest }; // heard while it was on its way
    }

    // A run that ended without anything to keep is in no folder: what was heard of it last stands.
    known(run) {
        const last = this.run;
        return run.state === "none" && last.name === this.name && last.text ? { ...last, ...run, state: last.state, text: last.text } : run;
    }

    end() {
        clearTimeout(this.timer);
    }

    // -- what is seen --------------------------------------------------------------------------------

    build() {
        this.root = make("div", "attractor-panel");
        this.facts = make("div", "attractor-facts");
        this.bar = make("div", "attractor-bar");
        this.bar.append(make("i"));
        this.sentence = make("div", "attractor-sentence");
        this.sentence.setAttribute("role", "status");
        this.tabs = make("div", "attractor-tabs");
        this.tabs.setAttribute("role", "tablist");
        this.body = make("div", "attractor-body");
        this.charts = {
            loss: new Chart("The first losses come with the first steps."),
            contrast: new Chart("The contrast's loss and weight come with the first steps."),
            scores: new Chart("No step has been scored yet."),
        };
        this.samples = new Samples();
        this.views = {
            loss: ["Losses", this.charts.loss.element],
            contrast: ["Contrast", this.charts.contrast.element],
            scores: ["Scores", this.charts.scores.element, "Of sample images against held-out photos; dashed: against training photos"],
            samples: ["Samples", this.samples.element],
        };
        for (const [key, [label, element, hint = label]] of Object.entries(this.views)) {
            const tab = make("button", "attractor-tab", label);
            tab.title = hint;
            tab.type = "button";
            tab.setAttribute("role", "tab");
            tab.addEventListener("click", () => {
                this.tab = key;
                this.show();
            });
            this.views[key] = { element, tab };
            this.tabs.append(tab);
            element.setAttribute("role", "tabpanel");
            element.setAttribute("aria-label", label);
            this.body.append(element);
        }
        this.copy = button("Copy path", () => this.copyPath());
        this.all = button("All samples", () => openGallery(this.run));
        const actions = make("div", "attractor-actions");
        actions.append(this.all, this.copy);
        this.tabs.append(actions);
        this.root.append(this.facts, this.bar, this.sentence, this.tabs, this.body);
    }

    get there() {
        return this.run.state !== "none";
    }

    height() {
        return this.there ? FULL : IDLE;
    }

    show() {
        const { run } = this;
        const was = this.root.dataset.state;
        this.root.dataset.state = run.state;
        this.root.classList.toggle("full", this.there);
        this.facts.replaceChildren(...this.factsOf(run).map((text, i) => make(i ? "span" : "b", "", text)));
        const part = run.state === "done" ? 1 : run.step / (run.steps || Infinity); // it may stop early
        this.bar.firstChild.style.width = `${100 * part}%`;
        this.sentence.textContent = this.sentenceOf(run);
        this.sentence.title = this.sentence.textContent;
        const drawn = { loss: lossCurves(run), contrast: contrastCurves(run), scores: scoreCurves(run) };
        const have = { ...drawn, loss: true, samples: run.samples?.length };
        if (!have[this.tab]) this.tab = "loss";
        for (const [key, { element, tab }] of Object.entries(this.views)) {
            tab.hidden = !have[key];
            tab.setAttribute("aria-selected", key === this.tab);
            element.hidden = key !== this.tab;
        }
        if (this.charts[this.tab]) this.charts[this.tab].draw(drawn[this.tab], run.steps);
        this.samples.show(run);
        this.all.hidden = !run.samples?.length;
        this.copy.hidden = run.kept == null;
        if (this.there !== (was != null && was !== "none")) fit(this.node);
        this.node.setDirtyCanvas?.(true, false);
    }

    factsOf(run) {
        if (!this.there) return [];
        const facts = [`Step ${run.step} of ${run.steps || "?"}`];
        if (RUNS.includes(run.state) && run.seconds_left != null) facts.push(`${duration(run.seconds_left)} left`);
        if (RUNS.includes(run.state) && run.pace) facts.push(pace(run.pace));
        return facts;
    }

    sentenceOf(run) {
        if (!this.there) {
            return run.text || (this.name ? `No run is named ${this.name} yet. Queue it: curves and samples appear here.` : "");
        }
        const best = run.best ? `, best so far step ${run.best.step}` : "";
        const text = run.state === "training" && run.seconds_left != null ? `Training${best}` : run.text;
        return [text.replace(/\.$/, ""), ...(run.notes ?? [])].join(" · ");
    }

    async copyPath() {
        const { folder, best } = this.run;
        const file = folder.split("/").at(-1);
        await copy(`output/${folder}/${file}${best ? "-best" : ""}.safetensors`);
        this.copy.textContent = "Copied";
        setTimeout(() => (this.copy.textContent = "Copy path"), 1500);
    }
}

// The sample images of a step with a slider over the steps, and a photo of the subject beside them.
class Samples {
    constructor() {
        this.element = make("div", "attractor-samples");
        this.pictures = make("div", "attractor-pictures");
        this.slider = make("input");
        this.slider.type = "range";
        this.slider.min = 0;
        this.slider.setAttribute("aria-label", "Step of the sample image");
        this.slider.addEventListener("input", () => this.choose(Number(this.slider.value)));
        this.element.append(this.pictures, this.slider);
        this.figures = [];
        this.photo = figure();
        this.pictures.append(this.photo.element);
    }

    show(run) {
        const latest = this.at == null || this.at === (this.steps?.length ?? 0) - 1 || run.name !== this.run?.name;
        this.run = run;
        this.steps = [...new Set(run.samples?.map(({ step }) => step))];
        const count = this.steps.length;
        this.slider.max = Math.max(count - 1, 0);
        this.slider.hidden = count < 2;
        if (count) this.choose(latest ? count - 1 : Math.min(this.at, count - 1));
        this.photo.element.hidden = !run.photo;
        if (run.photo) this.photo.set(pictureOf(run, run.photo), run.photo.label);
    }

    choose(at) {
        this.at = at;
        this.slider.value = at;
        const samples = this.run.samples.filter(({ step }) => step === this.steps[at]);
        while (this.figures.length > samples.length) this.figures.pop().element.remove();
        while (this.figures.length < samples.length) {
            this.figures.push(figure());
            this.photo.element.before(this.figures.at(-1).element);
        }
        samples.forEach((sample, i) => this.figures[i].set(pictureOf(this.run, sample), labelOf(this.run, sample)));
    }
}

function figure() {
    const element = make("figure");
    const image = make("img");
    const caption = make("figcaption");
    element.append(image, caption);
    return {
        element,
        set(address, label) {
            if (image.getAttribute("src") !== address) image.src = address;
            image.alt = caption.textContent = label;
        },
    };
}

function make(tag, className = "", text = "") {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
}

function button(label, action) {
    const element = make("button", "attractor-button", label);
    element.type = "button";
    element.addEventListener("click", action);
    return element;
}

// The clipboard is there for pages of https and localhost only.
async function copy(text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const field = document.body.appendChild(make("textarea"));
        field.value = text;
        field.select();
        document.execCommand("copy");
        field.remove();
    }
}

const two = (number) => String(number).padStart(2, "0");

function duration(seconds) {
    const whole = Math.round(seconds);
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

const pace = (steps) => (steps >= 0.5 ? `${steps.toFixed(2)} steps/s` : `${(1 / steps).toFixed(1)} s/step`);
