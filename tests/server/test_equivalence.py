"""A NeTI token that is the same at every time and layer samples what stock `embedding:name` samples.

Whatever the graph: the per-layer contexts must reach every place that the stock conditioning reaches.
"""

import uuid

import pytest
import torch
from graphs import add_sampling, add_tiny
from safetensors.torch import load_file, save_file

from attractor.trainer.concept import PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import save_embedding, save_token
from comfy_client import ComfyClient, Graph

TOLERANCE = 1e-4  # as a share of the latents' standard deviation, which is about 1 for pretrained weights
NAMES = ("one", "two")
PROMPT = "a photo of a {one} on the beach"


def constant_mapper(vector):
    mapper = NeTIMapper(bypass=False, nested_dropout=0.0, seed=0)
    with torch.no_grad():
        mapper.output_layer.weight.zero_()
        mapper.output_layer.bias.copy_(vector)
    return mapper


def deceptive_mapper(vector):
    """`vector` at every time and layer, but the opposite at t = 500.

    A prompt falls back to the embedding of t = 500 (no test here samples there). A constant token falls back to the
    right vector, so it cannot tell contexts that arrive from contexts that do not; this one can.
    """
    mapper = NeTIMapper(positional=False, bypass=False, norm_scale=vector.norm().item(), nested_dropout=0.0, seed=0)
    first, second, last = mapper.net[0], mapper.net[3], mapper.output_layer
    middle, margin = 2 * 500 / 999 - 1, 1 / 999  # as the mapper scales time: t = 500, half a step
    with torch.no_grad():
        for parameter in (*first.parameters(), *second.parameters(), *last.parameters()):
            parameter.zero_()
        # Pairs of opposite sign keep LayerNorm from shifting anything; x = time - middle.
        first.weight[:2, 0] = torch.tensor([1.0, -1.0])
        first.bias[:4] = torch.tensor([-middle, middle, 1.0, -1.0])
        second.weight[0, :3] = torch.tensor([1 / 0.99, 1 / 0.99, -margin])  # |x| - margin, by two leaky ReLUs
        second.weight[1] = -second.weight[0]
        last.weight[:, 0], last.weight[:, 1] = vector, -vector  # its sign alone survives `norm_scale`
        at_500, elsewhere = mapper(torch.tensor([500.0, 499.0]), torch.tensor([0, 15]))[0]
    assert torch.allclose(elsewhere, vector, atol=1e-6) and torch.allclose(at_500, -vector, atol=1e-6)
    return mapper


def varying_mapper(reverse=None):
    """One that varies over time and layer, bypass included. reverse: run input 0 (time) or 1 (layer) backwards."""
    mapper = NeTIMapper(positional=False, norm_scale=1.0, seed=3)
    if reverse is not None:
        mapper.net[0].weight.data[:, reverse].neg_()  # time and layer are scaled to -1..1
    return mapper


