"""The training templates, as the paper lists them, filled and tokenised."""

from dataclasses import replace

import pytest
import torch

from attractor.trainer.dataset import Batch, step_generator
from attractor.trainer.methods import BACKGROUND, PRIOR, SUBJECT
from attractor.trainer.own_prompts import photo_captions
from attractor.trainer.pools import (
    ONE_SLOT,
    TWO_SLOTS,
    Slot,
    build_prompt,
    draw_prompt_rows,
    pool_prompt,
    subject_template,
    template_problems,
    tuning_rows,
)
from attractor.trainer.settings import TrainingSettings


class WordText:
    """One token a word; ids tell words apart."""

    bos, eos, length = 1, 0, 20

    def __init__(self):
        self.words = {}

    def tokenize(self, text):
        return [self.words.setdefault(word, 2 + len(self.words)) for word in text.split()]


def expected_ids(text, template, *words):
    """The whole prompt tokenised at once; a learnable token's word is the end token."""
    filled = template.format(*words).split()
    ids = [text.eos if word == "<>" else text.tokenize(word)[0] for word in filled]
    return (text.bos, *ids, *[text.eos] * (text.length - 1 - len(ids)))


@pytest.mark.parametrize("template", ONE_SLOT)
def test_subject_prompts(template):
    text = WordText()
    prompt = build_prompt(text, template, Slot("subject"))
    assert prompt.ids == expected_ids(text, template, "<>")
    assert prompt.positions == {"subject": 1 + template.split().index("{}")}


@pytest.mark.parametrize("template", TWO_SLOTS)
def test_background_and_joint_prompts(template):
    text = WordText()
    first, second = (1 + n for n, word in enumerate(template.split()) if word == "{}")
    background = build_prompt(text, template, "dog", Slot("attractor_3"))
    assert background.ids == expected_ids(text, template, "dog", "<>") and background.positions == {"attractor_3": second}
    joint = build_prompt(text, template, Slot("subject"), Slot("attractor_3"))
    assert joint.ids == expected_ids(text, template, "<>", "<>")
    assert joint.positions == {"subject": first, "attractor_3": second}


def test_background_prompts_hold_the_whole_phrase():
    text = WordText()
    ids = pool_prompt(TrainingSettings(super_category="teddy bear"), text, BACKGROUND, 0, 3).ids
    assert ids == expected_ids(text, TWO_SLOTS[0].replace("{}", "teddy bear", 1), "<>")


def test_a_prompt_fills_the_sequence_to_the_last_place_and_no_further():
    text = WordText()
    words = " ".join("abcdefghijklmnopqr"[: text.length - 3])
    prompt = build_prompt(text, words + " {}", Slot("subject"))
    assert prompt.positions == {"subject": text.length - 2} and prompt.ids[-1] == text.eos
    with pytest.raises(ValueError, match="takes 21 tokens; the text encoder holds 20"):
        build_prompt(text, "s " + words + " {}", Slot("subject"))


def test_the_lists_are_the_papers():
    assert ONE_SLOT[0] == "a photo of a {}" and TWO_SLOTS[0] == "a photo of a {} in the {}"
    words = {word for template in ONE_SLOT + TWO_SLOTS for word in template.split()}
    assert words == {
        "a",
        "the",
        "my",
        "one",
        "of",
        "in",
        "{}",
        "photo",
        "rendering",
        "rendition",
        "close-up",
        "cropped",
        "bright",
        "dark",
        "good",
        "cool",
        "nice",
        "clean",
        "dirty",
    }


