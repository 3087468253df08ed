"""The test pack's nodes (V3)."""

import json
import sys
from pathlib import Path

from aiohttp import web
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from . import full_size, tiny_flux, tiny_sd15, tiny_sdxl, unfit_models
from .live_tensors import tensor_megabytes

KINDS = ["sd15", "pruned", "sdxl", "fp8", "inpainting", "sd2 text encoder", "U-Net only"]


class TestTinySD15(io.ComfyNode):
    """A small SD1.5 with seeded random weights. It has no checkpoint file, so `cached_patcher_init` is None,
    as for models of third-party loaders."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTinySD15",
            display_name="Tiny SD1.5 (test)",
            category="attractor/test",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1),
                io.Int.Input("width", default=64, min=32, max=320, step=32),
                io.Int.Input("text_layers", default=2, min=1, max=12),
                io.Combo.Input("kind", options=KINDS, default="sd15", optional=True),
                io.Int.Input("vae_channels", default=4, min=4, max=16, step=12, optional=True),
                io.Int.Input("text_width", default=tiny_sd15.NARROW, min=64, max=768, step=64, optional=True),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, seed, width, text_layers, kind="sd15", vae_channels=4, text_width=tiny_sd15.NARROW) -> io.NodeOutput:
        if kind == "inpainting":
            model = unfit_models.inpainting_model(seed, width)
        else:
            model = tiny_sd15.tiny_model(seed, width, kind, text_width)
        if kind == "U-Net only":
            return io.NodeOutput(model, *unfit_models.parts_of_a_unet_file())
        clip = unfit_models.sd2_clip() if kind == "sd2 text encoder" else tiny_sd15.tiny_clip(seed, text_layers, text_width)
        return io.NodeOutput(model, clip, tiny_sd15.tiny_vae(seed, vae_channels))


class TestTinySDXL(io.ComfyNode):
    """A small SDXL with seeded random weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTinySDXL",
            display_name="Tiny SDXL (test)",
            category="attractor/test",
            inputs=[io.Int.Input("seed", default=0, min=0, max=2**31 - 1)],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, seed) -> io.NodeOutput:
        return io.NodeOutput(tiny_sdxl.tiny_model(seed), tiny_sdxl.tiny_clip(seed), tiny_sd15.tiny_vae(seed))


class TestTinyFlux(io.ComfyNode):
    """A small Flux with seeded random weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTinyFlux",
            display_name="Tiny Flux (test)",
            category="attractor/test",
            inputs=[io.Int.Input("seed", default=0, min=0, max=2**31 - 1)],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, seed) -> io.NodeOutput:
        return io.NodeOutput(tiny_flux.tiny_model(seed), tiny_flux.tiny_clip(seed), tiny_sd15.tiny_vae(seed, 16))


class TestFullSizeSD15(io.ComfyNode):
    """SD1.5 of its real sizes with random weights, for benchmarks."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestFullSizeSD15",
            display_name="Full-size SD1.5 (test)",
            category="attractor/test",
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(full_size.full_size_model(), full_size.full_size_clip(), full_size.full_size_vae())


class TestToyWorld(io.ComfyNode):
    """The toy world's model, which has really learnt its captions: see tests/toy_world."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestToyWorld",
            display_name="Toy world SD1.5 (test)",
            category="attractor/test",
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        support = Path(__file__).resolve().parents[1]
        for folder in map(str, (support.parent, support)):  # of toy_world and of test_nodes
            if folder not in sys.path:
                sys.path.append(folder)  # at the end: no folder of ours may hide a module of the host's
        from toy_world import models

        return io.NodeOutput(models.load_model(), models.load_clip(), models.load_vae())


class TestTinyControlNet(io.ComfyNode):
    """A small ControlNet with seeded random weights for that model."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTinyControlNet",
            display_name="Tiny ControlNet (test)",
            category="attractor/test",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1),
                io.Int.Input("width", default=64, min=32, max=320, step=32),
            ],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, seed, width) -> io.NodeOutput:
        return io.NodeOutput(tiny_sd15.tiny_control_net(seed, width))


class TestOldBoxes(io.ComfyNode):
    """The older BBOX, (left, top, right, bottom), as packs that know no BOUNDING_BOX give it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestOldBoxes",
            display_name="Old boxes (test)",
            category="attractor/test",
            inputs=[io.String.Input("boxes")],
            outputs=[io.Custom("BBOX").Output()],
        )

    @classmethod
    def execute(cls, boxes) -> io.NodeOutput:
        return io.NodeOutput(json.loads(boxes))


class TestExtension(ComfyExtension):
    async def on_load(self):
        @PromptServer.instance.routes.get("/test/tensor_megabytes")
        async def answer(_request):
            return web.json_response(tensor_megabytes())

    async def get_node_list(self):
        return [TestTinySD15, TestTinySDXL, TestTinyFlux, TestFullSizeSD15, TestToyWorld, TestTinyControlNet, TestOldBoxes]
