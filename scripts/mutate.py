#!/usr/bin/env python3
"""Change the code in small ways and see whether a test notices.

python scripts/mutate.py trainer tests/unit/test_method.py tests/unit/test_step.py ... [--number 100] [--seed 0] [--seconds 700]

Takes changes at random out of all that could be made to the modules of a folder (or to one file), makes one at a time in a copy
of the repository, and runs the tests there until one fails. Lists the changes that none noticed: a test is missing, or the
change makes no difference. Needs the environment of `dev.py test` and a system that can fork; COMFYUI_PATH for tests/host.
"""

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
}


def changes_of(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in a node's place."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        yield replaced(node, op=OPERATORS[type(node.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield replaced(node, ops=[OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield replaced(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield replaced(node, value=ast.Constant(None))
    leave_out = isinstance(node, ast.AugAssign | ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    if leave_out:
        yield ast.Pass()
    if isinstance(node, ast.Call) and node.keywords:
        yield replaced(node, keywords=node.keywords[:-1])


def replaced(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Every change of a module: its line, what it is in words, the changed source."""
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns"):
                continue
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                for new in changes_of(node) if isinstance(node, ast.AST) else ():
                    before = value[place] if place is not None else value
                    put(parent, name, place, ast.copy_location(new, node))
                    yield node.lineno, f"{shown(node)}  ->  {shown(new)}", ast.unparse(ast.fix_missing_locations(tree))
                    put(parent, name, place, before)


def put(parent: ast.AST, name: str, place: int | None, node: object) -> None:
    if place is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[place] = node


def shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0][:100]


def is_noticed(copy_root: Path, tests: list[str], limit: float, silent: bool = True) -> bool:
    """Whether a test fails, or all take more than `limit` seconds; in a child that has its parent's torch and ComfyUI."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.chdir(copy_root)
        if silent:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def preload(tests: list[str]) -> None:
    """What every child would import anew, but for what is mutated."""
    sys.dont_write_bytecode = True
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import torch._dynamo  # noqa: F401  (torch.utils.checkpoint imports it at first use)

    if any("tests/host" in test for test in tests):
        sys.path.insert(0, os.environ["COMFYUI_PATH"])
        from comfy.cli_args import args

        args.cpu = True
        import comfy.sd  # noqa: F401


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", help="a folder or a file")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=700, help="no new change after so long")
    options = parser.parse_args()
    preload(options.tests)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pack"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".dev", "__pycache__"))
        started = time.monotonic()
        if is_noticed(root, options.tests, limit=600, silent=False):
            print("the tests fail without any change")
            return 2
        limit = 3 * (time.monotonic() - started) + 10
        files = sorted((root / options.code).glob("*.py")) if (root / options.code).is_dir() else [root / options.code]
        every = [(path, *mutant) for path in files for mutant in mutants(path.read_text(encoding="utf-8"))]
        chosen = random.Random(options.seed).sample(every, min(options.number, len(every)))
        started, tried, left = time.monotonic(), 0, []
        for path, line, what, source in chosen:
            if time.monotonic() - started > options.seconds:
                break
            original = path.read_text(encoding="utf-8")
            path.write_text(source, encoding="utf-8")
            noticed, tried = is_noticed(root, options.tests, limit), tried + 1
            path.write_text(original, encoding="utf-8")
            if not noticed:
                left.append(what)
                print(f"{path.relative_to(root)}:{line}: {what}", flush=True)
        print(f"{len(left)} of {tried} changes were not noticed; there are {len(every)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