@pytest.fixture(scope="module", autouse=True)
def files(comfy_server):
    """Two constant NeTI tokens, the same vectors as stock embeddings, tokens that vary, and a LoRA."""
    models = comfy_server.base / "models"
    for folder in ("neti", "embeddings", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(7)

    def save(kind, name, mapper):
        token = PersonalizedToken(f"<{name}>", "cat", "neti", 768, mapper)
        save_token(token, models / "neti" / f"{kind}-{name}.safetensors")

    for name in NAMES:
        vector = torch.randn(768, generator=generator) * 0.05
        save("constant", name, constant_mapper(vector))
        save("deceptive", name, deceptive_mapper(vector))
        save_embedding(vector[None], models / "embeddings" / f"{name}.safetensors")
        save_embedding(-vector[None], models / "embeddings" / f"opposite-{name}.safetensors")
    for kind, reverse in (("varying", None), ("time-reversed", 0), ("layer-reversed", 1)):
        save(kind, "one", varying_mapper(reverse))
    layers = [
        f"lora_unet_{place}_transformer_blocks_0_attn2_to_{part}"
        for place in ("down_blocks_0_attentions_0", "up_blocks_3_attentions_2")
        for part in "kv"
    ]
    layers += ["lora_te_text_model_encoder_layers_0_self_attn_v_proj"]
    lora = {}
    for layer in layers:
        rows, columns = (768, 768) if "_te_" in layer else (64, 768)
        lora[f"{layer}.lora_down.weight"] = torch.randn(4, columns, generator=generator) * 0.1
        lora[f"{layer}.lora_up.weight"] = torch.randn(rows, 4, generator=generator) * 0.1
        lora[f"{layer}.alpha"] = torch.tensor(4.0)
    save_file(lora, models / "loras" / "tiny.safetensors")


class Branch:
    """One way of bringing the vectors into a graph; a case is written once for both."""

    words: str  # how a prompt names a token

    def __init__(self, graph, loader):
        self.graph, self.loader = graph, loader

    def prompt(self, clip, text):
        words = {name: self.words.format(name) for name in NAMES}
        return self.graph.add("CLIPTextEncode", clip=clip, text=text.format(**words))[0]

    def sample(self, positive=None, negative=None, model=None, clip=None, **settings):
        if model is None:
            model, clip = self.apply(self.loader[0], self.loader[1])
        positive = self.prompt(clip, positive or PROMPT) if not isinstance(positive, list) else positive
        negative = self.prompt(clip, negative or "blurry") if not isinstance(negative, list) else negative
        return add_sampling(self.graph, model, positive, negative, **settings)[0]


class Stock(Branch):
    words = " embedding:{} "

    def apply(self, model, clip):
        return model, clip


class Opposite(Stock):
    words = " embedding:opposite-{} "


class Ours(Branch):
    words = "<{}>"
    kinds = {"one": "constant", "two": "constant"}

    def apply(self, model, clip):
        for name, kind in self.kinds.items():
            token = self.graph.add("AttractorLoadNeTIMapper", file=f"{kind}-{name}.safetensors")[0]
            applied = self.graph.add("AttractorApplyToken", model=model, clip=clip, token=token)
            model, clip = applied[0], applied[1]
        return model, clip


class Deceptive(Ours):
    kinds = {"one": "deceptive", "two": "deceptive"}


class DeceptiveFirst(Ours):
    kinds = {"one": "deceptive", "two": "constant"}


def applied(branch):
    model, clip = branch.apply(branch.loader[0], branch.loader[1])
    return {"model": model, "clip": clip}


def conditioned(branch, class_type, **inputs):
    """Sampling with the positive prompt passed through a node."""
    ready = applied(branch)
    through = branch.graph.add(class_type, conditioning=branch.prompt(ready["clip"], PROMPT), **inputs)[0]
    return branch.sample(through, **ready)


def with_two(branch, class_type, names):
    """Sampling with two prompts joined by a node; each has another token."""
    ready = applied(branch)
    prompts = [branch.prompt(ready["clip"], text) for text in (PROMPT, "a red {two} and a hat")]
    return branch.sample(branch.graph.add(class_type, **dict(zip(names, prompts, strict=True)))[0], **ready)


def masked_halves(branch):
    """Two prompts, each in one half of the picture."""
    ready = applied(branch)
    mask = branch.graph.add("SolidMask", value=0.0, width=128, height=128)
    half = branch.graph.add("SolidMask", value=1.0, width=64, height=128)
    mask = branch.graph.add("MaskComposite", destination=mask[0], source=half[0], x=0, y=0, operation="add")
    inverse = branch.graph.add("InvertMask", mask=mask[0])
    parts = [
        branch.graph.add(
            "ConditioningSetMask",
            conditioning=branch.prompt(ready["clip"], text),
            mask=where[0],
            strength=1.0,
            set_cond_area="default",
        )[0]
        for text, where in ((PROMPT, mask), ("a red {two} and a hat", inverse))
    ]
    both = branch.graph.add("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    return branch.sample(both[0], **ready)


def with_control_net(branch):
    ready = applied(branch)
    prompts = [branch.prompt(ready["clip"], text) for text in (PROMPT, "blurry {two}")]
    control = branch.graph.add("TestTinyControlNet", seed=4, width=64)
    picture = branch.graph.add("EmptyImage", width=128, height=128, batch_size=1, color=8421504)
    both = branch.graph.add(
        "ControlNetApplyAdvanced",
        positive=prompts[0],
        negative=prompts[1],
        control_net=control[0],
        image=picture[0],
        strength=0.8,
        start_percent=0.0,
        end_percent=1.0,
    )
    return branch.sample(both[0], both[1], model=ready["model"])


def with_lora(branch, before, strength_model=1.0, strength_clip=1.0):
    def lora(model, clip):
        loaded = branch.graph.add(
            "LoraLoader",
            model=model,
            clip=clip,
            lora_name="tiny.safetensors",
            strength_model=strength_model,
            strength_clip=strength_clip,
        )
        return loaded[0], loaded[1]

    steps = [lora, branch.apply] if before else [branch.apply, lora]
    model, clip = branch.loader[0], branch.loader[1]
    for step in steps:
        model, clip = step(model, clip)
    return branch.sample(model=model, clip=clip)


def with_clip_skip(branch, before):
    model, clip = branch.loader[0], branch.loader[1]
    if before:
        clip = branch.graph.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)[0]
    model, clip = branch.apply(model, clip)
    if not before:
        clip = branch.graph.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)[0]
    return branch.sample(model=model, clip=clip)


