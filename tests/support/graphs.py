"""Pieces of graphs that the tests and the demo share."""

from photographs import cat_photos

from toy_world import toy_subjects


def add_batch(graph, images):
    """An IMAGE batch of several outputs by the host's own ImageBatch."""
    batch = images[0]
    for image in images[1:]:
        batch = graph.add("ImageBatch", image1=batch, image2=image)[0]
    return batch


def add_pictures(graph, comfy, pictures, prefix):
    """Upload pictures and load them as one IMAGE batch."""
    names = [comfy.upload_image(picture.convert("RGB"), f"{prefix}-{i}.png") for i, picture in enumerate(pictures)]
    return add_batch(graph, [graph.add("LoadImage", image=name)[0] for name in names])


def add_photos(graph, comfy, count=3, size=128):
    """IMAGE batch and MASK batch of the cat."""
    pairs = cat_photos(count, size)
    images = add_pictures(graph, comfy, [photo for photo, _ in pairs], f"cat{size}")
    masks = add_pictures(graph, comfy, [mask for _, mask in pairs], f"cat{size}-mask")
    return images, graph.add("ImageToMask", image=masks, channel="red")[0]


ON_TRAINING_NODE = {
    *("model", "clip", "vae", "images", "masks", "name", "resume", "super_category", "placeholder", "method", "steps"),
    *("batch_size", "learning_rate_preset", "seed", "sample_prompt", "sample_every", "quality"),
}


def add_trainer(graph, **inputs):
    """Train Attractor Embedding, with a Training Options node for whatever belongs there."""
    own = {name: value for name, value in inputs.items() if name in ON_TRAINING_NODE}
    options = {name: value for name, value in inputs.items() if name not in own}
    if options:
        own["options"] = graph.add("AttractorTrainingOptions", **options)[0]
    return graph.add("AttractorTrain", **own)


def wire_options(prompt, **options):
    """Set values of Training Options for the training nodes of a graph in API format, which may have no such node yet."""
    for node_id, node in list(prompt.items()):
        if node["class_type"] == "AttractorTrain":
            wired, _ = node["inputs"].setdefault("options", [f"{node_id}-options", 0])
            prompt.setdefault(wired, {"class_type": "AttractorTrainingOptions", "inputs": {}})["inputs"].update(options)


def add_training(graph, loader, images, masks=None, **changes):
    """Train Attractor Embedding with small, quick settings."""
    inputs = {
        "model": loader[0],
        "clip": loader[1],
        "vae": loader[2],
        "images": images,
        "name": "test",
        "super_category": "cat",
        "placeholder": "<my-cat>",
        "method": "neti+",
        "steps": 3,
        "batch_size": 2,
        "learning_rate_preset": "auto",
        "learning_rate": 1e-3,
        "resolution": 128,
        "seed": 0,
        "resume": False,
        "checkpoint_every": 0,
        "patience": 0,
        "sample_every": 0,
        "sample_prompt": "a photo of a {}",
    }
    if masks is not None:
        inputs["masks"] = masks
    return add_trainer(graph, **{**inputs, **changes})


def add_tiny(graph, text_layers=1, **changes):
    """MODEL, CLIP, VAE of the test-only loader."""
    return graph.add("TestTinySD15", **{"seed": 0, "width": 64, "text_layers": text_layers, **changes})


def add_sampling(graph, model, positive, negative, latent=None, **changes):
    """KSampler, two steps of euler on 128 x 128 pixels."""
    if latent is None:
        latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)[0]
    inputs = {"seed": 1, "steps": 2, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return graph.add(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **{**inputs, **changes}
    )


def add_preview(graph, loader, model, clip, prompt):
    """A picture of a prompt, by stock nodes."""
    sampled = add_sampling(graph, model, encode(graph, clip, prompt), encode(graph, clip, ""))
    return graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[2])[0])


def encode(graph, clip, text):
    """The conditioning of a prompt by the stock node."""
    return graph.add("CLIPTextEncode", text=text, clip=clip)[0]


def add_toy_dataset(graph, subject):
    """A subject of the toy world's PDST, with all captions."""
    return graph.add(
        "AttractorLoadPDST", folder=f"pdst/{toy_subjects.DATASET}", subjects=subject, captions_per_photo=toy_subjects.CAPTIONS
    )


def add_encoders(graph, clip="clip-tiny", dino="dino-tiny"):
    """EVALUATION_ENCODERS of those in models/evaluation."""
    names = {"clip": f"evaluation/{clip}", "dino": f"evaluation/{dino}"}
    return graph.add("AttractorLoadEvaluationEncoders", download_if_missing=False, **names)[0]


EVALUATE_OPTIONS = set("sampler scheduler steps cfg width height batch_size negative shard shards".split())


def add_evaluation(graph, **inputs):
    """PDST Evaluate; sampling and shards go to PDST Evaluate Options, which is added for them."""
    options = {name: inputs.pop(name) for name in EVALUATE_OPTIONS & set(inputs)}
    if options:
        inputs["options"] = graph.add("AttractorPDSTEvaluateOptions", **options)[0]
    return graph.add("AttractorPDSTEvaluate", **inputs)


def add_toy_evaluation(graph, loader, subject, **inputs):
    """PDST Evaluate on it with the toy world's encoders."""
    return add_evaluation(
        graph,
        model=loader[0],
        clip=loader[1],
        vae=loader[2],
        dataset=add_toy_dataset(graph, subject)[0],
        encoders=add_encoders(graph, "toy-clip", "toy-dino"),
        save_images=True,
        **inputs,
    )