@pytest.mark.parametrize("contrast_weight", [0.0, 0.1])
def test_what_the_unet_does_not_see_is_there_for_the_contrast_alone(contrast_weight):
    """With one prompt a sample: joint prompts that it would see anyway, or that InfoNCE needs, and no others."""
    settings = TrainingSettings(prompts_per_step="one", contrast_weight=contrast_weight, prior_weight=0.5)
    seen_pools = set()
    for step in range(20):
        rows = draw_prompt_rows(settings, WordText(), [2, 0, 1], step_generator(0, step))
        seen = [row for row in rows if row.seen]
        assert sorted(row.sample for row in seen) == [0, 1, 2] and {row.weight for row in seen} == {1.0}
        assert all(row.prior == (0.5 if row.pool == "subject" else 0) for row in seen)
        unseen = [row for row in rows if not row.seen]
        assert all(row.pool == "joint" and row.weight == row.prior == 0 for row in unseen)
        assert [row.sample for row in rows[:3]] == [0, 1, 2] or not contrast_weight
        assert bool(unseen) <= bool(contrast_weight)
        seen_pools |= {row.pool for row in seen}
    assert seen_pools == {"subject", "background", "joint"}


def test_each_sample_has_a_prompt_of_each_pool_weighted_by_its_share():
    weights = {"subject_weight": 2.0, "background_weight": 3.0, "joint_weight": 0.5, "prior_weight": 0.7}
    settings = TrainingSettings(prompts_per_step="all", **weights)
    rows = draw_prompt_rows(settings, WordText(), [4, 4], step_generator(0, 0))
    assert [(row.pool, row.sample, row.weight, row.prior) for row in rows] == [
        *(("joint", sample, 0.25, 0) for sample in (0, 1)),
        *(("subject", sample, 1.0, pytest.approx(0.35)) for sample in (0, 1)),
        *(("background", sample, 1.5, 0) for sample in (0, 1)),
    ]
    assert all("attractor_4" in row.prompt.positions for row in rows if row.pool != "subject")


def test_several_vectors_take_as_many_places():
    text = WordText()
    prompt = build_prompt(text, "a {} in the {}", Slot("subject", 3), Slot("attractor_0"))
    assert prompt.positions == {"subject": 2, "attractor_0": 7}
    assert prompt.ids[:9] == expected_ids(text, "a {} {} {} in the {}", "<>", "<>", "<>", "<>")[:9]
    with pytest.raises(ValueError, match="takes 21 tokens"):
        build_prompt(text, "a b c d e f g h i j k l m n {}", Slot("subject", 5))


def rows_of(settings, text):
    return draw_prompt_rows(settings, text, [0, 1, 2, 1], step_generator(0, 5))


def test_own_templates_change_the_subject_prompts_and_nothing_else():
    text = WordText()
    papers = rows_of(TrainingSettings(prompts_per_step="all"), text)
    own = rows_of(TrainingSettings(prompts_per_step="all", templates="a {} of mine\n\n  the {} again "), text)
    for before, after in zip(papers, own, strict=True):
        if before.pool == SUBJECT:
            assert after.prompt.ids in [expected_ids(text, template, "<>") for template in ("a {} of mine", "the {} again")]
        else:
            assert before == after
    assert (
        len(
            {
                row.prompt.ids
                for n in range(9)
                for row in draw_prompt_rows(TrainingSettings(templates="a {}\nthe {}"), text, [0], step_generator(0, n))
                if row.pool == SUBJECT
            }
        )
        == 2
    ), "both are drawn"


def test_a_photo_is_trained_on_its_caption_and_one_without_on_templates():
    text = WordText()
    settings = TrainingSettings(prompts_per_step="all", captions="a {} on a sofa\n\na {} outdoors\n")
    papers, own = rows_of(replace(settings, captions=""), text), rows_of(settings, text)
    for before, after, photo in zip(papers, own, [0, 1, 2, 1] * 3, strict=True):
        caption = {0: "a {} on a sofa", 2: "a {} outdoors"}.get(photo)
        if before.pool == SUBJECT and caption:
            assert after.prompt.ids == expected_ids(text, caption, "<>")
            assert subject_template(settings, after.template, photo) == caption, "the prior's prompt too"
        else:
            assert before == after


