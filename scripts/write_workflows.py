#!/usr/bin/env python3
"""Write the example workflows, in both formats, and the blueprints, from the descriptions here.

    COMFYUI_PATH=<ComfyUI> python scripts/write_workflows.py

Asks a ComfyUI server for its nodes, so that every widget has its place. `example_workflows/` has what the page loads,
`workflows/api/` the same graphs for the API, `subgraphs/` the blueprints. The tests check that they are as this writes them.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from workflow_layout import Workflow

ROOT = Path(__file__).resolve().parent.parent
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
EXAMPLE, SUBJECT, TOKEN, WORD = "attractor example", "my-monster", "<my-monster>", "monster"
NEWEST = "newest training"
METHODS = {"TI": "textual_inversion", "NeTI": "neti", "TI+": "textual_inversion+", "NeTI+": "neti+"}
SCHEDULES = ("cosine", "sigmoid", "linear", "exponential", "zero", "one")
SCENE = "a photo of a {} in the green forest"
OWN_PHOTOS = """
**Your own photos**: make a folder in ComfyUI's `input` folder, put about five photos there, press R, and choose it in
*Load Subject Images*. Their masks come from their alpha channel (cut-outs); `2_mask_and_train_textual_inversion` makes masks
from a phrase. Then set *super_category* (a word or two for what it is), *placeholder* and *name* in the training node.
"""


def checkpoint(flow):
    return flow.add("CheckpointLoaderSimple", "Stable Diffusion 1.5", ckpt_name=SD15)


def photos(flow, **inputs):
    return flow.add("AttractorLoadSubjectImages", "Five photos, and their masks", folder=EXAMPLE, **inputs)


def held_out(flow):
    """The data set and the encoders that scores need."""
    dataset = flow.add("AttractorLoadPDST", "Held-out photos and captions", folder=EXAMPLE, subjects=SUBJECT)
    return dataset, flow.add("AttractorLoadEvaluationEncoders", "CLIP and DINO, for scores")


def masking_models(flow):
    finder = flow.add("AttractorLoadFlorence2", "Florence-2", model="florence-community/Florence-2-base-ft")
    return finder, flow.add("AttractorLoadSAM2", "SAM2", model="facebook/sam2.1-hiera-small")


def training(flow, model, images, masks, name, title="Train", **inputs):
    return flow.add(
        "AttractorTrain",
        title,
        model=model[0],
        clip=model[1],
        vae=model[2],
        images=images,
        masks=masks,
        name=name,
        super_category=WORD,
        placeholder=TOKEN,
        sample_prompt=SCENE,
        **inputs,
    )


def use(flow, model, token, prefix, pixels=512):
    """Apply a token and make an image with it."""
    flow.row()
    flow.group("Use it")
    applied = flow.add("AttractorApplyToken", "Apply the token", model=model[0], clip=model[1], token=token)
    flow.column()
    positive, negative = prompts(flow, applied[1], SCENE.format(TOKEN))
    size = flow.add("EmptyLatentImage", "Image size", width=pixels, height=pixels)
    picture(flow, applied[0], positive, negative, size[0], model[2], prefix)


def prompts(flow, clip, text):
    """Positive and negative conditioning."""
    positive = flow.add("CLIPTextEncode", "Prompt", text=text, clip=clip)
    negative = flow.add("CLIPTextEncode", "Negative prompt", text="", clip=clip)
    return positive[0], negative[0]


def sample(flow, model, positive, negative, latent, vae, seed=1):
    """Images, from the next column on. seed: a number or an output."""
    flow.column()
    sampled = flow.add(
        "KSampler",
        "Sample",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=seed,
        steps=30,
        cfg=7.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
    )
    flow.column()
    decoded = flow.add("VAEDecode", "Decode", samples=sampled[0], vae=vae)
    flow.column()
    return decoded[0]


def picture(flow, model, positive, negative, latent, vae, prefix):
    images = sample(flow, model, positive, negative, latent, vae)
    flow.add("SaveImage", "The subject in a new scene", images=images, filename_prefix=prefix)


def train_and_use(flow, title, model, photos, name):
    """photos: a node whose first outputs are images and masks."""
    flow.group(title)
    trained = training(flow, model, photos[0], photos[1], name)
    use(flow, model, trained[0], name)


def train():
    flow = Workflow(
        "1_train_textual_inversion",
        "Train a textual inversion (NeTI+) on five photos",
        f"""
