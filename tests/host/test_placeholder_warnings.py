"""What is warned of in prompts and placeholders, and what is not."""

import pytest

from attractor.nodes.host.placeholders import bracket_warning, missed_placeholders

MISSED = {
    "the word alone": ("a photo of my-dog", ["<my-dog>"], ["my-dog", "<my-dog>"]),
    "at the start, in capitals": ("My-Dog, on the beach", ["<my-dog>"], ["<my-dog>"]),
    "one of two": ("<my-cat> beside my-dog", ["<my-cat>", "<my-dog>"], ["<my-dog>"]),
    "in emphasis": ("a photo of (my-dog:1.2)", ["<my-dog>"], ["<my-dog>"]),
}
FINE = {
    "with its brackets": ("a photo of <my-dog>", ["<my-dog>"]),
    "both": ("<dog> beside another dog", ["<dog>"]),
    "no subject at all": ("blurry, ugly", ["<my-dog>"]),
    "part of another word": ("my-dogs and my-dog-v2 and not-my-dog", ["<my-dog>"]),
    "a stock embedding of that name": ("embedding:my-dog", ["<my-dog>"]),
    "another placeholder that holds it": ("<my-dog-v2>", ["<my-dog>", "<my-dog-v2>"]),
    "a placeholder without brackets": ("a photo of dog7", ["dog7"]),
}


@pytest.mark.parametrize("kind", MISSED)
def test_a_word_that_lacks_its_brackets_is_named_with_the_remedy(kind):
    text, placeholders, words = MISSED[kind]
    assert all(word in missed_placeholders(text, placeholders) for word in words)


@pytest.mark.parametrize("kind", FINE)
def test_no_warning_without_a_cause(kind):
    assert missed_placeholders(*FINE[kind]) == ""


@pytest.mark.parametrize("placeholder, warned", [("<my-dog>", False), ("my-dog", True), ("<my-dog", True), ("<a><b>", True)])
def test_a_placeholder_without_brackets_is_warned_of(placeholder, warned):
    assert bool(bracket_warning(placeholder)) == warned