@pytest.mark.parametrize(
    "captions, found",
    [
        ("", []),
        (" \n\n", []),
        ("a {}", ["a {}"]),
        ("a {}\n", ["a {}"]),
        ("a {}\n\n", ["a {}", ""]),
        ("\r\na {}\r\n", ["", "a {}"]),
    ],
)
def test_captions_are_a_line_a_photo(captions, found):
    assert photo_captions(TrainingSettings(captions=captions)) == found


@pytest.mark.parametrize(
    "changes, photos, words",
    [
        ({"templates": "a {}\na photo"}, 2, ["templates: line 2 ('a photo') must hold {} once".replace("'", "")]),
        ({"templates": "{} and {}"}, 2, ["templates: line 1"]),
        ({"captions": "a {}\nthe {}\n"}, 3, ["captions: there are 2 lines and 3 photos"]),
        ({"captions": "a {}\ndog\n"}, 2, ["captions: line 2 (dog) must hold {} once"]),
        ({"templates": " ".join("abcdefghijklmnopqrs") + " {}"}, 2, ["templates: line 1 is too long", "Shorten it"]),
        ({"templates": "a {}", "vectors": 18}, 2, ["templates: line 1 is too long"]),
        ({"templates": "a {}", "captions": "\na {} there"}, 2, []),
    ],
)
def test_what_is_wrong_with_prompts_of_ones_own_is_said(changes, photos, words):
    problems = template_problems(TrainingSettings(**changes), WordText(), photos)
    assert len(problems) == bool(words)
    assert all(word in problems[0] for word in words)


@pytest.mark.parametrize("changes", [{"prompts_per_step": "one"}, {"templates": "a {}\nthe {}\nmy {}\none {}\ntwo {}"}])
def test_all_draws_come_from_the_steps_own_numbers(changes):
    """A resumed run draws the same ones."""

    def drawn(seed):
        torch.manual_seed(seed)
        settings = TrainingSettings(method="neti+", batch_size=8, **changes)
        rows = draw_prompt_rows(settings, WordText(), list(range(8)), step_generator(0, 5))
        return [(row.pool, row.sample, row.template, row.seen, row.weight) for row in rows]

    assert drawn(1) == drawn(2)


def batch_of(*wordings):
    nothing = torch.zeros(len(wordings), 4, 2, 2)
    return Batch(list(range(len(wordings))), nothing, nothing[:, :1], nothing, torch.zeros(len(wordings)), list(wordings))


def test_a_step_that_learns_weights_has_the_subject_and_the_class():
    """DreamBooth's word as it is, Custom Diffusion's as a token; each loss is a mean, and the prior's has its weight."""
    text, settings = WordText(), {"super_category": "dog", "class_weight": 0.5, "batch_size": 2}
    rows = tuning_rows(TrainingSettings(method="dreambooth", **settings), text, batch_of("{}", "{}"))
    assert [(row.pool, row.sample, row.weight) for row in rows] == [
        *((SUBJECT, n, 0.5) for n in range(2)),
        *((PRIOR, n, 0.25) for n in range(2)),
    ]
    assert rows[0].prompt.ids == expected_ids(text, "a photo of a sks dog") and not rows[0].prompt.positions
    assert rows[2].prompt.ids == expected_ids(text, "a photo of a dog") == rows[3].prompt.ids
    placed = tuning_rows(TrainingSettings(method="custom_diffusion", **settings), text, batch_of("{}", "very small {}"))
    assert placed[0].prompt.ids == expected_ids(text, "a photo of a {} dog", "<>")
    assert placed[1].prompt.ids == expected_ids(text, "very small a photo of a {} dog", "<>")
    assert placed[1].prompt.positions == {SUBJECT: 7}
    for off in ({"prior": "none"}, {"class_weight": 0.0}):
        alone = tuning_rows(TrainingSettings(method="dreambooth", **{**settings, **off}), text, batch_of("{}", "{}"))
        assert {row.pool for row in alone} == {SUBJECT}
