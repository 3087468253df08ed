"""Workflows that repeat the paper's comparisons and figures."""

from .description import Workflow
from .parts import NEWEST, SUBJECT, TOKEN, checkpoint, compared, held_out, photos, prompts, sample, training

METHODS = {"TI": "textual_inversion", "NeTI": "neti", "TI+": "textual_inversion+", "NeTI+": "neti+"}
SCHEDULES = ("cosine", "sigmoid", "linear", "exponential", "zero", "one")
COMPARING = """
1. The first time, turn on *download_if_missing* on *CLIP and DINO*: nothing is downloaded without being asked.
2. Press **Run**. What is finished is kept: after a Cancel, or tomorrow, Run goes on from there.
3. The report opens by the link on its node.

For a first look two captions of each photo are used, and two images of each. The paper uses all ten and five:
*max_captions* 0, *images_per_caption* 5.
"""


def model_and_photos(flow):
    flow.group("1  Model and photos")
    model = checkpoint(flow)
    flow.column()
    return model, photos(flow)


def several(flow, model, images, trainings, name):
    """A row of trainings that differ in a thing. trainings: label -> method, Training Options, other inputs."""
    flow.row()
    tokens, differ = [], {}
    flow.group("2  Train: the same photos, steps and seed")
    for label, (method, options, inputs) in trainings.items():
        if tokens:
            flow.column()
        if options:
            title = f"contrast_schedule: {label}" if "contrast_schedule" in options else f"Options: {label}"
            differ = {"options": flow.add("AttractorTrainingOptions", title, collapsed=True, **options)[0]}
        run = f"{name}/{label}".lower().replace(" ", "-")
        inputs = {"method": method, "quality": "paper", **differ, **inputs}
        tokens.append(training(flow, model, images[0], images[1], run, label, **inputs)[0])
    return tokens


def compare():
    flow = Workflow(
        "5_compare_textual_inversion_and_neti",
        "Compare Textual Inversion, NeTI, and both with attractors (Fig. 5)",
        f"""
Four methods learn the same five photos, and photos that none of them has seen say which is best. **+** is with attractors,
the paper's method.
{COMPARING}
The bubble chart is the paper's Fig. 5: right and up is better, on captions and on photos.
""",
    )
    model, images = model_and_photos(flow)
    tokens = several(flow, model, images, {label: (method, {}, {}) for label, method in METHODS.items()}, "methods")
    compared(flow, model, tokens, "\n".join(METHODS), "compare-methods", {"Bubbles (Fig. 5)": 1, "Contact sheet (Fig. 6)": 3})
    return flow


def evaluate():
    flow = Workflow(
        "6_evaluate_textual_inversion",
        "Evaluate a textual inversion on held-out photos, and report",
        f"""
All checkpoints of the **newest training**, or of the run that you choose, on photos that it has not seen.
{COMPARING}
- **Scores over the steps** is the paper's Fig. 1: overfitting shows where held-out scores fall and the others do not.
- **Contact sheet** is its Fig. 6: each held-out photo beside the images of its captions.

No checkpoints yet? Run `1_train_textual_inversion` first.
""",
    )
    flow.group("1  Model, and a run's checkpoints")
    model = checkpoint(flow)
    flow.column()
    tokens = flow.add("AttractorLoadTokenCheckpoints", "Checkpoints of the run", run=NEWEST)
    previews = {"Scores over the steps (Fig. 1)": 2, "Contact sheet (Fig. 6)": 3}
    compared(flow, model, tokens[0], "", "newest-training", previews)
    return flow


def schedules():
    flow = Workflow(
        "7_contrast_schedules_textual_inversion",
        "Schedules of the contrast between subject and attractors (Fig. 7)",
        f"""
The contrastive loss keeps the subject's token and the attractors apart. Its weight grows over the training, and this compares
how: the paper found *cosine* and *sigmoid* best, and a weight that is high from the start worse than none.
{COMPARING}
Six trainings: set *steps* lower for a first look.
""",
    )
    model, images = model_and_photos(flow)
    trainings = {schedule: ("textual_inversion+", {"contrast_schedule": schedule}, {}) for schedule in SCHEDULES}
    tokens = several(flow, model, images, trainings, "schedules")
    compared(flow, model, tokens, "\n".join(SCHEDULES), "contrast-schedules", {"Scores (Fig. 7)": 0, "Contact sheet": 3})
    return flow


