"""The repository's Python files, and what each of them imports, read without importing any."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("trainer", "nodes", "scripts", "tests")


def python_files(*folders):
    """Files of these folders, and the entry point at the root where no folder is named."""
    inside = [path for folder in folders or FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return inside if folders else [ROOT / "__init__.py", *inside]


def address(path):
    """A file's path from the root, with slashes: `nodes/host/unet.py`."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path):
    """The syntax tree of a file; not to be changed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def packages_imported(path):
    """Full names of the modules that a file imports absolutely, at its top or inside functions."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
    return found


def own_modules_imported(path):
    """Addresses of the repository's own files that a file imports relatively, at its top or inside functions.

    Raises:
        ValueError: a relative import leads to no file.
    """
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = path.parents[node.level - 1]
            target = package.joinpath(*(node.module or "").split("."))
            names = [alias.name for alias in node.names]
            found |= {address(_file(target / name) or _file(target) or _missing(path, node)) for name in names}
    return found


def _file(module):
    """The file of a module at this path without suffix, or None."""
    files = (module.with_name(module.name + ".py"), module / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _missing(path, node):
    raise ValueError(f"{address(path)}, line {node.lineno}: {'.' * node.level}{node.module or ''} is not a module here")
