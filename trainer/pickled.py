"""A pickle as plain data: a reader of its own for the few instructions that dictionaries and numbers need.

Nothing is ever imported or called: a name in the file is looked up in the table below, and one that is not there is refused.
Nothing is allocated that the file does not hold.
"""

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .reading import MEGABYTE, BadFile, shown, shown_text

LARGEST = 100 * MEGABYTE  # of a file and of what it unpacks to; official NeTI mappers have 2 to 5 MB
_MOST_WORK = 500_000  # instructions; official mappers have about 1,200
_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
_SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class UnsafeCheckpoint(BadFile):
    """The file holds more than numbers; nothing in it was executed."""


@dataclass
class Held:
    """An object of a class that is known by name: nothing but its attributes."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A function or class that the file names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    numbers: Tensor  # flat


class PickleReader:
    """One pickle. storage(key, bytes): the buffer of a storage."""

    def __init__(self, name: str, file: io.BytesIO, storage: Callable[[str, int], bytearray], classes: frozenset[str]):
        self._name, self._file, self._buffer, self._classes = name, file, storage, classes
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def value(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self._file):
            self._spend(1)
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _CONSTANTS:
                self._push(argument)
            elif name in _EMPTY:
                self._push(_EMPTY[name]())
            elif name in _SINGLE:
                self._push(_SINGLE[name])
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise self._refused(f"the pickle instruction {name}")
        raise ValueError("it is cut short")

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > _MOST_WORK:
            raise BadFile(f"{self._name} has more parts than any token's file ({_MOST_WORK:,} steps). Choose another file.")

    def _refused(self, what: str) -> UnsafeCheckpoint:
        return UnsafeCheckpoint(
            f"{self._name} was not loaded: beside numbers it holds code or objects ({shown_text(what, 100)}) that would be run "
            "on loading, which a token file has no need of. Nothing of it was executed. Get the file from a source you trust, "
            "as safetensors."
        )

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _drop(self, _: Any) -> None:
        self._stack = self._marks.pop()

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._drop(None)

    def _tuple(self, count: int) -> None:
        if count > len(self._stack):
            raise ValueError("a tuple lacks parts")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("something is added to what is not a list")
        self._stack[-1] += items

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise ValueError("a name is given in what is not a dictionary")
        self._stack[-1].update(_pairs(items))

    def _put(self, key: int | None) -> None:
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def _find(self, full: str) -> None:
        """A name: of the table, a type of numbers or a permitted class."""
        module, _, name = full.rpartition(".")
        module = {"__builtin__": "builtins"}.get(module, module)
        full = f"{module}.{name}"
        if full not in _CALLS and full not in self._classes and not (module == "torch" and name in _TYPES):
            raise self._refused(full)
        self._stack.append(_Name(full))

    def _find_on_stack(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a class has no name")
        self._find(f"{module}.{name}")

    def _call(self, _: Any) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise ValueError("something is called that is not a function")
        if called.name in self._classes:
            self._stack.append(Held(called.name))
        elif called.name in _CALLS:
            self._push(_CALLS[called.name](self, *arguments))
        else:
            raise ValueError(f"{called.name} is called")

    def _build(self, _: Any) -> None:
        """Attributes of an object. Those of a dictionary, such as a state dict's versions, mean nothing here."""
        state = self._stack.pop()
        if isinstance(self._stack[-1], Held):
            if not isinstance(state, dict):
                raise ValueError(f"{self._stack[-1].name} has no attributes")
            self._stack[-1].attributes = state

    def _persistent(self, _: Any) -> None:
        """A storage: ("storage", type, key, device, count), in the older layout with None at the end; there also a class:
        ("module", class, its file, its source)."""
        kind, of, *rest = self._stack.pop()
        if kind == "module" and isinstance(of, _Name):
            return self._push(of)
        key, _device, count, *view = rest
        dtype = _TYPES[of.name.removeprefix("torch.")]
        if kind != "storage" or not isinstance(key, str) or not _is_count(count) or any(part is not None for part in view):
            raise ValueError("a storage is described wrongly")
        buffer = self._buffer(key, count * dtype.itemsize)
        if len(buffer) < count * dtype.itemsize:
            raise ValueError(f"numbers of storage {shown(key)} are missing")
        numbers = torch.frombuffer(buffer, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        self._stack.append(_Storage(numbers))

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> Tensor:
        """A view of a storage, which must lie within it."""
        self._spend(50)
        numbers = storage.numbers
        sound = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8
        if not sound or not all(map(_is_count, (offset, *size, *stride))):
            raise ValueError("a tensor's shape is wrong")
        last = offset + sum((s - 1) * step for s, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= len(numbers):
            raise ValueError("a tensor is larger than its numbers")
        if math.prod(size) * numbers.itemsize > LARGEST:
            raise BadFile(
                f"{self._name} has a tensor of shape {shown_text(str(size))}, which no token has. Choose another file."
            )
        return numbers.as_strided(size, stride, offset) if math.prod(size) else numbers.new_empty(size)

    def _typed_tensor(self, function: Any, _type: Any, arguments: tuple, *_state: Any) -> Any:
        if not function.name.startswith("torch._utils."):
            raise ValueError(f"a tensor is made by {function.name}")
        return _CALLS[function.name](self, *arguments)

    def _items(self, items: Any = ()) -> list[Any]:
        if not isinstance(items, list | tuple):
            raise ValueError("a collection is made of something else")
        self._spend(len(items))
        return list(items)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a name has no value")
    return _dictionary(zip(items[::2], items[1::2], strict=True))


def _dictionary(pairs: Any) -> dict[Any, Any]:
    """Only of plain keys: hashing others can take forever."""
    found = {}
    for key, value in pairs:
        if not isinstance(key, str | float | bool | None) and not (isinstance(key, int) and abs(key) < 2**60):
            raise ValueError(f"{shown(key)} is used as a name")
        found[key] = value
    return found


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda reader, *pairs: _dictionary(reader._items(*pairs)),
    "builtins.set": PickleReader._items,
    "torch.Size": lambda reader, *sizes: tuple(reader._items(*sizes)),
    "torch._utils._rebuild_tensor": PickleReader._tensor,
    "torch._utils._rebuild_tensor_v2": PickleReader._tensor,
    "torch._utils._rebuild_parameter": lambda reader, tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": PickleReader._typed_tensor,
    "torch.nn.parameter.Parameter": lambda reader, tensor=None, *_: tensor,
    "torch.Tensor": lambda reader, *_: None,
}

_ACTIONS: dict[str, Callable[[PickleReader, Any], None]] = {
    "MARK": PickleReader._mark,
    "POP": PickleReader._pop,
    "POP_MARK": PickleReader._drop,
    "DUP": lambda reader, _: reader._push(reader._stack[-1]),
    "TUPLE": lambda reader, _: reader._push(tuple(reader._since_mark())),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "LIST": lambda reader, _: reader._push(reader._since_mark()),
    "DICT": lambda reader, _: reader._push(_pairs(reader._since_mark())),
    "APPEND": lambda reader, _: reader._extend([reader._stack.pop()]),
    "APPENDS": lambda reader, _: reader._extend(reader._since_mark()),
    "ADDITEMS": lambda reader, _: reader._extend(reader._since_mark()),
    "SETITEM": lambda reader, _: reader._set_items([reader._stack.pop(-2), reader._stack.pop()]),
    "SETITEMS": lambda reader, _: reader._set_items(reader._since_mark()),
    "PUT": PickleReader._put,
    "BINPUT": PickleReader._put,
    "LONG_BINPUT": PickleReader._put,
    "MEMOIZE": PickleReader._put,
    "GET": lambda reader, key: reader._push(reader._memo[key]),
    "BINGET": lambda reader, key: reader._push(reader._memo[key]),
    "LONG_BINGET": lambda reader, key: reader._push(reader._memo[key]),
    "GLOBAL": lambda reader, name: reader._find(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": PickleReader._find_on_stack,
    "REDUCE": PickleReader._call,
    "NEWOBJ": PickleReader._call,
    "BUILD": PickleReader._build,
    "BINPERSID": PickleReader._persistent,
}