Press **Run**. The five photos come with the pack, and the checkpoint is offered for download if it is missing.

1. The training node learns the word `{TOKEN}` from the photos, and gives every photo's background a token of its own, its
   *attractor*, so that the beach stays out of it.
2. Its panel shows curves and a sample every 100 steps. Watch the thick line.
3. At the end, the word is used in a prompt. It works in every prompt after *Apply Personalized Token*.

**Cancel** keeps what was learnt; **Run** again goes on from there. The token is in `output/neti/{SUBJECT}`.
{OWN_PHOTOS}
""",
    )
    flow.group("1  Model and photos")
    model, images = checkpoint(flow), photos(flow)
    train_and_use(flow, "2  Train", model, images, SUBJECT)
    return flow


def mask_and_train():
    flow = Workflow(
        "2_mask_and_train_textual_inversion",
        "Mask the subject by a phrase, and train a textual inversion",
        f"""
Photos without masks: Florence-2 finds what the **phrase** says, SAM2 cuts it out.

1. The first time, turn on *download_if_missing* on both loaders: nothing is downloaded without being asked. The smallest
   models are good enough for most photos.
2. Press **Run**, and look at the overlays on *Subject Mask*: is it the subject, the whole subject, and nothing else? If not,
   change the phrase, *choose* or *grow*, and run again.
3. Squares around the subject go to the training. What is learnt is the word `{TOKEN}`.

Any other node that gives a MASK will do as well: ComfyUI's own *SAM3 Detect*, or the mask editor.

**Your own photos**: make a folder in ComfyUI's `input` folder, put about five photos there, press R, and choose it in
*Load Subject Images*. Then set *phrase*, and in the training node *super_category*, *placeholder* and *name*.
""",
    )
    flow.group("1  Photos, and models for masking")
    images = photos(flow, alpha="ignored")
    finder, cutter = masking_models(flow)
    flow.group("2  Mask: look at the overlays")
    masked = flow.add(
        "AttractorSubjectMask",
        "Find and mask the subject",
        images=images[0],
        florence2=finder[0],
        sam2=cutter[0],
        phrase=f"the {WORD}",
        names=images[2],
    )
    flow.column()
    squares = flow.add("AttractorCropToSubject", "Squares around it", images=images[0], masks=masked[0])
    model = checkpoint(flow)
    train_and_use(flow, "3  Train", model, squares, f"{SUBJECT}-masked")
    return flow


def train_and_score():
    flow = Workflow(
        "3_train_and_score_textual_inversion",
        "Train a textual inversion, scored on photos held out",
        """
How good is it, and when was it best? Photos that training never sees will tell.

1. The first time, turn on *download_if_missing* on *CLIP and DINO*: nothing is downloaded without being asked.
2. Press **Run**. Every 100 steps the training node makes images of the held-out photos' captions, and compares them with
   caption (CLIP-T) and photo (CLIP-I, DINO).
3. The **overfitting curve** is the paper's Fig. 1: where the scores on held-out photos fall while those on the training
   photos do not, the token has begun to learn the photos instead of the subject.
4. The token of the **best step** is what is used at the end.

