"""Mix Personalized Tokens through the host's sampler: exact at its ends, and each layer and time sees what it should."""

import dataclasses

import pytest
import torch
from in_process import encode, sample
from safetensors.torch import save_file

from attractor.nodes.errors import UserError
from attractor.nodes.host.conds import KEY
from attractor.nodes.host.identity import token_identity
from attractor.nodes.nodes_mixing import MixPersonalizedTokens
from attractor.nodes.nodes_tokens import ApplyPersonalizedToken
from attractor.trainer.concept import Embedding, LayeredEmbedding, PersonalizedToken
from attractor.trainer.embeddings import LAYER_NAMES
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import load_token, save_token

PROMPT = "a photo of a <x> on the beach"


def numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def token(kind, seed, count=1):
    if kind == "neti":
        concept = NeTIMapper(768, norm_scale=1.0, seed=seed)
    elif kind == "xti":
        concept = LayeredEmbedding(numbers(16, count, 768, seed=seed))
    else:
        concept = Embedding(numbers(count, 768, seed=seed))
    return PersonalizedToken(f"<{kind}-{seed}>", "cat", kind, 768, concept.requires_grad_(False))


TUNED = dataclasses.replace(token("textual_inversion", 5), placeholder="<tuned>", phrase="{} cat")


def mixed(geometry, appearance, layers="4-8", starts_at=1000, blend=1.0, placeholder="<x>"):
    """With inference mode on, as the host runs nodes."""
    with torch.inference_mode():
        return MixPersonalizedTokens.execute(geometry, appearance, layers, starts_at, blend, placeholder).result[0]


@pytest.fixture
def image(tiny_model, tiny_clip):
    """image(token): what the host's sampler makes of a prompt with it."""

    def made(token, prompt=PROMPT, **options):
        with torch.inference_mode():
            model, clip = ApplyPersonalizedToken.execute(tiny_model, tiny_clip, token, placeholder="<x>", **options).result
        return sample(model, encode(clip, prompt), encode(clip, ""))

    return made


@pytest.fixture
def contexts(tiny_model, tiny_clip):
    """contexts(token, time): K and V (16, 77, 768) that the layers see."""

    def found(token, time):
        with torch.inference_mode():
            _, clip = ApplyPersonalizedToken.execute(tiny_model, tiny_clip, token, placeholder="<x>").result
        payload = encode(clip, PROMPT)[0][1]["model_conds"][KEY].payload
        step = payload.get(time, torch.device("cpu"), torch.float32)
        return step.k, step.v

    return found


def test_a_mix_is_bit_for_bit_the_token_that_is_alone_in_it(image):
    one, other = token("neti", 1), token("textual_inversion", 2)
    alone = image(one), image(other)
    assert not torch.equal(*alone)
    assert torch.equal(image(mixed(one, other, layers="0-15")), alone[0])
    assert torch.equal(image(mixed(one, other, layers="")), alone[1])
    assert torch.equal(image(mixed(one, one, layers="4-8", blend=0.3)), alone[0]), "mixed with itself"
    split = image(mixed(one, other))
    assert not torch.equal(split, alone[0]) and not torch.equal(split, alone[1])


@pytest.mark.parametrize("kinds", [("neti", "neti"), ("xti", "textual_inversion"), ("textual_inversion", "neti")], ids="-".join)
def test_a_mix_that_takes_one_token_only_is_that_token(kinds):
    one, other = token(kinds[0], 1), token(kinds[1], 2)
    for options in ({"layers": "0-15"}, {"layers": "", "starts_at": 0}, {"layers": "", "blend": 0.0}):
        assert mixed(one, other, **options).subject is one.subject, options
    assert mixed(one, other, layers="").subject is other.subject
    assert mixed(one, token(kinds[0], 1), blend=0.5).subject is one.subject, "an equal one"
    mix = mixed(one, other)
    assert mixed(mix, mixed(one, other), "3").subject is mix.subject, "an equal mix"
    assert (mix.kind, mix.super_category) == ("mixed", "cat")


def test_every_layer_and_time_sees_the_token_that_it_should(contexts):
    """Of a mapper with a bypass and one without: rows of the batch differ in whether they have any."""
    one, other = (
        token("neti", 1),
        dataclasses.replace(
            token("neti", 2), subject=NeTIMapper(768, norm_scale=1.0, bypass=False, seed=2).requires_grad_(False)
        ),
    )
    mix = mixed(one, other, "4-8, 15", starts_at=600)
    for time in (999, 600, 599, 0):
        mine, firsts, others = (contexts(which, time) for which in (mix, one, other))
        for layer in range(16):
            expected = firsts if time >= 600 or layer in (4, 5, 6, 7, 8, 15) else others
            for found, wanted in zip(mine, expected, strict=True):
                assert torch.equal(found[layer], wanted[layer]), (time, layer)


def test_a_mapper_and_an_embedding_mix_without_a_bypass_where_the_embedding_is(contexts):
    one, other = token("neti", 1), token("textual_inversion", 2)
    for blend, changed in ((1.0, 0), (0.5, 1)):
        k, v = contexts(mixed(one, other, "4-8", blend=blend), 500)
        own_k, own_v = contexts(one, 500)
        assert torch.equal(k[4:9], own_k[4:9]) and torch.equal(v[4:9], own_v[4:9])
        assert torch.isfinite(v).all()
        moved = (v != k).any(-1).sum(-1)
        assert (moved[4:9] == 1).all() and (moved[9:] == changed).all()


