"""Train Attractor Embedding: the schema, the checks before any work, and the wiring of a run."""

import itertools

import torch
from comfy_api.latest import io, ui

from ...trainer.concept import placeholder_problem
from ...trainer.dataset import cache_photos
from ...trainer.loop import build_trainer
from ...trainer.schedules import SCHEDULES
from ...trainer.settings import (
    LEARNING_RATE_PRESETS,
    METHODS,
    TrainingSettings,
    fingerprint,
    resolve_learning_rate,
)
from ...trainer.token_file import load_token
from ..errors import UserError
from ..host import folders
from ..host.checks import clip_problems, model_problems, vae_problems
from ..host.memory import load_for_training, plan_memory, shrink
from ..host.private_models import private_models
from ..host.progress import Progress
from ..host.sampling import Sampling, training_maker
from ..host.text_encoder import HostTextEncoder
from ..link_types import EvaluationEncodersType, PdstDatasetType, PersonalizedTokenType
from ..pictures import as_list, to_picture, to_tensor
from .held_out import HeldOut, held_out_problems
from .photos import photo_problems, resize_photos
from .run import Run, Schedule

_FREE_DISK = 200 * 1024**2  # bytes; a NeTI+ run of five photos writes about 60 MB and 14 MB a checkpoint
_CHECKPOINTING = ("auto", "on", "off")
_INPUTS_OF_SETTINGS = (
    "super_category",
    "placeholder",
    "method",
    "steps",
    "batch_size",
    "seed",
    "subject_weight",
    "background_weight",
    "joint_weight",
    "contrast_weight",
    "contrast_schedule",
    "tau",
    "normalize_contrast",
    "prompts_per_step",
    "loss_mean",
    "mask_resize",
    "mask_dilation",
    "flip",
    "attractor_kind",
    "subject_init",
    "attractor_init",
    "attractor_noise",
    "nested_dropout",
    "weight_decay",
    "micro_batch",
    "text_chunk",
    "fixed_loss_every",
    "prior_weight",
)