**Your own subject**: *Split Subject Photos* makes such a data set out of six or more photos, *Make PDST Captions* drafts the
captions. Use its training photos in *Load Subject Images*.
""",
    )
    flow.group("1  Model, photos, photos held out")
    model, images = checkpoint(flow), photos(flow)
    flow.column()
    dataset, encoders = held_out(flow)
    flow.group("2  Train, and score")
    options = flow.add("AttractorTrainingOptions", "Training options", dataset=dataset[0], encoders=encoders[0])
    flow.column()
    trained = training(flow, model, images[0], images[1], f"{SUBJECT}-scored", options=options[0])
    flow.column()
    flow.add("PreviewImage", "Overfitting curve (Fig. 1)", images=trained[5])
    use(flow, model, trained[4], f"{SUBJECT}-scored")
    return flow


def apply():
    flow = Workflow(
        "4_apply_textual_inversion",
        "Use a trained token in prompts, with LoRA and ControlNet if you like",
        f"""
1. *Load NeTI Mapper* takes the **newest training**, or the file that you choose: a token trained here, an official NeTI
   checkpoint, or any Textual Inversion embedding. Here it is called `{TOKEN}` in prompts, whatever the file says.
2. Write prompts with `{TOKEN}`, and press **Run**. *strength* makes it more or less like the photos.

**LoRA** and **ControlNet** are switched off (purple): choose your files, select the nodes, and press Ctrl+B.
- The LoRA stands before *Apply Personalized Token*; after it works as well.
- The ControlNet follows the edges of the photos: five images, each in the pose of one. Its model is offered for download once
  it is switched on.

No token yet? Run `1_train_textual_inversion` first.
""",
    )
    flow.group("1  Model and token")
    model = checkpoint(flow)
    token = flow.add("AttractorLoadNeTIMapper", "The token", file=NEWEST, placeholder=TOKEN)
    flow.group("With a LoRA: choose it, Ctrl+B")
    lora = flow.add("LoraLoader", "LoRA (off)", bypassed=True, model=model[0], clip=model[1], lora_name="your-lora.safetensors")
    flow.group("2  Apply, and write prompts")
    applied = flow.add("AttractorApplyToken", "Apply the token", model=lora[0], clip=lora[1], token=token[0])
    flow.column()
    positive, negative = prompts(flow, applied[1], SCENE.format(TOKEN))
    size = flow.add("EmptyLatentImage", "Image size")
    flow.row()
    flow.group("With a ControlNet: Ctrl+B")
    poses = flow.add("AttractorLoadSubjectImages", "Photos (off)", bypassed=True, folder=EXAMPLE)
    flow.column()
    control = flow.add(
        "ControlNetLoader", "ControlNet (off)", bypassed=True, control_net_name="control_v11p_sd15_canny_fp16.safetensors"
    )
    edges = flow.add("Canny", "Their edges (off)", bypassed=True, image=poses[0])
    flow.column()
    controlled = flow.add(
        "ControlNetApplyAdvanced",
        "Apply ControlNet (off)",
        bypassed=True,
        positive=positive,
        negative=negative,
        control_net=control[0],
        image=edges[0],
        strength=0.8,
    )
    flow.group("3  Image")
    picture(flow, applied[0], controlled[0], controlled[1], size[0], model[2], "with-my-token")
    return flow


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


def compared(flow, model, tokens, labels, name, previews):
    """A row that evaluates tokens on the held-out photos and reports."""
    flow.row()
    flow.group(f"{flow.rows}  Score on photos held out")
    many = flow.add("CreateList", "All tokens", inputs=tokens) if isinstance(tokens, list) else None
    dataset, encoders = held_out(flow)
    flow.column()
    scored = flow.add(
        "AttractorPDSTEvaluate",
        "Images of every caption, scored",
        model=model[0],
        clip=model[1],
        vae=model[2],
        dataset=dataset[0],
        encoders=encoders[0],
        tokens=many[0] if many else tokens,
        name=name,
        images_per_caption=2,
        max_captions=2,
        labels=labels,
    )
    flow.group(f"{flow.rows + 1}  Report")
    report = flow.add("AttractorPDSTReport", "Report", results=scored[0])
    flow.column()
    for title, slot in previews.items():
        flow.add("PreviewImage", title, images=report[slot])


COMPARING = """
1. The first time, turn on *download_if_missing* on *CLIP and DINO*: nothing is downloaded without being asked.
2. Press **Run**. What is finished is kept: after a Cancel, or tomorrow, Run goes on from there.
3. The report opens by the link on its node.