def image_to_image(branch):
    picture = branch.graph.add("EmptyImage", width=128, height=128, batch_size=1, color=255)
    latent = branch.graph.add("VAEEncode", pixels=picture[0], vae=branch.loader[2])[0]
    return branch.sample(latent=latent, denoise=0.5, steps=4)


def batch_of_two(branch):
    return branch.sample(latent=branch.graph.add("EmptyLatentImage", width=128, height=128, batch_size=2)[0])


LONG = "a photo of many things on a table " * 9
CASES = {
    "plain, cfg 7": lambda b: b.sample(),
    "cfg 1": lambda b: b.sample(cfg=1.0),
    "batch of 2": batch_of_two,
    "weighted token": lambda b: b.sample("a photo of a ({one}:1.3) on the beach"),
    "weighted phrase": lambda b: b.sample("(a photo of a {one}:0.7) on the (beach:1.2)"),
    "second chunk": lambda b: b.sample(LONG + "{one}"),
    "both chunks": lambda b: b.sample("{one} " + LONG + "({two}:1.2)"),
    "longer negative": lambda b: b.sample(PROMPT, LONG + "{two}"),
    "twice": lambda b: b.sample("{one} and {one}"),
    "two tokens": lambda b: b.sample("a {one} beside a {two}"),
    "in the negative prompt": lambda b: b.sample("a dog", "a {one}"),
    "punctuation": lambda b: b.sample('a photo, of "{one}", ({two}). wow!'),
    "Combine": lambda b: with_two(b, "ConditioningCombine", ("conditioning_1", "conditioning_2")),
    "Concat": lambda b: with_two(b, "ConditioningConcat", ("conditioning_to", "conditioning_from")),
    "Set Area": lambda b: conditioned(b, "ConditioningSetArea", width=64, height=128, x=64, y=0, strength=1.0),
    "Set Mask": masked_halves,
    "Timestep Range": lambda b: conditioned(b, "ConditioningSetTimestepRange", start=0.0, end=0.6),
    "ControlNet": with_control_net,
    "LoRA before": lambda b: with_lora(b, before=True),
    "LoRA after": lambda b: with_lora(b, before=False),
    "clip skip before": lambda b: with_clip_skip(b, before=True),
    "clip skip after": lambda b: with_clip_skip(b, before=False),
    "image to image": image_to_image,
    "heun": lambda b: b.sample(sampler_name="heun", steps=4),
    "dpmpp_2m karras": lambda b: b.sample(sampler_name="dpmpp_2m", scheduler="karras", steps=4),
    "uni_pc": lambda b: b.sample(sampler_name="uni_pc", steps=5),
}

# By design Conditioning Concat carries per-layer contexts of its first prompt only, and a ControlNet reads the
# embedding to fall back to; that one has a test of its own.
ARRIVING = {"Concat": DeceptiveFirst, "ControlNet": Ours}


