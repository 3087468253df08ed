"""Seeded damage to files: bytes flipped, cut and moved; values in JSON and tensors in token files replaced by odd ones."""

import copy
import json
import os
import random
import struct

import torch

# 1 is what CI has time for: python -m pytest tests/unit/test_fuzz_files.py with ATTRACTOR_FUZZ=100 runs for minutes.
THOROUGHNESS = float(os.environ.get("ATTRACTOR_FUZZ", "1"))
ODD = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**9, 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf")),
    *("", "x", "\ud800", "\0", "<a b>", "x" * 5_000, "../../x", [], {}, [[]], {"": None}, [1, "2"], {"vectors": 1}),
]
TYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64),
    *(torch.uint8, torch.float8_e4m3fn),
]
VALUES = [float("nan"), float("inf"), -float("inf"), 0.0, 1e38, -1e38, 1e-45, 7e4, 1.0]


def rounds(count):
    """Seeds for so many rounds, more if ATTRACTOR_FUZZ says so."""
    return range(int(count * THOROUGHNESS))


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes with one to four faults."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        if not content:
            break
        # Most of a file are numbers; what is at its ends says what they are.
        near = draw.choice([len(content), min(len(content), 600)])
        place = draw.randrange(near)
        if draw.random() < 0.3:
            place = len(content) - 1 - place
        kind = draw.choice(["flip", "byte", "cut", "remove", "repeat", "zero", "word"])
        size = draw.choice([1, 2, 4, 8, 100])
        if kind == "flip":
            content[place] ^= 1 << draw.randrange(8)
        elif kind == "byte":
            content[place] = draw.randrange(256)
        elif kind == "cut":
            del content[place:]
        elif kind == "remove":
            del content[place : place + size]
        elif kind == "repeat":
            content[place:place] = content[place : place + size]
        elif kind == "zero":
            content[place : place + size] = bytes(len(content[place : place + size]))
        else:
            word = draw.choice([struct.pack("<q", draw.choice([-1, 2**62, 2**31, 0])), b"\xff" * 4, b"\0" * 8, b"9" * 20])
            content[place : place + len(word)] = word
    return bytes(content)


def places(value, here=()):
    """Paths to every value within dictionaries and lists."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*here, key)
            yield from places(value[key], (*here, key))


def odd_value(content, draw: random.Random):
    """A copy of a content with a value, at any depth, replaced, renamed or taken out."""
    content = copy.deepcopy(content)
    found = list(places(content))
    if not found:
        return draw.choice(ODD)
    *path, last = draw.choice(found)
    parent = content
    for key in path:
        parent = parent[key]
    kind = draw.choice(["replace", "replace", "replace", "remove", "rename", "tensor"])
    if kind == "remove":
        del parent[last]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw.choice([str(last) + "x", "", "\ud800", str(last)[:-1]])] = parent.pop(last)
    elif isinstance(parent[last], torch.Tensor):
        parent[last] = odd_tensor(parent[last], draw)
    else:
        parent[last] = copy.deepcopy(draw.choice(ODD))
    return content


def odd_tensor(tensor, draw: random.Random):
    """Another type, shape or value."""
    tensor = tensor.clone()
    kind = draw.choice(["type", "shape", "value", "values"])
    if kind == "type":
        return tensor.to(draw.choice(TYPES))
    if kind == "shape":
        shapes = [(0,), (), (0, 768), (*tensor.shape, 1), tensor.shape[1:], tensor.shape[::-1], (1, *tensor.shape)]
        shape = draw.choice(shapes)
        return torch.ones(shape, dtype=tensor.dtype)
    if kind == "values" or not tensor.numel() or not tensor.is_floating_point():
        return torch.full_like(tensor, draw.choice(VALUES) if tensor.is_floating_point() else 1)
    tensor.view(-1)[draw.randrange(tensor.numel())] = draw.choice(VALUES)
    return tensor


def as_json(content) -> str:
    return json.dumps(content)
