"""A token is read as it was written, whatever it is made of."""

import pytest
import torch

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import load_token, save_token

PARTS = {
    "one vector": lambda: Embedding(torch.randn(1, 8)),
    "three vectors": lambda: Embedding(torch.randn(3, 8)),
    "a mapper": lambda: NeTIMapper(8, norm_scale=0.4),
    "a plain mapper": lambda: NeTIMapper(8, positional=False, bypass=False),
    "the smallest mapper": lambda: NeTIMapper(8, hidden=1, num_w=1, time_anchors=1, layers=2, nested_dropout=0.0),
}


@pytest.mark.parametrize("subject", PARTS)
@pytest.mark.parametrize("attractors", [(), ("a mapper", "one vector")])
def test_a_token_is_read_as_it_was_written(tmp_path, subject, attractors):
    kind = "neti" if "mapper" in subject else "textual_inversion"
    parts = [PARTS[name]() for name in (subject, *attractors)]
    token = PersonalizedToken("<x>", "cat", kind, 8, parts[0], tuple(parts[1:]), {"step": 3, "settings": {"seed": 1}})
    save_token(token, tmp_path / "x.safetensors")
    read = load_token(tmp_path / "x.safetensors")
    for name in ("placeholder", "super_category", "kind", "width", "record"):
        assert getattr(read, name) == getattr(token, name)
    for before, after in zip(parts, (read.subject, *read.attractors), strict=True):
        assert type(before) is type(after)
        was, now = before.state_dict(), after.state_dict()
        assert was.keys() == now.keys() and all(torch.equal(was[key], now[key]) for key in was)
        if isinstance(before, NeTIMapper):
            assert before.config == after.config