def attractors():
    flow = Workflow(
        "8_attractors_of_textual_inversion",
        "What the attractors hold: the backgrounds (Fig. 9)",
        """
Every photo's attractor took up what is in the photo besides the subject. Here each stands in the same prompt, five times:

- **The subject** should be the subject, in any place.
- **An attractor** should be its photo's background in character, no copy of it, and without the subject.

If the subject shows up among the attractors, or the background with the subject, train longer, or raise *contrast_weight*.

It takes the **newest training** that was made with **+**. None yet? Run `1_train_textual_inversion` first.
""",
    )
    flow.group("1  Model, token and prompt")
    model = checkpoint(flow)
    flow.column()
    token = flow.add("AttractorLoadNeTIMapper", "The token", file=NEWEST, placeholder=TOKEN)
    size = flow.add("EmptyLatentImage", "Five images", batch_size=5)
    for number in range(3):
        flow.row()
        flow.group(f"The attractor of photo {number}" if number else "The subject")
        applied = flow.add(
            "AttractorApplyToken",
            f"Attractor {number}" if number else "The token",
            model=model[0],
            clip=model[1],
            token=token[0],
            attractor=number,
        )
        flow.column()
        conditioning = prompts(flow, applied[1], f"a photo of {TOKEN}")
        images = sample(flow, applied[0], *conditioning, size[0], model[2])
        flow.add("PreviewImage", f"Attractor {number}" if number else "Subject", size=(560, 420), images=images)
    return flow


def six_systems():
    flow = Workflow(
        "12_compare_with_dreambooth_and_custom_diffusion",
        "The paper's six systems: with DreamBooth and Custom Diffusion (Fig. 5)",
        f"""
As `5_compare_textual_inversion_and_neti`, beside the two baselines that learn weights of the U-Net. They first make pictures of
the class, 200 each, and keep them; DreamBooth writes 14 GB and needs about 16 GB of GPU memory (9 by *optimizer* adafactor and
a custom learning rate; or choose the method `dreambooth_lora`, and say so when you show results).
{COMPARING}
Steps and batch are the authors': 800 of 1 for DreamBooth, 250 of 2 for Custom Diffusion.
""",
    )
    model, images = model_and_photos(flow)
    trainings = {label: (method, {}, {}) for label, method in METHODS.items()}
    trainings["Custom Diffusion"] = "custom_diffusion", {}, {"steps": 250, "batch_size": 2}
    trainings["DreamBooth"] = "dreambooth", {}, {"steps": 800, "batch_size": 1}
    tokens = several(flow, model, images, trainings, "systems")
    previews = {"Bubbles (Fig. 5)": 1, "Contact sheet (Fig. 6)": 3}
    compared(flow, model, tokens, "\n".join(trainings), "compare-systems", previews)
    return flow


def overfitting():
    flow = Workflow(
        "13_overfitting_of_dreambooth",
        "How DreamBooth overfits: scores over 5,000 steps (Fig. 1)",
        """
The paper's first figure: trained for long, DreamBooth is ever more like its training photos, and scores on those say it
improves. Scores on photos that it has not seen tell.

1. The first time, turn on *download_if_missing* on *CLIP and DINO*: nothing is downloaded without being asked.
2. Press **Run**, and give it a night: 5,000 steps, scored every 500. **Cancel** keeps what there is; **Run** goes on.
3. The **overfitting curve** shows DINO and CLIP-I on the training photos (dashed) and on those held out, and CLIP-T.

Without a prior loss, as far as the paper says. Needs about 16 GB of GPU memory; with the method `dreambooth_lora` much less.
""",
    )
    flow.group("1  Model, photos, photos held out")
    model, images = checkpoint(flow), photos(flow)
    flow.column()
    dataset, encoders = held_out(flow)
    flow.group("2  Train, and score")
    scoring = {
        "dataset": dataset[0],
        "encoders": encoders[0],
        "prior": "none",
        "patience": 0,
        "score_every": 500,
        "checkpoint_every": 500,
    }
    options = flow.add("AttractorTrainingOptions", "Training options", **scoring)
    flow.column()
    long = {"method": "dreambooth", "steps": 5000, "batch_size": 1, "sample_every": 500, "options": options[0]}
    trained = training(flow, model, images[0], images[1], f"{SUBJECT}-overfit", **long)
    flow.column()
    flow.add("PreviewImage", "Overfitting curve (Fig. 1)", images=trained[5])
    return flow
