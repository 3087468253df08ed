"""Prompts with learnable tokens, and the batched encode, on a toy text encoder."""

import pytest
import torch
from toy_method import ToyText

from attractor.trainer.conditioning import TokenRows, add_bypass, encode_layers, encode_rows
from attractor.trainer.pools import Slot, build_prompt


class MixingText(ToyText):
    """A text encoder of one causal mean and one matrix; tokens are letters of words' beginnings."""

    width, length = 6, 12

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(40, self.width, generator=generator)
        self.matrix = torch.randn(self.width, self.width, generator=generator) / 3

    def tokenize(self, text):
        return [2 + (ord(word[0]) + len(word)) % 38 for word in text.split()]

    def states(self, embeddings):
        return embeddings + torch.tanh(super().states(embeddings) @ self.matrix)


@pytest.fixture
def text():
    return MixingText()


def test_slots_hold_the_tokens_place(text):
    prompt = build_prompt(text, "a photo of a {} in the {}", Slot("dog"), Slot("beach"))
    words = text.tokenize("a photo of a"), text.tokenize("in the")
    assert prompt.ids[:9] == (text.bos, *words[0], text.eos, *words[1], text.eos)
    assert prompt.positions == {"dog": 5, "beach": 8}
    assert len(prompt.ids) == text.length and set(prompt.ids[9:]) == {text.eos}


def test_words_are_put_in_before_tokenising(text):
    prompt = build_prompt(text, "a {}ish thing {}", "dog", Slot("x"))
    assert prompt.ids[1:4] == tuple(text.tokenize("a dogish thing"))
    assert prompt.positions == {"x": 4}


def test_a_prompt_that_does_not_fit_is_refused(text):
    with pytest.raises(ValueError, match="takes 13 tokens; the text encoder holds 12"):
        build_prompt(text, "a b c d e f g h i j {}", Slot("x"))


def test_bypass_moves_a_state_by_a_fifth_of_its_own_length():
    states = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    bypass = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    step = add_bypass(states, bypass, 0.2) - states
    torch.testing.assert_close(step.norm(dim=-1), 0.2 * states.norm(dim=-1))
    torch.testing.assert_close(step / step.norm(dim=-1, keepdim=True), bypass / bypass.norm(dim=-1, keepdim=True))


def test_a_place_without_a_bypass_among_others_stays_bit_for_bit():
    states, bypass = torch.randn(3, 6), torch.randn(3, 6)
    moved = add_bypass(states, bypass, torch.tensor([0.2, 0.0, 0.1]))
    assert torch.equal(moved[1], states[1])
    assert torch.equal(moved[0], add_bypass(states, bypass, 0.2)[0]), "a number for all and one for each are the same"
    torch.testing.assert_close((moved - states).norm(dim=-1) / states.norm(dim=-1), torch.tensor([0.2, 0.0, 0.1]))


def rows_for(text, layers, count, requires_grad=False):
    """A token at position 3 of every prompt but the first, another in every row, with bypass and without."""
    generator = torch.Generator().manual_seed(3)
    every = torch.arange(layers * count)
    some = every[every % count > 0]
    vectors = [torch.randn(len(rows), text.width, generator=generator, requires_grad=requires_grad) for rows in (some, every)]
    bypass = torch.randn(len(some), text.width, generator=generator, requires_grad=requires_grad)
    return [
        TokenRows(some, torch.full_like(some, 3), vectors[0], bypass),
        TokenRows(every, torch.full_like(every, 5), vectors[1], None),
    ]


def test_k_and_v_differ_where_a_bypass_is_and_nowhere_else(text):
    k, v = encode_rows(text, text.embed(torch.randint(40, (4, 12))), rows_for(text, 1, 4))
    differs = (k != v).any(-1)
    assert differs[1:, 3].all() and differs.sum() == 3


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 11, 1000])
def test_neither_chunks_nor_what_is_encoded_once_changes_contexts_or_gradients(text, chunk, recompute):
    prompts = text.embed(torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(4)))

    def encoded(encode):
        tokens = rows_for(text, 4, 3, requires_grad=True)
        k, v = encode(tokens)
        (k.square().sum() + (v * torch.arange(6.0)).sum()).backward()
        return k, v, *(part.grad for token in tokens for part in (token.vectors, token.bypass) if part is not None)

    plain = encoded(lambda tokens: [part.unflatten(0, (4, 3)) for part in encode_rows(text, prompts.repeat(4, 1, 1), tokens)])
    for wanted, found in zip(
        plain, encoded(lambda tokens: encode_layers(text, prompts, 4, tokens, chunk, recompute)), strict=True
    ):
        torch.testing.assert_close(found, wanted)
