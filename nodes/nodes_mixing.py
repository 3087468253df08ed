"""The node that makes one token of two."""

import torch
from comfy_api.latest import io

from ..trainer.concept import PersonalizedToken, kind_of, placeholder_problem
from ..trainer.mapper import TIMESTEPS
from ..trainer.mixing import mix, parse_layers
from .errors import UserError
from .link_types import PersonalizedTokenType


class MixPersonalizedTokens(io.ComfyNode):
    """The shape of one subject with the looks of another, by layers of the U-Net, by denoising time, or in between."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorMixTokens",
            display_name="Mix Personalized Tokens",
            category="attractor",
            description="Makes one token of two: the first gives the shape, the second colours and texture. Each layer of the "
            "U-Net and each denoising time takes one of them, or something in between. The mix is a token like any other: "
            "apply, save and mix it further.",
            search_aliases=["style mixing", "merge embeddings", "blend tokens", "combine textual inversion", "XTI", "P+"],
            inputs=[
                PersonalizedTokenType.Input("geometry", tooltip="The token that gives the shape."),
                PersonalizedTokenType.Input("appearance", tooltip="The token that gives colours and texture."),
                io.String.Input(
                    "geometry_layers",
                    default="4-8",
                    tooltip="Layers of the U-Net that see geometry only, of 0 to 15 in the order in which they run: 0-5 go "
                    "down, 6 is the middle, 7-15 go up; 4-8 have the lowest resolutions. Such as 4-8 or 0-3, 9. Empty: none.",
                ),
                io.Int.Input(
                    "mixing_starts_at",
                    default=TIMESTEPS,
                    min=0,
                    max=TIMESTEPS,
                    step=10,
                    tooltip="The denoising time below which mixing starts; before, all layers see geometry. Sampling goes from "
                    "999 (noise) to 0 (image): 1000 mixes from the first step, 600 once the shape is there, 0 never.",
                ),
                io.Float.Input(
                    "blend",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far the other layers go to appearance: 1 all the way, 0.5 halfway between the two, 0 not at "
                    "all. With no geometry_layers it blends the two tokens everywhere.",
                ),
                io.String.Input(
                    "placeholder",
                    default="<my-mix>",
                    tooltip="The word that means the mix in prompts. Empty: that of geometry.",
                ),
            ],
            outputs=[PersonalizedTokenType.Output("token", tooltip="Wire to Apply, Save or Mix Personalized Token.")],
        )

    @classmethod
    def validate_inputs(cls, geometry_layers: str | None = None) -> bool | str:
        try:
            return geometry_layers is None or parse_layers(geometry_layers) is not None
        except ValueError as error:
            return f"geometry_layers: {error}"

    @classmethod
    def execute(
        cls,
        geometry: PersonalizedToken,
        appearance: PersonalizedToken,
        geometry_layers: str,
        mixing_starts_at: int,
        blend: float,
        placeholder: str,
    ) -> io.NodeOutput:
        name = placeholder.strip() or geometry.placeholder
        if problem := placeholder_problem(name, lambda word: False):
            raise UserError(problem)
        for what, token in (("geometry", geometry), ("appearance", appearance)):
            if token.weights or token.phrase != "{}":
                raise UserError(
                    f"{what}: {token.placeholder} comes with weights of the U-Net (DreamBooth, Custom Diffusion) and cannot be "
                    "mixed. Choose a Textual Inversion or NeTI token."
                )
        try:
            layers = parse_layers(geometry_layers)
        except ValueError as error:
            raise UserError(f"geometry_layers: {error}") from error
        with torch.inference_mode(False):
            try:
                subject = mix(geometry.subject, appearance.subject, layers, mixing_starts_at, blend).requires_grad_(False)
            except ValueError as error:
                raise UserError(f"geometry and appearance: {error}") from error
        record = {
            "mix_of": [_facts(geometry), _facts(appearance)],
            "geometry_layers": sorted(layers),
            "mixing_starts_at": mixing_starts_at,
            "blend": blend,
        }
        super_category = geometry.super_category or appearance.super_category
        kind, width = kind_of(subject), geometry.width
        return io.NodeOutput(PersonalizedToken(name, super_category, kind, width, subject, record=record))


def _facts(token: PersonalizedToken) -> dict:
    return {"placeholder": token.placeholder, "kind": token.kind, "record": token.record}