For a first look two captions of each photo are used, and two images of each. The paper uses all ten and five:
*max_captions* 0, *images_per_caption* 5.
"""


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
    flow.group("1  Model and photos")
    model = checkpoint(flow)
    flow.column()
    images = photos(flow)
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
    flow.group("1  Model and photos")
    model = checkpoint(flow)
    flow.column()
    images = photos(flow)
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


def mask_by_sam3():
    flow = Workflow(
        "9_masks_by_sam3_textual_inversion",
        "Mask by ComfyUI's own SAM3, and train a textual inversion",
        f"""
The masks come from **SAM3 Detect**, a node of ComfyUI itself (0.30 has it): it finds and cuts out what the **phrase** says. Any
node that gives a MASK can stand in its place.

1. SAM3 is a checkpoint of its own; if it is missing, it is offered for download.
2. Press **Run**, and look at *The subject, cut out*: is it the whole subject, and nothing else? If not, change the phrase or
   the threshold, and run again.
3. Squares around the subject go to the training. What is learnt is the word `{TOKEN}`.
""",
    )
    flow.group("1  Photos")
    images = photos(flow)
    model = checkpoint(flow)
    flow.group("2  Mask: look at what is cut out")
    sam = flow.add("CheckpointLoaderSimple", "SAM3", ckpt_name="sam3.1_multiplex_fp16.safetensors")
    phrase = flow.add("CLIPTextEncode", "Phrase", text=WORD, clip=sam[1])
    flow.column()
    found = flow.add("SAM3_Detect", "Find and mask", model=sam[0], image=images[0], conditioning=phrase[0])
    squares = flow.add("AttractorCropToSubject", "Squares around it", images=images[0], masks=found[0])
    flow.column()
    around = flow.add("InvertMask", "What is around it", mask=squares[1])
    cut = flow.add("JoinImageWithAlpha", "Cut out", image=squares[0], alpha=around[0])
    flow.add("PreviewImage", "The subject, cut out", images=cut[0])
    train_and_use(flow, "3  Train", model, squares, f"{SUBJECT}-sam3")
    return flow


def mix():
    flow = Workflow(
        "10_mix_two_textual_inversions",
        "Mix two textual inversions: the shape of one, the looks of another",
        """
A token can be mixed out of two: the **shape** of the first with the **colours and texture** of the second. NeTI calls it style
mixing.

1. Train two subjects, best of the same kind, such as two dogs, and choose one in *Shape* and the other in *Looks*. As long as
   both are the **newest training**, all three images show the same subject.
2. Press **Run**: the first image is the one that gives the shape, the second the mix, the third the one that gives the looks.
3. On *Mix Personalized Tokens*, lower **mixing_starts_at** to 800, 700, 600: more of the shape stays. **geometry_layers** are
   the U-Net's layers that never see the looks. **blend** at 0.5 goes half of the way.

The mix is a token like any other: *Save Personalized Token* keeps it, and another *Mix Personalized Tokens* mixes it further.
Both subjects in one picture, side by side, need no mix: chain two *Apply Personalized Token*.

