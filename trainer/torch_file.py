"""PyTorch files (.pt, .bin) as plain data, in both layouts of torch.save: the zip archive and the older one."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

from .pickled import LARGEST, PickleReader
from .reading import MEGABYTE, BadFile, check_size, reading

_MOST_MEMBERS = 10_000
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older layout


def read_pickle(path: str | os.PathLike, classes: frozenset[str] = frozenset()) -> Any:
    """What `torch.save` wrote: dicts, lists, tuples (sets come as lists), numbers, texts and tensors on the CPU.

    classes: full names of further classes that the file may hold; an object of one comes as a `Held`.

    Raises:
        UnsafeCheckpoint: it names anything else, which loading in the usual way would import or run.
        BadFile: it is damaged, not a PyTorch file or larger than any token's.
    """
    path = Path(path)
    check_size(path, LARGEST, "a PyTorch file with a token")
    with reading(path.name, "a PyTorch file"):
        content = path.read_bytes()
        if not content:
            raise ValueError("it is empty")
        if content.startswith(b"PK"):
            return _read_archive(path.name, content, classes)
        return _read_older(path.name, content, classes)


def _read_archive(name: str, content: bytes, classes: frozenset[str]) -> Any:
    if content.count(b"PK\x01\x02") > _MOST_MEMBERS:  # entries, before they are listed
        raise BadFile(f"{name} has more than {_MOST_MEMBERS:,} parts, which no token has. Choose another file.")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > LARGEST:
            raise BadFile(
                f"{name} unpacks to {unpacked / MEGABYTE:,.0f} MB, and a PyTorch file with a token has at most "
                f"{LARGEST // MEGABYTE} MB. Choose another file."
            )
        if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members.values()):
            raise ValueError("it is packed in a way that PyTorch does not use")
        (main,) = [member for member in members if member == "data.pkl" or member.endswith("/data.pkl")]
        root = main.removesuffix("data.pkl")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a machine of another byte order")
        buffers: dict[str, bytearray] = {}

        def storage(key: str, _size: int) -> bytearray:
            if key not in buffers:
                buffers[key] = bytearray(archive.read(f"{root}data/{key}"))
            return buffers[key]

        return PickleReader(name, io.BytesIO(archive.read(main)), storage, classes).value()


def _read_older(name: str, content: bytes, classes: frozenset[str]) -> Any:
    """Five pickles, the fourth of which is the content; then the storages, each after its length."""
    file, buffers, left = io.BytesIO(content), {}, len(content)

    def storage(key: str, size: int) -> bytearray:
        nonlocal left
        if key not in buffers:
            left -= size
            if left < 0:
                raise ValueError("it is cut short")
            buffers[key] = bytearray(size)  # filled below
        return buffers[key]

    def value() -> Any:
        return PickleReader(name, file, storage, classes).value()

    if (value(), value()) != (_MAGIC, _PROTOCOL):
        raise ValueError("it does not begin as one")
    if not value()["little_endian"]:
        raise ValueError("it was written on a machine of another byte order")
    found, keys = value(), value()
    for key in keys:
        count = int.from_bytes(file.read(8), "little")  # of numbers, whose size their tensors know
        buffer = buffers[key]
        whole = len(buffer) % count == 0 if count else not buffer
        if not whole or file.readinto(buffer) != len(buffer):
            raise ValueError("it is cut short")
    if set(keys) != set(buffers):
        raise ValueError("numbers are missing")
    return found
