"""The rules of the house: what lies where, what may import what, and how long anything may be."""

import ast
import sys
from collections import Counter

import pytest

from source_files import ROOT, address, own_modules_imported, packages_imported, python_files, tree

SHIPPED = python_files("trainer", "nodes")
LONGEST_MODULE, LONGEST_FUNCTION = 350, 60  # lines
MAY_HAVE_ONE_NAME = {"__init__.py", "conftest.py"}

# Who imports what. Each line may import from lines above it only, so there is no cycle. `SHARED` is open to all of nodes/, and
# trainer/ to all.
ARROWS = {
    "trainer": (),
    "nodes/errors": (),
    "nodes/link_types": (),
    "nodes/locks": ("nodes/errors",),
    "nodes/pictures": ("nodes/errors",),
    "nodes/plotting": ("nodes/errors",),
    "nodes/host": (),
    "nodes/pretrained": ("nodes/host",),
    "nodes/masking": ("nodes/pretrained", "nodes/host"),
    "nodes/evaluation": ("nodes/pretrained", "nodes/host"),
    "nodes/training": ("nodes/evaluation", "nodes/host"),
    "nodes/nodes_checkpoints": ("nodes/host",),
    "nodes/nodes_tokens": ("nodes/host",),
    "nodes/nodes_mixing": (),
    "nodes": (  # its __init__.py
        *("nodes/host", "nodes/masking", "nodes/evaluation", "nodes/training"),
        *("nodes/nodes_checkpoints", "nodes/nodes_tokens", "nodes/nodes_mixing"),
    ),
}
SHARED = ("nodes/errors", "nodes/locks", "nodes/pictures", "nodes/plotting", "nodes/link_types")


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=address)


def part(file):
    """The line of ARROWS that a file, given by its address, belongs to."""
    folders = file.split("/")
    if folders[0] == "trainer":
        return "trainer"
    if len(folders) > 2:
        return "/".join(folders[:2])
    return file.removesuffix("/__init__.py").removesuffix(".py")


def is_node(found):
    return isinstance(found, ast.ClassDef) and any(getattr(item, "name", "") == "define_schema" for item in found.body)


@each(SHIPPED)
def test_no_module_is_too_long_to_be_read_at_once(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@each(SHIPPED)
def test_no_function_is_too_long_to_be_read_at_once(path):
    functions = [found for found in ast.walk(tree(path)) if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(found.name, found.end_lineno - found.lineno + 1) for found in functions]
    assert not [(name, length) for name, length in lengths if length > LONGEST_FUNCTION]


@each([ROOT / "__init__.py", *SHIPPED])
def test_every_module_says_what_it_is_for_in_its_first_line(path):
    assert (ast.get_docstring(tree(path), clean=False) or "").splitlines()[:1] not in ([], [""])


def test_no_two_files_have_the_same_name():
    count = Counter(path.name for path in python_files())
    assert {name for name, times in count.items() if times > 1} <= MAY_HAVE_ONE_NAME


@each(SHIPPED)
def test_files_with_nodes_and_no_others_are_named_nodes(path):
    assert path.name.startswith("nodes_") == any(is_node(found) for found in ast.walk(tree(path)))


@each(python_files("trainer"))
def test_the_trainer_is_plain_torch(path):
    assert {name.split(".")[0] for name in packages_imported(path)} <= {
        "torch",
        "safetensors",
        "pydantic",
        *sys.stdlib_module_names,
    }


@each(SHIPPED)
def test_imports_go_only_where_the_table_of_arrows_allows(path):
    own = part(address(path))
    shared = () if own == "trainer" or own in SHARED else SHARED
    allowed = {own, "trainer", *ARROWS[own], *shared}
    assert {part(file) for file in own_modules_imported(path)} <= allowed


@each(SHIPPED)
def test_the_pack_is_never_imported_by_a_name(path):
    # ComfyUI loads it under a name made of its folder's path.
    assert not {name.split(".")[0] for name in packages_imported(path)} & {"attractor", "trainer"}


def test_the_table_of_arrows_has_no_cycle():
    lines = list(ARROWS)
    for number, name in enumerate(lines):
        assert set(ARROWS[name]) <= set(lines[:number]), name
