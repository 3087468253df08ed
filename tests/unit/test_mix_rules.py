"""What may be mixed, and when a mix is just one of its two tokens."""

import pytest
import torch

from attractor.trainer.concept import LAYERS, Embedding
from attractor.trainer.mapper import TIMESTEPS, NeTIMapper
from attractor.trainer.mixing import MOST_PARTS, MOST_VECTORS, mismatch, mix, parse_layers


def test_so_many_vectors_as_a_prompt_holds_and_no_more():
    most, more = (Embedding(torch.ones(count, 8)) for count in (MOST_VECTORS, MOST_VECTORS + 1))
    assert mismatch(most, most) is None
    assert f"{MOST_VECTORS + 1} vectors, and {MOST_VECTORS} is the most" in mismatch(more, more)


def test_so_many_tokens_and_no_more():
    one, other = Embedding(torch.ones(1, 8)), NeTIMapper(8, hidden=2, num_w=2)
    mixed = one
    for _ in range(MOST_PARTS - 1):
        mixed = mix(other, mixed, frozenset({3}), 500, 1.0)
    assert f"a mix of {MOST_PARTS + 1} tokens" in mismatch(mixed, one)


def test_mappers_of_one_state_and_two_scales_are_not_equal():
    small, large = (NeTIMapper(8, hidden=2, num_w=2, norm_scale=scale, seed=0) for scale in (0.4, 0.8))
    assert mix(small, large, frozenset({3}), 500, 1.0) is not small
    assert mix(small, NeTIMapper(8, hidden=2, num_w=2, norm_scale=0.4, seed=0), frozenset({3}), 500, 1.0) is small


@pytest.mark.parametrize("layers, starts_at, blend", [(set(), 0, 1.0), (set(range(LAYERS)), 999, 1.0), ({1}, 500, 0.0)])
def test_a_mix_in_which_the_other_has_no_place_is_the_first(layers, starts_at, blend):
    one, other = (Embedding(torch.full((1, 8), value)) for value in (1.0, 2.0))
    assert mix(one, other, frozenset(layers), starts_at, blend) is one


def test_a_mix_of_everything_is_the_other():
    one, other = Embedding(torch.ones(1, 8)), NeTIMapper(8, hidden=2, num_w=2)
    assert mix(one, other, frozenset(), TIMESTEPS, 1.0) is other
    assert mix(one, other, frozenset(), TIMESTEPS - 1, 1.0) not in (one, other), "the first step of sampling is not the other's"
    assert mix(one, other, frozenset(), 1, 1.0) not in (one, other)


@pytest.mark.parametrize(
    "text, layers", [("", set()), ("0", {0}), ("15", {15}), ("4-6", {4, 5, 6}), ("0 - 1, 9;11 3-3", {0, 1, 9, 11, 3})]
)
def test_lists_of_layers(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["16", "0-16", "5-4", "a", "1-", "-1", "1.5", "100", "1--2"])
def test_lists_that_are_none(text):
    with pytest.raises(ValueError, match="is no layer"):
        parse_layers(text)