def test_halfway_between_two_embeddings_is_an_embedding_of_the_length_between_theirs(image):
    one, other = token("textual_inversion", 1), token("textual_inversion", 2)
    other.subject.vectors.mul_(3)
    between = mixed(one, other, layers="", blend=0.5)
    assert (between.kind, type(between.subject)) == ("textual_inversion", Embedding)
    vector, ends = between.subject.vectors[0], [part.subject.vectors[0] for part in (one, other)]
    torch.testing.assert_close(vector.norm(), (ends[0].norm() + ends[1].norm()) / 2)
    torch.testing.assert_close(vector / vector.norm(), (ends[0] + ends[1]) / (ends[0] + ends[1]).norm())
    assert not torch.equal(image(between), image(one))


def test_strength_and_truncation_reach_both_parts(image):
    mix = mixed(token("neti", 1), token("neti", 2))
    assert not torch.equal(image(mix, truncation=8), image(mix))
    word = image(token("textual_inversion", 3), PROMPT.replace("<x>", "cat"))
    assert ((image(mix, strength=0.0) - word).abs().max() / word.std()).item() < 1e-4


def test_a_mix_of_mixes_is_saved_and_read_and_is_the_same(image, tmp_path):
    mix = mixed(mixed(token("neti", 1), token("xti", 2), "0-3"), token("textual_inversion", 3), "0-9", 700, 0.4)
    save_token(mix, tmp_path / "mix.safetensors")
    read = load_token(tmp_path / "mix.safetensors")
    assert (read.kind, read.placeholder, read.record) == ("mixed", "<x>", mix.record)
    assert torch.equal(image(read), image(mix))
    assert token_identity(read) == token_identity(mix)
    others = [
        mixed(mix, token("neti", 4), layers, starts_at) for layers, starts_at in (("4-8", 1000), ("4-9", 1000), ("4-8", 9))
    ]
    assert len({token_identity(other) for other in (mix, *others)}) == 4


def test_an_xti_file_of_sixteen_equal_layers_is_the_plain_embedding(image, tmp_path):
    vectors = numbers(2, 768, seed=1)
    save_file({name: vectors.clone() for name in LAYER_NAMES}, tmp_path / "xti.safetensors")
    plain = PersonalizedToken("<x>", "", "textual_inversion", 768, Embedding(vectors))
    assert torch.equal(image(load_token(tmp_path / "xti.safetensors")), image(plain))


def test_each_layer_of_an_xti_file_sees_its_own_vectors(tiny_model, tiny_clip, contexts, tmp_path):
    """Against plain embeddings, which take the host's own path."""
    layers = {name: numbers(2, 768, seed=number) for number, name in enumerate(LAYER_NAMES)}
    save_file(dict(sorted(layers.items())), tmp_path / "xti.safetensors")
    torch.save({f"<my-x>-{number}": vectors[0] for number, vectors in enumerate(layers.values())}, tmp_path / "numbered.bin")
    read, numbered = load_token(tmp_path / "xti.safetensors"), load_token(tmp_path / "numbered.bin")
    assert (read.kind, read.placeholder, numbered.placeholder) == ("xti", "<xti>", "<my-x>")
    assert torch.equal(numbered.subject.vectors, read.subject.vectors[:, :1])
    k, v = contexts(read, 123)
    assert torch.equal(k, v)
    for number, name in enumerate(LAYER_NAMES):
        plain = PersonalizedToken("<x>", "", "textual_inversion", 768, Embedding(layers[name]))
        with torch.inference_mode():
            _, clip = ApplyPersonalizedToken.execute(tiny_model, tiny_clip, plain, placeholder="<x>").result
        assert (k[number] - encode(clip, PROMPT)[0][0][0]).abs().max() < 1e-5, name


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layers": "4-x"}, "geometry_layers: '4-x' .*such as 4-8"),
        ({"layers": "12-19"}, "geometry_layers: '12-19' .*0 to 15"),
        ({"layers": "8-4"}, "geometry_layers: '8-4'"),
        ({"appearance": token("textual_inversion", 3, count=3)}, "geometry and appearance: they have 1 and 3 vectors. Mix"),
        ({"placeholder": "my mix"}, "placeholder 'my mix' holds a space"),
        ({"geometry": TUNED}, "geometry: <tuned> comes with weights of the U-Net"),
    ],
)
def test_what_cannot_be_mixed_is_named_with_the_remedy(changes, words):
    with pytest.raises(UserError, match=words):
        mixed(**{"geometry": token("neti", 1), "appearance": token("neti", 2), **changes})


def test_tokens_of_another_family_and_too_many_of_them_do_not_mix():
    wide = PersonalizedToken("<w>", "cat", "textual_inversion", 1024, Embedding(numbers(1, 1024, seed=1)))
    with pytest.raises(UserError, match="widths 768 and 1024"):
        mixed(token("neti", 1), wide)
    mix = mixed(token("textual_inversion", 0), token("textual_inversion", 1))
    for seed in range(2, 16):
        mix = mixed(mix, token("textual_inversion", seed))
    with pytest.raises(UserError, match="17 tokens, and 16 is the most"):
        mixed(mix, token("textual_inversion", 16))
