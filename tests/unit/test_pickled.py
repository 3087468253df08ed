"""The reader of pickles, instruction by instruction: what it makes of each, and the sentence for each that is wrong."""

import io
import pickletools

import pytest
import torch

from attractor.trainer import pickled
from attractor.trainer.pickled import Held, PickleReader, UnsafeCheckpoint
from attractor.trainer.reading import BadFile

SET, PARAMETER = b"c__builtin__\nset\n", b"ctorch.nn.parameter\nParameter\n"
FLOAT, REBUILD = b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor\n"
TYPED = b"ctorch._tensor\n_rebuild_from_type_v2\n"
STORAGE = b"(Vstorage\n" + FLOAT + b"V0\nVcpu\nK\x05tQ"  # of five numbers
NUMBERS = torch.arange(5.0).numpy().tobytes()


def read(program):
    reader = PickleReader("x.pt", io.BytesIO(program + b"."), lambda key, size: bytearray(NUMBERS), frozenset({"a.B"}))
    return reader.value()


def tensor(size, stride, offset=0, storage=STORAGE):
    return REBUILD + b"(" + storage + b"K" + bytes([offset]) + numbers(size) + numbers(stride) + b"tR"


def numbers(values):
    return b"(" + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values) + b"t"


@pytest.mark.parametrize(
    "program, expected",
    [
        (b"K\x01K\x020", 1),  # POP
        (b"K\x01(0", 1),  # POP of a mark
        (b"K\x01(K\x02K\x031", 1),  # POP_MARK
        (b"K\x01K\x02\x86", (1, 2)),
        (b"K\x01K\x02K\x03\x87", (1, 2, 3)),
        (b"(K\x01K\x02l", [1, 2]),
        (b"]K\x01a(K\x02K\x03e", [1, 2, 3]),
        (b"}Va\nK\x01s(Vb\nK\x02u", {"a": 1, "b": 2}),
        (b"(Va\nK\x01d", {"a": 1}),
        (b"K\x05q\x07K\x06q\x0900h\x07h\x09\x86", (5, 6)),
        (b"K\x05\x94K\x06\x9400h\x00h\x01\x86", (5, 6)),
        (SET + b"(K\x01K\x02t\x85R", [1, 2]),
        (b"ctorch\nSize\n(K\x02K\x03t\x85R", (2, 3)),
        (b"K\x012", 1),  # DUP
    ],
)
def test_values(program, expected):
    assert read(program) == expected


@pytest.mark.parametrize(
    "program, said",
    [
        (b"\x85", "a tuple lacks parts"),
        (b"}K\x01a", "not a list"),
        (b"]K\x01K\x02s", "not a dictionary"),
        (b"K\x01Va\n\x93", "a class has no name"),
        (b"Va\nK\x01\x93", "a class has no name"),
        (b"K\x01)R", "not a function"),
        (SET + b"K\x01R", "not a function"),
        (FLOAT + b")R", "torch.FloatStorage is called"),
        (b"ca\nB\n)R]b", "a.B has no attributes"),
        (b"(K\x01d", "a name has no value"),
        (b"(]K\x01d", "a list is used as a name"),
        (b"(\x8a\x09" + (2**64).to_bytes(9, "little") + b"K\x01d", "is used as a name"),
        (SET + b"K\x01\x85R", "made of something else"),
        (STORAGE.replace(b"Vstorage", b"Vother"), "a storage is described wrongly"),
        (STORAGE.replace(b"V0\n", b"K\x00"), "a storage is described wrongly"),
        (STORAGE.replace(b"K\x05", b"J" + (-5).to_bytes(4, "little", signed=True)), "a storage is described wrongly"),
        (STORAGE.replace(b"K\x05t", b"K\x05K\x01t"), "a storage is described wrongly"),
        (STORAGE.replace(b"K\x05", b"\x88"), "a storage is described wrongly"),
        (STORAGE.replace(b"K\x05", b"K\x06"), "numbers of storage '0' are missing"),
        (tensor([3], [1, 1]), "a tensor's shape is wrong"),
        (tensor([1] * 9, [1] * 9), "a tensor's shape is wrong"),
        (tensor([-3], [1]), "a tensor's shape is wrong"),
        (tensor([3], [1]).replace(numbers([3]), b"]K\x03a"), "a tensor's shape is wrong"),
        (tensor([3], [1], offset=3), "a tensor is larger than its numbers"),
        (tensor([2, 3], [3, 1]), "a tensor is larger than its numbers"),
        (TYPED + b"(" + PARAMETER + FLOAT + b")tR", "a tensor is made by torch.nn.parameter.Parameter"),
    ],
)
def test_what_is_wrong_is_said(program, said):
    with pytest.raises(ValueError, match=said):
        read(program)


def test_tensors_are_views_of_their_numbers():
    assert read(tensor([3], [1], offset=2)).tolist() == [2, 3, 4]
    assert read(tensor([2, 2], [2, 1], offset=1)).tolist() == [[1, 2], [3, 4]]
    assert read(tensor([0], [1], offset=9)).shape == (0,)
    typed = TYPED + b"(" + REBUILD + FLOAT + tensor([3], [1]).removeprefix(REBUILD).removesuffix(b"R") + b"tR"
    assert read(typed).tolist() == [0, 1, 2]
    older = STORAGE.replace(b"K\x05t", b"K\x05Nt")
    assert read(tensor([5], [1], storage=older)).tolist() == [0, 1, 2, 3, 4]


def test_a_class_that_is_permitted_is_held_with_its_attributes():
    held = read(b"ca\nB\n)R}Vx\nK\x01sb")
    assert isinstance(held, Held) and held.attributes == {"x": 1}
    assert read(b"}(Vx\nK\x01u}b") == {"x": 1}, "a dictionary's own attributes mean nothing"
    with pytest.raises(UnsafeCheckpoint, match="os.system"):
        read(b"cos\nsystem\n(Vls\ntR")
    with pytest.raises(UnsafeCheckpoint, match="INST"):
        read(b"(Vls\nios\nsystem\n")


def test_a_tensor_beyond_bounds_is_refused_before_it_is_made():
    with pytest.raises(BadFile, match="which no token has"):
        read(tensor([2**30], [0]))


@pytest.mark.parametrize(
    "program, more",
    [(b"K\x01K\x020", 0), (SET + b"(K\x01K\x02K\x03t\x85R", 3), (tensor([3], [1]), 50)],
    ids=["instructions", "collections", "tensors"],
)
def test_work_is_bounded(monkeypatch, program, more):
    work = len(list(pickletools.genops(program + b"."))) + more
    monkeypatch.setattr(pickled, "_MOST_WORK", work)
    read(program)
    monkeypatch.setattr(pickled, "_MOST_WORK", work - 1)
    with pytest.raises(BadFile, match="more parts than any token's file"):
        read(program)
