"""What every token must be: each bound from both sides, each sentence where it belongs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from token_headers import header_of, write_header

from attractor.trainer import token_check
from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.reading import BadFile, conform
from attractor.trainer.token_check import MapperConfig, build_mapper, check_token, check_weights, embedding_shape, numbers
from attractor.trainer.token_file import load_token, save_token
from attractor.trainer.tuned import PREFIX

MAPPER = {"width": 8, "hidden": 2, "num_w": 3, "time_anchors": 2, "layers": 2}
PAIR = {"m.lora_up.weight": (5, 2), "m.lora_down.weight": (2, 7)}


def token_of(concept=None, **changes):
    parts = {"placeholder": "<x>", "super_category": "cat", "kind": "textual_inversion", "width": 8}
    return PersonalizedToken(**{**parts, "subject": concept or Embedding(torch.ones(1, 8)), **changes})


@pytest.mark.parametrize("shape", [(1,), (8192,), (1, 1), (1000, 8)])
def test_shapes_that_an_embedding_may_have(shape):
    assert embedding_shape("x", shape) == (shape if len(shape) == 2 else (1, *shape))


@pytest.mark.parametrize("shape", [(), (0,), (8193,), (0, 8), (1001, 8), (1, 0), (1, 1, 8)])
def test_shapes_that_an_embedding_has_not(shape):
    with pytest.raises(BadFile, match="1 to 1000 vectors"):
        embedding_shape("x", shape)


@pytest.mark.parametrize(
    "name, lowest, highest, wrong",
    [
        ("width", 1, 8192, (0, 8193)),
        ("hidden", 1, 8192, (0, 8193)),
        ("num_w", 1, 65536, (0, 65537)),
        ("time_anchors", 1, 1000, (0, 1001)),
        ("layers", 2, 64, (1, 65)),
        ("nested_dropout", 0, 1, (-0.1, 1.1)),
        ("norm_scale", 1e-9, 1e4, (0, 1e4 + 1, float("nan"))),
    ],
)
def test_the_bounds_of_a_mappers_configuration(name, lowest, highest, wrong):
    for value in (lowest, highest):
        assert getattr(conform(MapperConfig, {**MAPPER, name: value}, "x"), name) == value
    for value in wrong:
        with pytest.raises(BadFile, match=name):
            conform(MapperConfig, {**MAPPER, name: value}, "x")
    with pytest.raises(BadFile, match="other"):
        conform(MapperConfig, {**MAPPER, "other": 1}, "x")


@pytest.mark.parametrize("change", ["missing", "too many", "another shape", "no tensor"])
def test_a_mapper_has_just_its_own_tensors(change):
    state = NeTIMapper(**MAPPER).state_dict()
    key = "net.0.weight"
    words = {
        "missing": rf"{key} is missing, and \[2, 4\] goes with its configuration",
        "too many": r"extra has the shape \[1\], and nothing like it belongs",
        "another shape": rf"{key} has the shape \[4, 2\], and \[2, 4\] goes",
        "no tensor": f"{key} is 3, not a tensor",
    }[change]
    changed = {
        "missing": {name: value for name, value in state.items() if name != key},
        "too many": {**state, "extra": torch.ones(1)},
        "another shape": {**state, key: state[key].T},
        "no tensor": {**state, key: 3},
    }[change]
    with pytest.raises(BadFile, match=words):
        build_mapper("x", MapperConfig(**MAPPER), changed)


def test_a_mapper_is_built_as_it_was_and_draws_nothing():
    state = NeTIMapper(**MAPPER).state_dict()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mapper = build_mapper("x", MapperConfig(**MAPPER), state)
    assert torch.equal(before, torch.get_rng_state()), "reading a file draws from the numbers of whoever reads"
    assert all(torch.equal(value, state[key]) for key, value in mapper.state_dict().items())


def test_numbers_are_a_copy_and_finite():
    given = torch.ones(2, 8)
    copy = numbers("x", "key", given)
    given.fill_(7)
    assert copy.max() == 1
    for bad in (float("nan"), float("inf")):
        with pytest.raises(BadFile, match="not finite"):
            numbers("x", "key", torch.tensor([1.0, bad]))
    with pytest.raises(BadFile, match="floating-point"):
        numbers("x", "key", torch.ones(2).to_sparse())


def test_tensors_that_are_parts_of_a_lora_file():
    check_weights("x", {**PAIR, "m.alpha": (), "a.diff": (3, 3), "a.diff_b": (3,), "b.set_weight": (2, 2)})


@pytest.mark.parametrize(
    "shapes, key",
    [
        ({"a.other": (3, 3)}, "a.other"),
        ({"a.diff": ()}, "a.diff"),
        ({"m.alpha": (1,)}, "m.alpha"),
        ({"m.lora_up.weight": (5, 2)}, "m.lora_up"),
        ({"m.lora_down.weight": (2, 7)}, "m.lora_down"),
        ({**PAIR, "m.lora_up.weight": (5, 3)}, "m.lora_up"),
        ({**PAIR, "m.lora_up.weight": (2,)}, "m.lora_up"),
        ({**PAIR, "m.lora_down.weight": (2, 7, 1)}, "m.lora_up"),
    ],
)
def test_tensors_that_are_not(shapes, key):
    with pytest.raises(BadFile, match=f"{key}.* is no part of a LoRA file"):
        check_weights("x", shapes)


def test_so_many_tensors_of_weights_and_no_more(monkeypatch):
    monkeypatch.setattr(token_check, "MOST_TENSORS", 2)
    check_weights("x", {f"{n}.diff": (1,) for n in range(2)})
    with pytest.raises(BadFile, match="3 tensors of weights, and 2 is the most"):
        check_weights("x", {f"{n}.diff": (1,) for n in range(3)})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"kind": "neti"}, "calls itself neti"),
        ({"phrase": "sks"}, "has no place for the token"),
        ({"phrase": "{} {}"}, "has no place for the token"),
        ({"placeholder": "x" * 10_000}, "placeholder .* is not a text of at most"),
        ({"super_category": 3}, "super-category 3 is not a text"),
        ({"width": 16}, "vectors of width 8 and 16"),
        ({"attractors": (Embedding(torch.ones(1, 4)),)}, "vectors of width 4 and 8"),
        ({"concept": Embedding(torch.full((1, 8), 10_001.0))}, "beyond 10,000"),
        ({"concept": Embedding(torch.full((1, 8), 1e-7))}, "only zeros"),
        ({"attractors": (Embedding(torch.zeros(1, 8)),)}, "only zeros"),
    ],
)
def test_a_token_that_cannot_work(changes, words):
    with pytest.raises(BadFile, match=words):
        check_token(token_of(**changes), "x")


def test_a_token_with_the_largest_values_works():
    token = token_of(Embedding(torch.full((1, 8), 10_000.0)))
    assert check_token(token, "x") is token


@pytest.mark.parametrize("at", [0.0, 999.0])
def test_a_mapper_is_looked_at_from_the_first_to_the_last_time(at):
    """Here it gives numbers that are too large at one end only."""
    mapper = NeTIMapper(8, hidden=4, num_w=3)
    bent = type("Bent", (NeTIMapper,), {})
    whole = NeTIMapper.forward

    def forward(self, timesteps, *args, **kwargs):
        result = whole(self, timesteps, *args, **kwargs)
        worst = torch.where(timesteps == at, 1e5, 1.0)[:, None]
        return tuple(part * worst for part in result) if isinstance(result, tuple) else result * worst

    bent.forward = forward
    check_token(token_of(mapper, kind="neti"), "x")
    token_check.CLASS_OF_KIND["bent"] = bent
    mapper.__class__ = bent
    try:
        with pytest.raises(BadFile, match="beyond"):
            check_token(token_of(mapper, kind="bent"), "x")
    finally:
        del token_check.CLASS_OF_KIND["bent"]


def test_a_header_that_is_none_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_token(token_of(), path)
    good = header_of(path)
    for header in (
        [],
        {"format": "other", "version": 1},
        {**good, "version": "1"},
        {**good, "version": True},
    ):
        write_header(path, header)
        with pytest.raises(BadFile, match="its header is not that of a token"):
            load_token(path)


def test_weights_in_a_file_are_checked(tmp_path):
    path = tmp_path / "x.safetensors"
    token = token_of(phrase="{} cat", weights={f"{PREFIX}m.diff": torch.ones(2, 2)})
    save_token(token, path)
    assert header_of(path)["version"] == 2 and load_token(path).weights.keys() == token.weights.keys()
    save_token(token_of(phrase="{} cat"), path)
    assert header_of(path)["version"] == 2, "a phrase alone is of the second version too"
    save_token(token, path)
    metadata = {"attractor": json.dumps(header_of(path))}
    save_file({**load_file(path), f"{PREFIX}m.alpha": torch.ones(2)}, path, metadata)
    with pytest.raises(BadFile, match="alpha is no part of a LoRA file"):
        load_token(path)
    save_token(token, path)
    header_of(path, version=1)
    with pytest.raises(BadFile, match="nothing like it belongs"):
        load_token(path)


def test_the_names_beside_an_official_mapper_are_no_token(tmp_path):
    torch.save({"<x>": torch.ones(1, 8)}, tmp_path / "learned_embeds-steps-9.bin")
    assert load_token(tmp_path / "learned_embeds-steps-9.bin").placeholder == "<x>"
    (tmp_path / "mapper-steps-9.pt").touch()
    with pytest.raises(BadFile, match="Choose mapper-steps-9.pt"):
        load_token(tmp_path / "learned_embeds-steps-9.bin")
