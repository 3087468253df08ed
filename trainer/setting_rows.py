"""Every choice of a training run: a row a setting.

A row says all that is known of a setting: default, documentation, limits, choices, the group it is shown in, and whether a
resumed run may change it. Checks, resume, the nodes' widgets and the help page's table are loops over the rows, so a new
setting is a new field here and nothing else. Widgets stand in the order of the fields: add at the end of the class.
"""

from dataclasses import dataclass

from .methods import LEARNING_RATE_PRESETS, METHODS
from .qualities import QUALITIES, in_words
from .rows import setting
from .schedules import SCHEDULES


@dataclass(frozen=True)
class SettingRows:
    """The settings. Defaults follow the paper; where it is silent, they are this project's choice."""

    super_category: str = setting(
        "dog",
        "What the subject is, in a word or two: dog, teddy bear. Learning starts from it (from the mean of several words), and "
        "it stands for the subject in the background prompts: a wrong word costs a lot of quality.",
    )
    placeholder: str = setting("<my-subject>", "The word that will mean the subject in prompts, such as <my-dog>.")
    method: str = setting(
        "neti+",
        "textual_inversion learns one embedding, neti a small network that gives another embedding at every denoising time and "
        "U-Net layer. With + the backgrounds are learnt apart, in attractors (the paper's method). The paper's baselines learn "
        "weights of the U-Net: dreambooth all of them (3.4 GB), dreambooth_lora a LoRA, custom_diffusion keys and values.",
        choices=tuple(METHODS),
    )
    steps: int = setting(
        500,
        "Optimiser steps. Held-out scores tell when it was enough. A finished run can be continued with more steps; that "
        "stretches the rest of the contrast schedule.",
        minimum=1,
        maximum=100_000,
        free=True,
    )
    batch_size: int = setting(
        8,
        "Samples per step (paper: 8). It affects the result; to save memory lower micro_batch instead (Training Options).",
        minimum=1,
        maximum=64,
    )
    learning_rate_preset: str = setting(
        "auto",
        "auto: by the method. paper: 1e-5. neti: 1e-3 x batch. textual_inversion: 5e-4 x batch. custom_diffusion: 2e-5 x "
        "batch. dreambooth: 5e-6. dreambooth_lora: 1e-4. custom: learning_rate in Training Options.",
        choices=LEARNING_RATE_PRESETS,
        free=True,  # what counts is the rate
    )
    learning_rate: float = setting(
        8e-3, "Of AdamW, constant. Used with learning_rate_preset 'custom' only.", "losses", above=0, step=1e-6
    )
    resolution: int = setting(
        512,
        "The photos are scaled to about resolution x resolution pixels, in the shapes that aspect gives them.",
        "losses",
        minimum=64,
        maximum=1024,
        step=64,
        free=True,  # the size in training tells
    )
    seed: int = setting(
        0,
        "The same seed and inputs give the same result on the same machine.",
        minimum=0,
        maximum=2**53 - 1,  # what a web page can hold
    )
    sample_prompt: str = setting(
        "a photo of a {} on the beach",
        "Prompt of the sample images. {} or the placeholder stands for the subject.",
        free=True,
    )
    sample_every: int = setting(100, "Steps between sample images; 0: none.", minimum=0, maximum=100_000, free=True)

    # Eq. 6: w_s L_sub + w_b L_bg + w_i L_joint + w_c(step) L_InfoNCE
    subject_weight: float = setting(
        1.0,
        "w_s of Eq. 6: subject prompts, masked to the subject. The paper gives no number.",
        "losses",
        minimum=0,
        maximum=100,
        step=0.01,
    )
    background_weight: float = setting(
        1.0,
        "w_b of Eq. 6: background prompts, masked to the rest of the photo. The paper gives no number.",
        "losses",
        minimum=0,
        maximum=100,
        step=0.01,
    )
    joint_weight: float = setting(
        1.0,
        "w_i of Eq. 6: prompts with both tokens, not masked. The paper gives no number.",
        "losses",
        minimum=0,
        maximum=100,
        step=0.01,
    )
    contrast_weight: float = setting(
        0.1,
        "Peak of w_c of Eq. 6, the weight of the InfoNCE loss, which keeps the subject's token apart from the attractors; 0: "
        "off. The paper gives no number.",
        "losses",
        minimum=0,
        maximum=100,
        step=0.01,
    )
    contrast_schedule: str = setting(
        "cosine", "How w_c grows over the run (paper, Fig. 7: cosine and sigmoid are best).", "losses", choices=SCHEDULES
    )
    tau: float = setting(
        0.07,
        "Temperature of the InfoNCE loss (Eq. 5): the lower, the more it looks at the attractors most like the subject. "
        "The paper gives no number.",
        "losses",
        above=0,
        maximum=100,
        step=0.001,
    )
    normalize_contrast: bool = setting(
        True, "Compare directions only; raw products of 768 numbers overflow at a small tau.", "losses"
    )
    prompts_per_step: str = setting(
        "one",
        "all: each sample sees all three prompts on the same noise, as in the paper. one: a single prompt, drawn by weight; "
        "three times cheaper, unbiased, and in our toy world no worse.",
        "losses",
        choices=("all", "one"),
    )
    loss_mean: str = setting(
        "mask",
        "mask: mean over the masked area, so that the subject's size does not matter. all: mean over everything, Eq. 4 to the "
        "letter.",
        "losses",
        choices=("mask", "all"),
    )
    mask_resize: str = setting(
        "area",
        "How masks are scaled to the latents' size; area keeps soft edges.",
        "losses",
        choices=("area", "nearest"),
    )
    mask_dilation: int = setting(
        0, "Pixels of the training image by which masks are grown first.", "losses", minimum=0, maximum=64
    )
    flip: bool = setting(
        True, "Also train on mirrored photos. Turn it off for text and for subjects whose sides differ.", "losses"
    )
    prior_weight: float = setting(
        0.0,
        "Not from the paper; 0: off. With masks, keeps subject prompts outside the mask at what the model makes of the plain "
        "super-category: for comparison with attractors.",
        "losses",
        minimum=0,
        maximum=100,
        step=0.01,
        before=0.0,
    )
    weight_decay: float = setting(1e-2, "Of AdamW.", "losses", minimum=0, maximum=1, step=0.001)

    attractor_kind: str = setting(
        "mapper",
        "With neti+: a NeTI mapper per photo, or a plain embedding per photo, which saves 2 MB of token and 6 MB of state for "
        "each: for many photos.",
        "attractor",
        choices=("mapper", "embedding"),
    )
    subject_init: str = setting("", "Words whose embedding the subject starts from. Empty: the super-category.", "attractor")
    attractor_init: str = setting(
        "background", "Words whose embedding, with a little noise, the attractors start from.", "attractor"
    )
    attractor_noise: float = setting(
        0.1,
        "Standard deviation of that noise, relative to the word's own.",
        "attractor",
        minimum=0,
        maximum=10,
        step=0.01,
    )
    nested_dropout: float = setting(
        0.5,
        "NeTI's chance to train on a truncated mapper. At 0, truncation in Apply Personalized Token has no effect.",
        "attractor",
        minimum=0,
        maximum=1,
        step=0.05,
    )

    micro_batch: int = setting(
        0, "Images in the U-Net at once; 0: as many as fit into memory.", "memory", minimum=0, maximum=256, free=True
    )
    gradient_checkpointing: str = setting(
        "auto",
        "Recompute parts of the U-Net in the backward pass: less memory, about a third more time.",
        "memory",
        choices=("auto", "on", "off"),
        free=True,
    )
    text_chunk: int = setting(
        0,
        "Text-encoder sequences at once; 0: as many as suit the device. Fewer need less memory.",
        "memory",
        minimum=0,
        maximum=1024,
        free=True,
    )

    score_every: int = setting(
        100,
        "Steps between held-out scores, with dataset and encoders wired; 0: none.",
        "scoring",
        minimum=0,
        maximum=100_000,
        free=True,
    )
    score_images: int = setting(
        10,
        "Images sampled for a score, spread over the test photos: always the same prompts and seeds.",
        "scoring",
        minimum=1,
        maximum=1000,
        free=True,
    )
    checkpoint_every: int = setting(
        100,
        "Steps between saved checkpoints; 0: only at the end or on Cancel.",
        "scoring",
        minimum=0,
        maximum=100_000,
        free=True,
    )
    fixed_loss_every: int = setting(
        10, "Steps between points of the chart's main curve.", "scoring", minimum=1, maximum=1000, free=True
    )
    sample_steps: int = setting(
        20,
        "Sampling steps of sample images and of images that are scored.",
        "scoring",
        minimum=1,
        maximum=100,
        free=True,
    )
    sample_cfg: float = setting(
        7.0,
        "CFG scale of sample images and of images that are scored.",
        "scoring",
        minimum=1,
        maximum=30,
        step=0.5,
        free=True,
    )

    aspect: str = setting(
        "buckets",
        "buckets: photos keep their shapes, between 1:2 and 2:1, and each step is on photos of one shape. crop: all are cut to "
        "their mean shape.",
        "losses",
        choices=("buckets", "crop"),
        free=True,  # the size in training tells, where it makes a difference
    )

    rare_token: str = setting(
        "sks",
        "With dreambooth: a rare word whose meaning is lost on nobody; the placeholder stands for it and the class. With "
        "custom_diffusion: the word that the token starts from.",
        "weights",
        before="sks",
    )
    prior: str = setting(
        "generated",
        "What keeps the class as it was. generated: pictures of it that the model itself makes first. prediction: what the "
        "model predicted before the training, on the same photos; no pictures are needed. none: nothing.",
        "weights",
        choices=("generated", "prediction", "none"),
        before="generated",
    )
    class_weight: float = setting(1.0, "Weight of the prior loss.", "weights", minimum=0, maximum=100, step=0.1, before=1.0)
    class_images: int = setting(
        200,
        "Pictures of the class. They are kept in the run's folder, in class/; your own pictures there count too.",
        "weights",
        minimum=1,
        maximum=10_000,
        before=200,
    )
    class_prompt: str = setting(
        "a photo of a {}", "What the class is called in them; {} is the super-category.", "weights", before="a photo of a {}"
    )
    rank: int = setting(8, "Of the LoRA's matrices.", "weights", minimum=1, maximum=320, before=8)
    optimizer: str = setting(
        "adamw",
        "adafactor keeps next to no state, which saves 6.9 GB with dreambooth; its learning_rate is relative to the weights' "
        "size: choose custom, 1e-3 or so.",
        "weights",
        choices=("adamw", "adafactor"),
        before="adamw",
    )
    vectors: int = setting(
        1,
        "Embeddings that the token consists of, with textual_inversion: more hold more of the subject, and take more of a "
        "prompt's 75 places. All start from the same word.",
        "attractor",
        minimum=1,
        maximum=16,
        before=1,
    )
    templates: str = setting(
        "", "Own prompts for the subject, one a line, with {} for it. Empty: the paper's.", "losses", multiline=True, before=""
    )
    captions: str = setting(
        "",
        "A prompt for each photo instead, one a line in their order, with {} for the subject: wire captions of Load Subject "
        "Images. An empty line: that photo gets the templates.",
        "losses",
        multiline=True,
        before="",
    )
    more_sample_prompts: str = setting(
        "", "Further sample prompts, one a line: each gives an image of its own.", "scoring", multiline=True, free=True
    )
    quality: str = setting(
        "balanced",
        f"How thoroughly to train. {in_words()} What you have changed yourself counts.",
        choices=tuple(QUALITIES),
        free=True,  # what counts is what it sets
        before="balanced",
    )
    compile: bool = setting(
        False,
        "Compile norms and feed-forwards of the U-Net by torch.compile: a minute or more at the start, for a few per cent of "
        "each step. Where torch cannot, training goes on without and says so. Not for methods that learn weights.",
        "memory",
        free=True,
    )
    patience: int = setting(
        3,
        "Stop early when so many held-out scores in a row were no better than the best before them (needs dataset and "
        "encoders); 0: never.",
        "scoring",
        minimum=0,
        maximum=1000,
        free=True,
    )
