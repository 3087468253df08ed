"""Nodes that load, apply and save personalised tokens."""

import dataclasses
from pathlib import Path

import torch
from comfy_api.latest import io

from ..trainer.concept import Embedding, PersonalizedToken, placeholder_problem
from ..trainer.initial import word_embedding
from ..trainer.token_file import load_token, save_embedding, save_lora, save_token
from .errors import UserError, validated
from .host import folders
from .host.checks import clip_problems, model_problems
from .host.links import Clip, Model
from .host.payload import AppliedToken
from .host.personalized_clip import PersonalizedCLIP
from .host.personalized_model import personalize_model
from .host.placeholders import bracket_warning
from .host.progress import said
from .host.text_encoder import HostTextEncoder
from .host.weights import with_weights
from .link_types import PersonalizedTokenType

CATEGORY = "attractor"


class LoadNeTIMapper(io.ComfyNode):
    """Reads a token file: this pack's, an official NeTI checkpoint, or a Textual Inversion embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorLoadNeTIMapper",
            display_name="Load NeTI Mapper",
            category=CATEGORY,
            description="Loads a personalised token for Stable Diffusion 1.5: one trained here, an official NeTI checkpoint "
            "(mapper-*.pt, with its learned_embeds-*.bin beside it) or a Textual Inversion embedding. A NeTI mapper is a small "
            "network that gives the token another embedding at every denoising time and in every layer of the U-Net.",
            search_aliases=[
                "load personalized token",
                "load embedding",
                "load textual inversion",
                "neti mapper",
                "SD1.5 token",
            ],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.token_files(),
                    default=folders.NEWEST,
                    tooltip="The token of the newest training, or a file in models/neti, output/neti (tokens trained here) or "
                    "models/embeddings. Press R to refresh the list.",
                ),
                io.String.Input(
                    "placeholder",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Another name for the token in prompts, such as <my-dog>. Empty: the name in the file.",
                ),
            ],
            outputs=[
                PersonalizedTokenType.Output("token", tooltip="Wire to Apply Personalized Token."),
                io.String.Output("placeholder_name", display_name="placeholder", tooltip="The word for prompts."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        return validated(file, folders.token_path)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: object) -> str:
        return folders.stamps(lambda: [Path(folders.token_path(file))])

    @classmethod
    def execute(cls, file: str, placeholder: str = "") -> io.NodeOutput:
        with torch.inference_mode(False):
            try:
                token = load_token(folders.token_path(file))
            except ValueError as error:
                raise UserError(f"file: {error}") from error
            if placeholder.strip():
                token = dataclasses.replace(token, placeholder=placeholder.strip())
            token.subject.requires_grad_(False)
            for attractor in token.attractors:
                attractor.requires_grad_(False)
        inner = token.record.get("name_in_file")  # A1111's, after its file was renamed
        note = f"In prompts: {token.placeholder}. The file calls itself {inner}." if inner and not placeholder.strip() else ""
        return io.NodeOutput(token, token.placeholder, ui=said(note) if note else None)


class ApplyPersonalizedToken(io.ComfyNode):
    """Teaches MODEL and CLIP a token; from there on the placeholder works in any stock text-encode node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorApplyToken",
            display_name="Apply Personalized Token",
            category=CATEGORY,
            description="After this node the placeholder, such as <my-dog>, means the learnt subject in every prompt. "
            "Wire MODEL to the sampler and CLIP to the text-encode nodes; several can be chained.",
            search_aliases=["use embedding", "textual inversion", "neti", "personalize", "personalise", "SD1.5 token"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.5 model; LoRAs may come before or after."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                PersonalizedTokenType.Input("token", tooltip="From Train Attractor Embedding or Load NeTI Mapper."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="1: as trained. Below 1: closer to the plain word of the super-category, which is 0. Above 1: "
                    "exaggerated. Where weights were learnt (DreamBooth, Custom Diffusion) it scales those.",
                ),
                io.Int.Input(
                    "truncation",
                    default=0,
                    min=0,
                    max=128,
                    optional=True,
                    advanced=True,
                    tooltip="How many of a NeTI mapper's 128 hidden units to keep (its nested dropout). Fewer "
                    "units: easier to edit, less like the subject. 0: all of them.",
                ),
                io.Int.Input(
                    "attractor",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="0: the subject. 1 and up: the background attractor of that training image "
                    "instead, to see what it has learned (paper, Fig. 9).",
                ),
                io.String.Input(
                    "placeholder",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Another name for the token in prompts after this node. Empty: the token's own.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="MODEL", tooltip="Wire to the sampler."),
                io.Clip.Output("clip_out", display_name="CLIP", tooltip="Wire to text-encode nodes."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        clip: Clip,
        token: PersonalizedToken,
        strength: float = 1.0,
        truncation: int = 0,
        attractor: int = 0,
        placeholder: str = "",
    ) -> io.NodeOutput:
        problems = model_problems(model) + clip_problems(clip)
        if problems:
            raise UserError.of(problems)
        text = HostTextEncoder(clip)
        name = placeholder.strip() or token.placeholder
        problems = [p for p in (placeholder_problem(name, text.is_word),) if p]
        if token.width != text.width:
            problems.append(
                f"token: {token.placeholder} has width {token.width}, this text encoder {text.width}: the token was made for "
                "another model family. Use one that was trained on Stable Diffusion 1.5."
            )
        if attractor > len(token.attractors):
            has = f"{len(token.attractors)} attractors" if token.attractors else "no attractors"
            problems.append(f"attractor is {attractor}, but {token.placeholder} has {has}. Use 0 for the subject.")
        if strength != 1.0 and not token.weights and not (token.super_category and text.tokenize(token.super_category)):
            problems.append(
                f"strength is {strength}, but the file of {token.placeholder} has no super-category, which this needs. Use 1."
            )
        if problems:
            raise UserError.of(problems)
        anchor = None
        if strength != 1.0 and not token.weights:
            clip.load_model()
            anchor = word_embedding(text, token.super_category, "super_category")
        concept = token.attractors[attractor - 1] if attractor else token.subject
        phrase = "{}" if attractor else token.phrase
        scale = 1.0 if token.weights else strength
        applied = AppliedToken(name, concept.train(False), scale, truncation or None, anchor, phrase)
        personalized = PersonalizedCLIP.with_token(clip, applied)
        warning = bracket_warning(name)
        personal = with_weights(personalize_model(model), token.weights, strength)
        return io.NodeOutput(personal, personalized, ui=said(warning) if warning else None)


class SavePersonalizedToken(io.ComfyNode):
    """Writes a token to `output/neti`, and a plain embedding also to where stock `embedding:name` finds it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorSaveToken",
            display_name="Save Personalized Token",
            category=CATEGORY,
            description="Saves a token as safetensors under output/neti, where Load NeTI Mapper finds it.",
            search_aliases=["save embedding", "export embedding", "textual inversion", "neti"],
            is_output_node=True,
            inputs=[
                PersonalizedTokenType.Input("token", tooltip="From Train Attractor Embedding or Load NeTI Mapper."),
                io.String.Input(
                    "name",
                    default="my-subject",
                    tooltip="File name under output/neti, without extension. An existing file is replaced.",
                ),
                io.Boolean.Input(
                    "keep_attractors",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Also save the background attractors (for Fig. 9 and inspection).",
                ),
                io.Boolean.Input(
                    "export_embedding",
                    default=True,
                    optional=True,
                    tooltip="A Textual Inversion token is also written to models/embeddings, so that embedding:name works "
                    "without this pack (a NeTI token cannot be: it is a network, not one vector). Learnt weights are also "
                    "written to models/loras, for Load LoRA.",
                ),
            ],
            outputs=[io.String.Output("path", tooltip="The file written, under the output folder.")],
        )

    @classmethod
    def execute(
        cls, token: PersonalizedToken, name: str, keep_attractors: bool = True, export_embedding: bool = True
    ) -> io.NodeOutput:
        name = name.strip()
        embedding = export_embedding and isinstance(token.subject, Embedding)
        lora = folders.loras_folder() if export_embedding and token.weights else None
        roots = [folders.output_folder(), *([folders.embeddings_folder()] if embedding else []), *([lora] if lora else [])]
        for root in roots:
            if problems := folders.name_problems(name, "name", root, [f"{name}.safetensors"]):
                raise UserError.of(problems)
        path = folders.output_path(name, ".safetensors")
        kept = token if keep_attractors else dataclasses.replace(token, attractors=())
        lines = []
        try:
            save_token(kept, path)
            lines.append(f"neti/{name}.safetensors")
            if embedding and isinstance(token.subject, Embedding):
                save_embedding(token.subject.vectors, folders.embeddings_folder() / f"{name}.safetensors")
                lines.append(f"embedding:{name}")
            if lora:
                save_lora(token.weights, lora / f"{name}.safetensors")
                lines.append(f"{name}.safetensors for Load LoRA")
        except Exception as error:  # safetensors raises an error class of its own
            raise UserError(f"name: {name} could not be written ({error}). Free some space, or use another name.") from error
        return io.NodeOutput(str(path), ui=said("\n".join(lines)))
