// All sample images of a run at once, over the page.
import { api } from "../../scripts/api.js";

// The address of a picture in a run's folder. picture: a sample {file, step, time}, or a photo {file}.
export function pictureOf(run, picture) {
    const subfolder = picture.step == null ? run.folder : `${run.folder}/samples`;
    const query = new URLSearchParams({ filename: picture.file, subfolder, type: "output", t: picture.time ?? run.kept ?? 0 });
    return api.apiURL(`/view?${query}`);
}

// What a sample is of. Where there are several sample prompts, they are told apart by their numbers.
export function labelOf(run, { step, prompt }) {
    return run.samples.some((sample) => sample.prompt > 1) ? `step ${step}, prompt ${prompt}` : `step ${step}`;
}

export function openGallery(run) {
    const dialog = document.createElement("dialog");
    dialog.className = "attractor-gallery";
    const head = document.createElement("header");
    const title = document.createElement("h2");
    title.textContent = `Samples of ${run.name}`;
    const close = document.createElement("button");
    close.className = "attractor-button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    head.append(title, close);
    const grid = document.createElement("div");
    const pictures = run.samples.map((sample) => [sample, labelOf(run, sample)]);
    if (run.photo) pictures.unshift([run.photo, run.photo.label]);
    grid.append(...pictures.map(([picture, label]) => tile(pictureOf(run, picture), label)));
    dialog.append(head, grid);
    dialog.addEventListener("close", () => dialog.remove());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => event.stopPropagation()); // keys are the graph's otherwise
    document.body.append(dialog);
    dialog.showModal();
}

function tile(address, label) {
    const link = document.createElement("a");
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener";
    const image = document.createElement("img");
    image.src = address;
    image.alt = label;
    image.loading = "lazy";
    const caption = document.createElement("span");
    caption.textContent = label;
    link.append(image, caption);
    return link;
}
