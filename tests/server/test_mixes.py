"""Mix Personalized Tokens in a graph: what is saved and read again makes the same image, and bad layers are said at once."""

import pytest
import torch
from graphs import add_sampling, add_tiny, encode

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import load_token, save_token
from comfy_client import Graph, GraphRejected

MIX = {"geometry_layers": "4-8", "mixing_starts_at": 1000, "blend": 1.0, "placeholder": "<mix>"}


@pytest.fixture(scope="module")
def two_tokens(comfy_server):
    folder = comfy_server.output / "neti"
    folder.mkdir(parents=True, exist_ok=True)
    plain = Embedding(torch.randn(1, 128, generator=torch.Generator().manual_seed(2)) * 0.05)
    one = PersonalizedToken("<one>", "cat", "neti", 128, NeTIMapper(128, norm_scale=0.4, seed=1))
    save_token(one, folder / "mixes-one.safetensors")
    save_token(PersonalizedToken("<other>", "cat", "textual_inversion", 128, plain), folder / "mixes-other.safetensors")


def loaded(graph, name):
    return graph.add("AttractorLoadNeTIMapper", file=f"{name}.safetensors")[0]


def mixed(graph, **changes):
    one, other = loaded(graph, "mixes-one"), loaded(graph, "mixes-other")
    return graph.add("AttractorMixTokens", geometry=one, appearance=other, **{**MIX, **changes})[0]


def picture_of(graph, comfy, token):
    """The PNG's bytes of a prompt with a token, by stock nodes."""
    tiny = add_tiny(graph)
    applied = graph.add("AttractorApplyToken", model=tiny[0], clip=tiny[1], token=token, placeholder="<x>")
    sampled = add_sampling(graph, applied[0], encode(graph, applied[1], "a photo of a <x>"), encode(graph, applied[1], ""))
    saved = graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=tiny[2])[0])
    entry = comfy.run(graph)
    return comfy.images(entry, saved)[0].tobytes()


def test_a_mix_that_is_saved_and_read_makes_the_same_image(comfy, comfy_server, two_tokens):
    first = Graph()
    token = mixed(first)
    first.add("AttractorSaveToken", token=token, name="mixes-both")
    picture = picture_of(first, comfy, token)
    read = load_token(comfy_server.output / "neti" / "mixes-both.safetensors")
    assert (read.kind, read.placeholder, read.super_category) == ("mixed", "<mix>", "cat")
    assert [part["placeholder"] for part in read.record["mix_of"]] == ["<one>", "<other>"]
    again, alone = Graph(), Graph()
    assert picture_of(again, comfy, loaded(again, "mixes-both")) == picture
    assert picture_of(alone, comfy, loaded(alone, "mixes-one")) != picture


def test_layers_that_are_none_are_said_before_anything_runs(comfy, two_tokens):
    graph = Graph()
    graph.add("AttractorSaveToken", token=mixed(graph, geometry_layers="4-20"), name="mixes-refused")
    with pytest.raises(GraphRejected) as refused:
        comfy.run(graph)
    assert any("geometry_layers: '4-20'" in message and "such as 4-8" in message for message in refused.value.messages)