No tokens yet? Run `1_train_textual_inversion` twice, with other photos and another *name*.
""",
    )
    flow.group("1  Model and two tokens")
    model = checkpoint(flow)
    flow.column()
    shape, looks = (
        flow.add("AttractorLoadNeTIMapper", title, file=NEWEST, placeholder=f"<my-{title.lower()}>")
        for title in ("Shape", "Looks")
    )
    flow.column()
    mixed = flow.add(
        "AttractorMixTokens", "Mix", geometry=shape[0], appearance=looks[0], mixing_starts_at=700, geometry_layers="4-8"
    )
    size = flow.add("EmptyLatentImage", "Image size")
    for title, token in (("Shape", shape), ("The mix", mixed), ("Looks", looks)):
        flow.row()
        flow.group(title)
        applied = flow.add(
            "AttractorApplyToken", f"Apply: {title}", model=model[0], clip=model[1], token=token[0], placeholder="<x>"
        )
        flow.column()
        images = sample(flow, applied[0], *prompts(flow, applied[1], SCENE.format("<x>")), size[0], model[2])
        flow.add("PreviewImage", title, images=images)
    return flow


def any_graph():
    flow = Workflow(
        "11_score_any_graph",
        "Score any model or graph on photos held out, beside a token",
        f"""
The test that a token gets, for everything that is none: a LoRA, another base model, IP-Adapter, image editing, an API node.

1. *PDST Prompts* gives every caption of the held-out photos as a prompt, with its seed. **trigger** is what the subject is
   called in them: `sks {{super_category}}` becomes `sks {WORD}`. The nodes behind it run once for each prompt.
2. **Your own graph** makes the images. Here it is a checkpoint with a LoRA, which is switched off (purple): choose your file,
   press Ctrl+B, and set *trigger* and *label*. Or put anything else there that makes one image of a prompt.
3. *PDST Score Images* scores them. *PDST Evaluate* does the same for the **newest training**, and for the plain word.
4. The report opens by the link on its node. What is scored is kept; a Cancel before loses the images of the own graph: *shards*
   of *PDST Prompts* make fewer at once.

The first time, turn on *download_if_missing* on *CLIP and DINO*. No token yet? Run `1_train_textual_inversion` first.

**No graph needed**: *PDST Evaluate* takes any MODEL, CLIP and VAE and a *trigger*. For SDXL and Flux set the size to 1024.
""",
    )
    flow.group("1  Photos held out, and what to ask for")
    dataset, encoders = held_out(flow)
    flow.column()
    quick = {"images_per_caption": 2, "max_captions": 2}
    asked = flow.add(
        "AttractorPDSTPrompts", "A prompt for every caption", dataset=dataset[0], trigger="sks {super_category}", **quick
    )
    flow.group("2  Your own graph")
    model = checkpoint(flow)
    lora = flow.add("LoraLoader", "LoRA (off)", bypassed=True, model=model[0], clip=model[1], lora_name="your-lora.safetensors")
    size = flow.add("EmptyLatentImage", "Image size")
    flow.column()
    positive, negative = prompts(flow, lora[1], asked[1])
    images = sample(flow, lora[0], positive, negative, size[0], model[2], seed=asked[2])
    flow.add("PreviewImage", "One image for each prompt", images=images)
    flow.row()
    flow.group("3  A token, on the same photos")
    token = flow.add("AttractorLoadNeTIMapper", "The token", file=NEWEST, placeholder=TOKEN)
    flow.column()
    scored = flow.add(
        "AttractorPDSTEvaluate",
        "Token and plain word",
        model=model[0],
        clip=model[1],
        vae=model[2],
        dataset=dataset[0],
        encoders=encoders[0],
        tokens=token[0],
        name="any-graph",
        **quick,
    )
    flow.group("4  Score the own graph's images")
    both = flow.add(
        "AttractorPDSTScoreImages",
        "Score them",
        plan=asked[0],
        encoders=encoders[0],
        images=images,
        names=asked[3],
        results=scored[0],
        name="any-graph",
        label="my-graph",
    )
    flow.group("5  Report")
    report = flow.add("AttractorPDSTReport", "Report", results=both[0])
    flow.column()
    for title, slot in {"Scores": 0, "Contact sheet (Fig. 6)": 3}.items():
        flow.add("PreviewImage", title, images=report[slot])
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
    flow.group("1  Model and photos")
    model = checkpoint(flow)
    flow.column()
    images = photos(flow)
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


def toy_train():
    """The first workflow as it runs on the toy world's model, for `dev.py serve`: minutes on a CPU, and a result to see."""
    flow = Workflow(
        "toy_train_textual_inversion",
        "The first workflow on the toy world's small model",
        """
As `1_train_textual_inversion`, with a small model that has really learnt drawn scenes: **Run** takes minutes on a CPU, and
the monster appears in a forest where it has never been. Photos, nodes and code are the same; only sizes and steps are smaller.
""",
    )
    flow.group("1  Model and photos")
    model, images = flow.add("TestToyWorld", "The toy world's model", size=(340, 90)), photos(flow)
    flow.group("2  Train")
    options = flow.add(
        "AttractorTrainingOptions", "Small sizes", collapsed=True, resolution=128, text_chunk=1024, sample_cfg=5.0
    )
    small = {"steps": 160, "batch_size": 4, "sample_every": 40, "options": options[0]}
    trained = training(flow, model, images[0], images[1], "toy-monster", **small)
    use(flow, model, trained[0], "toy-monster", pixels=128)
    return flow