class TrainAttractorEmbedding(io.ComfyNode):
    """Learns a subject token from photos and masks, beside one background attractor per photo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorTrain",
            display_name="Train Attractor Embedding",
            category="attractor",
            description="Teaches the loaded Stable Diffusion 1.5 model a subject from about five photos. Chart and "
            "samples appear here; Cancel keeps what was learnt and queueing again resumes.",
            search_aliases=["textual inversion", "neti", "train embedding", "dreambooth", "personalize"],
            is_output_node=True,
            is_input_list=True,  # photos of differing sizes come as a list, and are one run
            hidden=[io.Hidden.unique_id],
            inputs=_model_inputs() + _main_inputs() + _advanced_inputs(),
            outputs=[
                PersonalizedTokenType.Output("token", tooltip="Wire to Apply Personalized Token."),
                io.Image.Output("loss_chart", tooltip="The chart as a picture."),
                io.LossMap.Output("loss_map", tooltip="The fixed-batch loss, for Plot Loss Graph."),
                io.String.Output("path", tooltip="The token's file, under output/neti."),
                PersonalizedTokenType.Output(
                    "best_token",
                    tooltip="The token of the step with the best held-out scores; the last one if no data set is wired.",
                ),
                io.Image.Output(
                    "overfitting_curve",
                    tooltip="Held-out scores and the flattering ones of the training "
                    "photos over the steps (the paper's Fig. 1).",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, clip, vae, images, masks=None, dataset=None, encoders=None, **inputs) -> io.NodeOutput:
        (model,), (clip,), (vae,) = model, clip, vae
        dataset, encoders = (values and values[0] for values in (dataset, encoders))
        inputs = {
            "gradient_checkpointing": "auto",
            "sample_steps": 20,
            "sample_cfg": 7.0,
            "score_every": 100,
            "score_images": 10,
            **{name: values[0] for name, values in inputs.items()},
        }
        # The host runs nodes in inference mode, whose tensors autograd cannot use.
        with torch.inference_mode(False), torch.enable_grad():
            settings = TrainingSettings(
                **{name: inputs[name] for name in _INPUTS_OF_SETTINGS if name in inputs},
                learning_rate=resolve_learning_rate(
                    inputs["learning_rate_preset"], inputs["method"], inputs["batch_size"], inputs["learning_rate"]
                ),
                gradient_checkpointing=inputs["gradient_checkpointing"] == "on",
            )
            images, masks = as_list(images), as_list(masks)
            _check(settings, model, clip, vae, images, masks, dataset, encoders, inputs)
            run = _train(settings, model, clip, vae, images, masks, dataset, encoders, inputs, cls.hidden.unique_id)
            best = load_token(run.best_path) if run.score_log.scores and run.best_path.exists() else run.token()
            best.subject.requires_grad_(False)
        chart, curve = to_tensor(run.chart()), to_tensor(run.overfitting_curve())
        fixed = [value for value in run.trainer.curves["fixed"] if value == value]
        return io.NodeOutput(
            run.token(),
            chart,
            {"loss": fixed},
            str(run.token_path),
            best,
            curve,
            ui=ui.PreviewImage([chart[0], curve[0]] if run.score_log.scores else chart, cls=cls),
        )


def _check(settings, model, clip, vae, images, masks, dataset, encoders, inputs) -> None:
    """Everything that can be wrong, before anything is loaded.

    Raises:
        UserError: every problem at once, each with its input and remedy.
    """
    problems = settings.problems() + model_problems(model, training=True) + vae_problems(vae)
    problems += folders.name_problems(inputs["name"].strip())
    problems += photo_problems(images, masks, settings.uses_attractor)
    problems += held_out_problems(dataset, encoders, images)
    text_problems = clip_problems(clip)
    problems += text_problems
    if not text_problems:
        text = HostTextEncoder(clip)
        problems += [p for p in (placeholder_problem(settings.placeholder, text.is_word),) if p]
        problems += _word_problems("super_category", settings.super_category, text)
        if settings.subject_init:
            problems += _word_problems("subject_init", settings.subject_init, text, one_token=False)
        if settings.uses_attractor:
            problems += _word_problems("attractor_init", settings.attractor_init, text, one_token=False)
    prompt = inputs["sample_prompt"]
    if inputs["sample_every"] and "{}" not in prompt and settings.placeholder not in prompt:
        problems.append(
            f"sample_prompt does not mention the subject: write {{}} or {settings.placeholder} where it goes, "
            "or set sample_every to 0."
        )
    if problems:
        raise UserError.of(problems)
    free = folders.free_bytes(folders.output_path(inputs["name"].strip()))
    if free < _FREE_DISK:
        raise UserError(
            f"The output folder's disk has {free // 1024**2} MB left, and a run writes up to "
            f"{_FREE_DISK // 1024**2} MB. Free some space first."
        )


def _word_problems(field: str, words: str, text: HostTextEncoder, one_token: bool = True) -> list[str]:
    count = len(text.tokenize(words))
    if count == 0:
        return [f"{field} is empty: give a word for what it is, such as dog."]
    if one_token and count > 1:
        return [
            f"{field} {words!r} takes {count} tokens of the vocabulary and must be one: use a simpler word for the "
            "kind of thing, such as dog, toy or cup."
        ]
    return []


def _train(settings, model, clip, vae, images, masks, dataset, encoders, inputs, node_id) -> Run:
    """Cache latents, make trainable copies, resume if there is something to resume, and run."""
    images, masks = resize_photos(images, masks, inputs["resolution"])
    height, width = images.shape[1:3]

    def encode(pixels):
        return model.model.process_latent_in(vae.encode(pixels).clone())

    with torch.no_grad():
        photos = cache_photos(images, masks if settings.uses_attractor else None, encode, settings)
        held_out = HeldOut.of(dataset, encoders, (height, width), encode) if dataset else None
    with private_models(model, clip) as (unet, text):
        trainer = build_trainer(settings, photos, text, unet, held_out and held_out.photos)
        rows = settings.batch_size * len(settings.loss_weights)
        planned, checkpointing = plan_memory(unet, rows, photos.latents.shape[-2:])
        trainer.micro_batch = settings.micro_batch or planned
        if inputs["gradient_checkpointing"] == "on" or (inputs["gradient_checkpointing"] == "auto" and checkpointing):
            unet.enable_gradient_checkpointing()
        identity = {
            "base_model": fingerprint(*unet.sample_weights(), *text.sample_weights()),
            "photos": fingerprint(photos.latents, photos.masks),
        }
        sampling = Sampling(steps=inputs["sample_steps"], cfg=inputs["sample_cfg"], width=width, height=height)
        scored_with = held_out and held_out.scored_with(
            sampling=sampling.to_dict(), images=inputs["score_images"], seed=settings.seed
        )
        run = Run(trainer, folders.output_path(inputs["name"].strip()), identity, {"images": len(images)}, shrink, scored_with)
        if inputs["resume"]:
            run.resume()
        prompt = inputs["sample_prompt"].replace("{}", settings.placeholder)

        def maker_of(token):
            return training_maker(unet, text.patcher, clip, vae, token, sampling)

        def sample(token):
            pictures = maker_of(token)([prompt], [settings.seed])
            load_for_training(unet, text)
            return to_picture(pictures)

        def score(token):
            maker = maker_of(token)
            made = itertools.count(1)

            def make_images(prompts, seeds):
                progress.text(f"step {trainer.step_count}: scoring image {next(made)}")
                return maker(prompts, seeds)

            scores = held_out.scores(make_images, settings.placeholder, inputs["score_images"], settings.seed)
            load_for_training(unet, text)
            return scores

        progress = Progress(settings.steps, node_id)
        schedule = Schedule(inputs["checkpoint_every"], inputs["sample_every"], inputs["score_every"])
        run.train(progress, schedule, sample, score if scored_with else None)
        trainer.concepts.to("cpu").requires_grad_(False)
    return run


def _model_inputs() -> list:
    return [
        io.Model.Input(
            "model",
            tooltip="A Stable Diffusion 1.5 model (eps kind). It is not changed; LoRAs wired before "
            "are part of what the token is trained on.",
        ),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Image.Input("images", tooltip="About five photos of the subject: a batch, or a list of differing sizes."),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="One mask per photo, in order, 1 on the subject. Needed by the methods with attractor (+).",
        ),
        PdstDatasetType.Input(
            "dataset",
            optional=True,
            tooltip="From Load PDST Dataset, of this one subject: its test photos, which training never "
            "sees, tell which step is best and when overfitting begins.",
        ),
        EvaluationEncodersType.Input(
            "encoders",
            optional=True,
            tooltip="From Load Evaluation Encoders: what scores samples against the test photos. "
            "Without it a data set gives the loss on its photos only.",
        ),
    ]


def _main_inputs() -> list:
    default = TrainingSettings()
    return [
        io.String.Input(
            "name",
            default="my-subject",
            tooltip="Names the run's folder and token file under output/neti. The same name resumes.",
        ),
        io.String.Input(
            "super_category",
            default="dog",
            tooltip="What the subject is, as one word of the vocabulary. It starts the learning and stands "
            "for the subject in the background prompts: a wrong word costs much quality.",
        ),
        io.String.Input("placeholder", default="<my-subject>", tooltip="The word that will mean the subject in prompts."),
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default=default.method,
            tooltip="neti+ and textual_inversion+ learn the backgrounds apart, in attractors (the paper). "
            "Without + it is plain NeTI or Textual Inversion.",
        ),
        io.Int.Input(
            "steps",
            default=default.steps,
            min=1,
            max=100_000,
            tooltip="Optimiser steps. The held-out scores of an evaluation tell when it was enough.",
        ),
        io.Int.Input(
            "batch_size",
            default=default.batch_size,
            min=1,
            max=64,
            tooltip="Samples a step (paper: 8). It decides the result; memory is decided by micro_batch.",
        ),
        io.Combo.Input(
            "learning_rate_preset",
            options=list(LEARNING_RATE_PRESETS),
            default="auto",
            tooltip="auto: by the method. paper: 1e-5. neti: 1e-3 x batch. textual_inversion: 5e-4 x batch. "
            "custom: the number below.",
        ),
        io.Float.Input(
            "learning_rate",
            default=1e-3,
            min=0.0,
            max=1e30,
            step=1e-6,
            round=False,
            tooltip="Used with the preset 'custom' only.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=64,
            max=1024,
            step=64,
            tooltip="The photos are scaled to about resolution x resolution pixels, keeping their shape.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**63 - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Same seed, same inputs: same result on the same machine.",
        ),
        io.Boolean.Input(
            "resume", default=True, tooltip="Go on where a run of this name stopped. Off: start over and replace it."
        ),
        io.Int.Input(
            "checkpoint_every",
            default=100,
            min=0,
            max=100_000,
            tooltip="Steps between saved checkpoints; 0: only at the end or on Cancel.",
        ),
        io.Int.Input("sample_every", default=100, min=0, max=100_000, tooltip="Steps between sample images; 0: none."),
        io.String.Input(
            "sample_prompt",
            default="a photo of a {} on the beach",
            tooltip="Prompt of the sample images. {} or the placeholder stands for the subject.",
        ),
    ]


def _advanced_inputs() -> list:
    default = TrainingSettings()

    def weight(name: str, tooltip: str):
        return io.Float.Input(
            name, default=getattr(default, name), min=0.0, max=100.0, step=0.01, optional=True, advanced=True, tooltip=tooltip
        )

    def choice(name: str, options, tooltip: str):
        return io.Combo.Input(
            name, options=list(options), default=getattr(default, name), optional=True, advanced=True, tooltip=tooltip
        )

    def number(name: str, low: int, high: int, tooltip: str):
        return io.Int.Input(
            name, default=getattr(default, name), min=low, max=high, optional=True, advanced=True, tooltip=tooltip
        )

    return [
        io.Int.Input(
            "score_every",
            default=100,
            min=0,
            max=100_000,
            optional=True,
            tooltip="Steps between held-out scores, with data set and encoders wired; 0: none.",
        ),
        io.Int.Input(
            "score_images",
            default=10,
            min=1,
            max=1000,
            optional=True,
            advanced=True,
            tooltip="Images sampled for a score, spread over the test photos: always the same prompts and seeds.",
        ),
        weight("subject_weight", "w_s of Eq. 6: subject prompts, masked to the subject. The paper gives no number."),
        weight("background_weight", "w_b of Eq. 6: background prompts, masked to the rest. The paper gives no number."),
        weight("joint_weight", "w_i of Eq. 6: prompts with both tokens, unmasked. The paper gives no number."),
        weight("contrast_weight", "Peak of w_c of Eq. 6, for the InfoNCE loss; 0: off. The paper gives no number."),
        choice("contrast_schedule", SCHEDULES, "How w_c grows (paper, Fig. 7: cosine and sigmoid are best)."),
        io.Float.Input(
            "tau",
            default=default.tau,
            min=0.001,
            max=100.0,
            step=0.001,
            optional=True,
            advanced=True,
            tooltip="Temperature of InfoNCE (Eq. 5). The paper gives no number.",
        ),
        io.Boolean.Input(
            "normalize_contrast",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Compare directions only; raw products of 768 numbers overflow at a small tau.",
        ),
        choice(
            "prompts_per_step",
            ("all", "one"),
            "all: each sample sees the three prompts on the same noise. one: one of them, drawn by weight; three times "
            "cheaper, unbiased, noisier.",
        ),
        choice(
            "loss_mean",
            ("mask", "all"),
            "mask: mean over the masked part, so that the subject's size does not matter. all: Eq. 4 to the letter.",
        ),
        choice("mask_resize", ("area", "nearest"), "How masks are brought to the latent grid; area keeps soft edges."),
        number("mask_dilation", 0, 64, "Pixels by which the masks grow first."),
        io.Boolean.Input(
            "flip",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Also train on mirrored photos. Off for text and other one-sided subjects.",
        ),
        choice("attractor_kind", ("mapper", "embedding"), "With neti+: a NeTI mapper or one embedding per photo."),
        io.String.Input(
            "subject_init",
            default="",
            optional=True,
            advanced=True,
            tooltip="Words whose embedding the subject starts from. Empty: the super-category.",
        ),
        io.String.Input(
            "attractor_init",
            default=default.attractor_init,
            optional=True,
            advanced=True,
            tooltip="Words whose embedding, with a little noise, the attractors start from.",
        ),
        io.Float.Input(
            "attractor_noise",
            default=default.attractor_noise,
            min=0.0,
            max=10.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="That noise, as a share of the word's own spread.",
        ),
        io.Float.Input(
            "nested_dropout",
            default=default.nested_dropout,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            advanced=True,
            tooltip="NeTI's chance to train on a truncated mapper; 0 makes truncation useless.",
        ),
        io.Float.Input(
            "weight_decay",
            default=default.weight_decay,
            min=0.0,
            max=1.0,
            step=0.001,
            optional=True,
            advanced=True,
            tooltip="Of AdamW.",
        ),
        number("micro_batch", 0, 256, "Images in the U-Net at once. 0: as many as memory allows. The result is the same."),
        io.Combo.Input(
            "gradient_checkpointing",
            options=list(_CHECKPOINTING),
            default="auto",
            optional=True,
            advanced=True,
            tooltip="Recompute parts of the U-Net to save memory, at about a third more time.",
        ),
        number("text_chunk", 1, 1024, "Text-encoder sequences at once; fewer need less memory. The result is the same."),
        number("fixed_loss_every", 1, 1000, "Steps between points of the chart's main curve."),
        io.Int.Input(
            "sample_steps",
            default=20,
            min=1,
            max=100,
            optional=True,
            advanced=True,
            tooltip="Sampling steps of a sample image, and of images that are scored.",
        ),
        io.Float.Input(
            "sample_cfg",
            default=7.0,
            min=1.0,
            max=30.0,
            step=0.5,
            optional=True,
            advanced=True,
            tooltip="Guidance of a sample image, and of images that are scored.",
        ),
        weight(
            "prior_weight",
            "Not the paper's; 0: off. With masks, keeps subject prompts outside the mask at what the model "
            "makes of the super-category's plain word: for comparison with attractors.",
        ),
    ]
