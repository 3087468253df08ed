"""Pieces that several example workflows have: models, photos, a training, an image, scores."""

SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
EXAMPLE, SUBJECT, TOKEN, WORD = "attractor example", "my-monster", "<my-monster>", "monster"
NEWEST = "newest training"
SCENE = "a photo of a {} in the green forest"
QUICK = {"images_per_caption": 2, "max_captions": 2}
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


def scored(flow, title, model, dataset, encoders, tokens, name, **inputs):
    """An evaluation short enough for a first look."""
    return flow.add(
        "AttractorPDSTEvaluate",
        title,
        model=model[0],
        clip=model[1],
        vae=model[2],
        dataset=dataset[0],
        encoders=encoders[0],
        tokens=tokens,
        name=name,
        **QUICK,
        **inputs,
    )


def compared(flow, model, tokens, labels, name, previews):
    """A row that evaluates tokens on the held-out photos and reports."""
    flow.row()
    flow.group(f"{flow.rows}  Score on photos held out")
    many = flow.add("CreateList", "All tokens", inputs=tokens) if isinstance(tokens, list) else None
    dataset, encoders = held_out(flow)
    flow.column()
    found = scored(
        flow, "Images of every caption, scored", model, dataset, encoders, many[0] if many else tokens, name, labels=labels
    )
    flow.group(f"{flow.rows + 1}  Report")
    reported(flow, found, previews)


def reported(flow, results, previews):
    """The report on a node's results. previews: title -> which of its pictures."""
    report = flow.add("AttractorPDSTReport", "Report", results=results[0])
    flow.column()
    for title, slot in previews.items():
        flow.add("PreviewImage", title, images=report[slot])