def run(comfy, comfy_server, **branches):
    """Latents of each branch: `name=(Branch class, case)`, all in one graph."""
    graph = Graph()
    loader = add_tiny(graph, text_layers=2, text_width=768)
    folder = uuid.uuid4().hex  # another one each time, or the host would take its cached result and save nothing
    for name, (kind, case) in branches.items():
        branch = kind(graph, loader)
        graph.add("SaveLatent", samples=case(branch), filename_prefix=f"{folder}/{name}")
    comfy.run(graph, timeout=300)
    return {name: load_file(comfy_server.output / folder / f"{name}_00001_.latent")["latent_tensor"] for name in branches}


def difference(latents, others):
    """The largest difference, as a share of the latents' standard deviation."""
    return ((latents - others).abs().max() / others.std()).item()


@pytest.fixture(scope="module")
def plain(comfy_server):
    """Latents of the plain case, from which every other case must differ for it to show anything."""
    return run(ComfyClient(comfy_server.url), comfy_server, plain=(Stock, CASES["plain, cfg 7"]))["plain"]


@pytest.mark.parametrize("case", CASES)
def test_constant_token_equals_the_stock_embedding(comfy, comfy_server, plain, case):
    kinds = {"stock": Stock, "ours": Ours, "arriving": ARRIVING.get(case, Deceptive)}
    latents = run(comfy, comfy_server, **{name: (kind, CASES[case]) for name, kind in kinds.items()})
    assert difference(latents["ours"], latents["stock"]) < TOLERANCE
    if kinds["arriving"] is not Ours:
        assert difference(latents["arriving"], latents["stock"]) < TOLERANCE, "what arrives is the fall-back"
    if case not in ("plain, cfg 7", "batch of 2"):
        assert difference(latents["stock"], plain) > 100 * TOLERANCE, "the case has no effect"


def test_the_contexts_arrive_under_a_control_net(comfy, comfy_server):
    """By design the ControlNet itself reads the embedding to fall back to; the U-Net must not."""
    case = CASES["ControlNet"]
    latents = run(comfy, comfy_server, ours=(Deceptive, case), fallen_back=(Opposite, case))
    assert difference(latents["ours"], latents["fallen_back"]) > 100 * TOLERANCE


def test_the_lora_changes_model_and_text_encoder(comfy, comfy_server, plain):
    parts = {
        "model": lambda b: with_lora(b, before=True, strength_clip=0.0),
        "clip": lambda b: with_lora(b, before=True, strength_model=0.0),
    }
    latents = run(comfy, comfy_server, **{name: (Stock, case) for name, case in parts.items()})
    for name in parts:
        assert difference(latents[name], plain) > 100 * TOLERANCE, name


class Varying(Ours):
    kinds = {"one": "varying"}


class TimeReversed(Ours):
    kinds = {"one": "time-reversed"}


class LayerReversed(Ours):
    kinds = {"one": "layer-reversed"}


class VaryingWithoutModel(Varying):
    def apply(self, model, clip):
        return model, super().apply(model, clip)[1]


def test_each_time_and_layer_gets_its_own_context(comfy, comfy_server):
    """A token that varies differs from the constant one it falls back to, and from itself backwards."""
    kinds = {"varying": Varying, "constant": VaryingWithoutModel, "time": TimeReversed, "layer": LayerReversed}
    latents = run(comfy, comfy_server, **{name: (kind, CASES["plain, cfg 7"]) for name, kind in kinds.items()})
    for other in ("constant", "time", "layer"):
        assert difference(latents["varying"], latents[other]) > 100 * TOLERANCE, other
    assert "does not come through Apply Personalized Token" in comfy_server.log_text()


def test_prompts_without_the_token_are_untouched(comfy, comfy_server):
    def sample(branch):
        return branch.sample("a dog on the beach")

    latents = run(comfy, comfy_server, stock=(Stock, sample), ours=(Ours, sample))
    assert torch.equal(latents["ours"], latents["stock"])
