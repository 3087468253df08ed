"""A token is read as it was written, whatever it is made of."""

import pytest
import torch
from token_headers import header_of

from attractor.trainer.concept import Embedding, LayeredEmbedding, Mixed, PersonalizedToken, config_of, kind_of
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.reading import BadFile
from attractor.trainer.token_file import load_token, save_token

PARTS = {
    "one vector": lambda: Embedding(torch.randn(1, 8)),
    "three vectors": lambda: Embedding(torch.randn(3, 8)),
    "a mapper": lambda: NeTIMapper(8, norm_scale=0.4),
    "a plain mapper": lambda: NeTIMapper(8, positional=False, bypass=False),
    "two vectors a layer": lambda: LayeredEmbedding(torch.randn(16, 2, 8)),
    "a mix": lambda: Mixed(
        NeTIMapper(8, norm_scale=0.4),
        Mixed(Embedding(torch.randn(1, 8)), LayeredEmbedding(torch.randn(16, 1, 8)), {3}, 7),
        {2, 9},
        600,
        0.3,
    ),
    "the smallest mapper": lambda: NeTIMapper(8, hidden=1, num_w=1, time_anchors=1, layers=2, nested_dropout=0.0),
}


@pytest.mark.parametrize("subject", PARTS)
@pytest.mark.parametrize("attractors", [(), ("a mapper", "one vector")])
def test_a_token_is_read_as_it_was_written(tmp_path, subject, attractors):
    parts = [PARTS[name]() for name in (subject, *attractors)]
    kind = kind_of(parts[0])
    token = PersonalizedToken("<x>", "cat", kind, 8, parts[0], tuple(parts[1:]), {"step": 3, "settings": {"seed": 1}})
    save_token(token, tmp_path / "x.safetensors")
    read = load_token(tmp_path / "x.safetensors")
    for name in ("placeholder", "super_category", "kind", "width", "record"):
        assert getattr(read, name) == getattr(token, name)
    for before, after in zip(parts, (read.subject, *read.attractors), strict=True):
        assert type(before) is type(after)
        was, now = before.state_dict(), after.state_dict()
        assert was.keys() == now.keys() and all(torch.equal(was[key], now[key]) for key in was)
        assert config_of(before) == config_of(after)


def saved(path, name):
    concept = PARTS[name]()
    save_token(PersonalizedToken("<x>", "cat", kind_of(concept), 8, concept), path)
    return path


@pytest.mark.parametrize("name", PARTS)
def test_a_file_has_the_first_version_that_knows_what_is_in_it(tmp_path, name):
    """Older packs refuse the second by its number, and read all others."""
    version = header_of(saved(tmp_path / "x.safetensors", name))["version"]
    assert version == (2 if name in ("two vectors a layer", "a mix") else 1)


def test_a_mix_that_is_no_mix_is_refused(tmp_path):
    path = saved(tmp_path / "x.safetensors", "a mix")
    good = header_of(path)["representations"]["subject"]["mixed"]
    for change, words in (
        ({"layers": [16]}, "less than 16"),
        ({"layers": [0] * 17}, "at most 16 items"),
        ({"blend": 1.5}, "less than or equal to 1"),
        ({"starts_at": -1}, "greater than or equal to 0"),
        ({"geometry": {"vectors": 2}}, "is damaged"),
        ({"geometry": {"layered": 76}}, "less than or equal to 75"),
        ({"geometry": {"mixed": 3}}, "mixed"),
        ({"more": 3}, "more"),
    ):
        header_of(path, representations={"subject": {"mixed": {**good, **change}}})
        with pytest.raises(BadFile, match=words):
            load_token(path)
    header_of(path, representations={"subject": {"mixed": good}}, kind="neti")
    with pytest.raises(BadFile, match="calls itself neti"):
        load_token(path)


def test_a_mix_of_parts_that_do_not_fit_together_is_refused(tmp_path):
    unequal = Mixed(Embedding(torch.randn(1, 8)), Embedding(torch.randn(2, 8)), {3})
    save_token(PersonalizedToken("<x>", "cat", "mixed", 8, unequal), tmp_path / "x.safetensors")
    with pytest.raises(BadFile, match="1 and 2 vectors"):
        load_token(tmp_path / "x.safetensors")


@pytest.mark.parametrize("deeper", ["geometry", "appearance"])
def test_mixes_are_read_so_deep_and_no_deeper(tmp_path, deeper):
    def mix(count):
        concept = Embedding(torch.randn(1, 8))
        for _ in range(count - 1):
            one, other = Embedding(torch.randn(1, 8)), concept
            concept = Mixed(*((other, one) if deeper == "geometry" else (one, other)), {3})
        save_token(PersonalizedToken("<x>", "cat", "mixed", 8, concept), tmp_path / "x.safetensors")
        return load_token(tmp_path / "x.safetensors")

    assert mix(16).kind == "mixed"
    for count in (17, 200):
        with pytest.raises(BadFile, match="16"):
            mix(count)
