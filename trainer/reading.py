"""The boundary that everything read from disk comes through: sizes are bounded before anything is read, and whatever is wrong
with a file becomes one error that names it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import safe_open
from torch import Tensor

MEGABYTE = 2**20
LARGEST_JSON = 64 * MEGABYTE  # a run of 100,000 steps has curves of about 10 MB
LARGEST_HEADER = 16 * MEGABYTE  # of safetensors; a state with 1,000 attractors has one of 6 MB
MOST_TENSORS = 100_000


class BadFile(ValueError):
    """A file that cannot be used. The message is a sentence with its name, what is wrong and what to do."""


class Checked(BaseModel):
    """The fields that a file must have, of exactly their types; numbers are finite. Further fields are left out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Checked)


@contextmanager
def reading(name: str, what: str, remedy: str = "Get it again.") -> Iterator[None]:
    """Turns whatever comes out of the libraries into a `BadFile`: damaged files make them raise nearly anything.

    name: of the file. what: it should be, such as "a readable safetensors file".

    Raises:
        BadFile: in place of any other error but MemoryError.
    """
    try:
        yield
    except (BadFile, MemoryError):
        raise
    except Exception as error:
        raise BadFile(f"{name} is damaged or not {what} ({why(error)}). {remedy}") from error


def why(error: Exception) -> str:
    """An error on one short line, without the path that the system puts into it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"{shown(error.args[0] if error.args else '')} is missing"
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return shown_text(f"{place}: {first['msg']}" if place else first["msg"])
    if isinstance(error, IndexError | TypeError | AttributeError):  # of our own code: nothing a user could read
        return "its parts do not fit together"
    return shown_text(str(error)) or type(error).__name__


def shown(value: Any) -> str:
    """A value out of a file for a message: short, on one line, whatever it is."""
    return shown_text(ascii(value)) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def shown_text(text: str, most: int = 160) -> str:
    line = " ".join(text[: 4 * most].encode("utf-8", "replace").decode().split())
    return line if len(line) <= most else line[: most - 3] + "..."


def check_size(path: Path, most: int, what: str) -> int:
    """Bytes of a file.

    Raises:
        BadFile: it is larger than `most`, missing, or not a file but a folder, a pipe or a device.
    """
    with reading(path.name, what):
        if not path.is_file():  # opening a pipe would wait forever
            raise ValueError("it is a folder, a pipe or a device" if path.exists() else "it is not there")
        size = path.stat().st_size
    if size > most:
        raise BadFile(
            f"{path.name} has {size / MEGABYTE:,.0f} MB, and {what} has at most {most / MEGABYTE:,.0f} MB. Choose another file."
        )
    return size


def read_json(path: str | os.PathLike, most: int = LARGEST_JSON, remedy: str = "Get it again.") -> Any:
    """The content of a JSON file.

    Raises:
        BadFile: it is missing, too large or not JSON.
    """
    path = Path(path)
    check_size(path, most, "such a JSON file")
    with reading(path.name, "a JSON file", remedy):
        return json.loads(path.read_bytes().decode("utf-8-sig"))


def conform(
    schema: type[Schema], content: Any, name: str, remedy: str = "Get it again.", what: str = "what it should be"
) -> Schema:
    """Content of a file as its schema describes it.

    Raises:
        BadFile: it has other fields, types or ranges; names the first.
    """
    with reading(name, what, remedy):
        return schema.model_validate(content)


def faults(schema: type[Checked], content: Any) -> list[str]:
    """Names of the fields of a file's content that are not as its schema describes them; empty if all are."""
    try:
        schema.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return list(dict.fromkeys(str((*problem["loc"], "")[0]) for problem in found))
    return []


def safetensors_header(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Metadata and shapes of a safetensors file, by name, without reading what is in the tensors.

    Raises:
        BadFile: it is none, or its header is beyond bounds.
    """
    path = Path(path)
    size = check_size(path, 2**62, "a safetensors file")
    with reading(path.name, "a readable safetensors file"):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length + 8 > size:
                raise ValueError("it is cut short" if size else "it is empty")
            if length > LARGEST_HEADER:
                raise BadFile(
                    f"{path.name} has a header of {length / MEGABYTE:,.0f} MB, and {LARGEST_HEADER // MEGABYTE} MB is the most "
                    "that is read. Choose another file."
                )
            content = file.read(length)
        parts = content.count(b"{") - 1  # a tensor has one; told before any of them is made
        if parts > MOST_TENSORS:
            raise BadFile(f"{path.name} has {parts:,} tensors, and {MOST_TENSORS:,} is the most. Choose another file.")
        header = json.loads(content)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are none")
        return metadata, {name: tuple(entry["shape"]) for name, entry in header.items()}


def read_safetensors(path: str | os.PathLike, names: list[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, all or some.

    Raises:
        BadFile: it cannot be read.
    """
    path = Path(path)
    safetensors_header(path)
    with reading(path.name, "a readable safetensors file"), safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
