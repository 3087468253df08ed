"""Workflows for those who have photos of a subject: masks, training, images, mixing, scores."""

from .description import Workflow
from .parts import (
    EXAMPLE,
    NEWEST,
    OWN_PHOTOS,
    QUICK,
    SCENE,
    SUBJECT,
    TOKEN,
    WORD,
    checkpoint,
    held_out,
    masking_models,
    photos,
    picture,
    prompts,
    reported,
    sample,
    scored,
    train_and_use,
    training,
    use,
)


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
    asked = flow.add(
        "AttractorPDSTPrompts", "A prompt for every caption", dataset=dataset[0], trigger="sks {super_category}", **QUICK
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
    results = scored(flow, "Token and plain word", model, dataset, encoders, token[0], "any-graph")
    flow.group("4  Score the own graph's images")
    both = flow.add(
        "AttractorPDSTScoreImages",
        "Score them",
        plan=asked[0],
        encoders=encoders[0],
        images=images,
        names=asked[3],
        results=results[0],
        name="any-graph",
        label="my-graph",
    )
    flow.group("5  Report")
    reported(flow, both, {"Scores": 0, "Contact sheet (Fig. 6)": 3})
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