def mask_blueprint(info):
    flow = Workflow("Mask a subject", "Finds what a phrase says in every photo, masks it, and cuts squares around it.", "")
    flow.group("")
    finder, cutter = masking_models(flow)
    flow.column()
    masked = flow.add("AttractorSubjectMask", "Find and mask", florence2=finder[0], sam2=cutter[0], phrase="the dog")
    flow.column()
    squares = flow.add("AttractorCropToSubject", "Squares around it", masks=masked[0])
    inputs = {
        "images": [(masked, "images"), (squares, "images")],
        "phrase": [(masked, "phrase")],
        "florence2": [(finder, "model")],
        "sam2": [(cutter, "model")],
        "download_if_missing": [(finder, "download_if_missing"), (cutter, "download_if_missing")],
        "resolution": [(squares, "resolution")],
    }
    outputs = {"images": squares[0], "masks": squares[1], "overlay": masked[1]}
    return flow.blueprint(info, "attractor", inputs, outputs)


def train_blueprint(info):
    flow = Workflow("Train a subject", "Trains a textual inversion (NeTI+) on photos and masks, and applies it.", "")
    flow.group("")
    trained = flow.add("AttractorTrain", "Train")
    flow.column()
    applied = flow.add("AttractorApplyToken", "Apply the token", token=trained[0])
    both = {name: [(trained, name), (applied, name)] for name in ("model", "clip")}
    own = ("vae", "images", "masks", "name", "super_category", "placeholder", "method", "steps")
    inputs = {**both, **{name: [(trained, name)] for name in own}}
    outputs = {"MODEL": applied[0], "CLIP": applied[1], "token": trained[0], "loss_chart": trained[1]}
    return flow.blueprint(info, "attractor", inputs, outputs)


FLOWS = (
    train,
    mask_and_train,
    train_and_score,
    apply,
    compare,
    evaluate,
    schedules,
    attractors,
    mask_by_sam3,
    mix,
    any_graph,
    six_systems,
    overfitting,
)


def files(info):
    """Path below the repository -> text, of everything that is written. info: the host's /object_info."""
    found = {}
    for flow in (make() for make in FLOWS):
        found[f"example_workflows/{flow.name}.json"] = flow.ui(info)
        found[f"workflows/api/{flow.name}.json"] = flow.api(info)
    found["subgraphs/Mask a subject.json"] = mask_blueprint(info)
    found["subgraphs/Train a subject.json"] = train_blueprint(info)
    toy = toy_train()
    found[f"tests/toy_world/{toy.name}.json"] = toy.ui(info)
    return {name: json.dumps(found[name], indent=1, ensure_ascii=False) + "\n" for name in found}


def main():
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    from comfy_client import ComfyClient
    from comfy_server import ComfyServer

    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}
    with tempfile.TemporaryDirectory() as base, ComfyServer(os.environ["COMFYUI_PATH"], base, packs) as server:
        info = ComfyClient(server.url).object_info()
    for name, text in files(info).items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
