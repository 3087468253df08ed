#!/usr/bin/env python3
"""Change the code in small ways and see whether a test notices.

python scripts/mutate.py trainer tests/unit [--number 100] [--seed 0] [--slowest 5]

Takes changes out of all that could be made to the modules of a folder (or to one file), at random or all of them, makes one at a
time in a copy of the repository, and runs there the tests that run the changed line, the quickest first, until one fails. Lists
the changes that none noticed: a test is missing, or the change makes no difference. Needs the environment of `dev.py test` and
a system that can fork; COMFYUI_PATH.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def mutants(source: str) -> Iterator[tuple[tuple[int, int], str, str]]:
    """Every change of a module: its first and last line, what it is in words, the changed source."""
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns"):
                continue
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                for new in changes_of(node) if isinstance(node, ast.AST) else ():
                    last = node.test.end_lineno if isinstance(node, ast.If | ast.While) else node.end_lineno
                    before = value[place] if place is not None else value
                    put(parent, name, place, ast.copy_location(new, node))
                    yield (node.lineno, last), f"{shown(node)}  ->  {shown(new)}", ast.unparse(ast.fix_missing_locations(tree))
                    put(parent, name, place, before)


def put(parent: ast.AST, name: str, place: int | None, node: object) -> None:
    if place is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[place] = node


def shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0][:100]


class Watch:
    """A pytest plugin that notes which lines of the pack each test runs, and how long it takes."""

    def __init__(self, root: Path):
        from coverage import Coverage

        self.seconds: dict[str, float] = {}
        self._coverage = Coverage(data_file=None, include=[f"{root}/trainer/*", f"{root}/nodes/*"], config_file=False)
        self._coverage.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        started = time.monotonic()
        yield
        if item.nodeid.isprintable() and "\\" not in item.nodeid:  # others cannot be asked for by name
            self.seconds[item.nodeid] = time.monotonic() - started

    def lines(self) -> dict[str, dict[int, list[str]]]:
        """Tests by file and line; "" stands for what is run on import."""
        self._coverage.stop()
        data = self._coverage.get_data()
        return {path: data.contexts_by_lineno(path) for path in data.measured_files()}


class Tests:
    """What tests there are for a line: those that run it, the quickest first."""

    def __init__(self, seconds: dict[str, float], lines: dict[str, dict[str, list[str]]], slowest: float):
        self._seconds = {test: time for test, time in seconds.items() if time < slowest}
        self._lines = lines

    def of(self, path: Path, first: int, last: int) -> list[str]:
        lines = self._lines.get(str(path), {})
        found = {test for line in range(first, last + 1) for test in lines.get(str(line), [])}
        if "" in found:  # run on import: any test of the module may notice
            found |= {test for tests in lines.values() for test in tests}
        return sorted(found & self._seconds.keys(), key=self._seconds.__getitem__)

    def time(self, tests: list[str]) -> float:
        return sum(self._seconds[test] for test in tests)


def look(root: Path, tests: list[str], slowest: float) -> Tests | None:
    """Run all tests once, as nothing is changed yet; None if one fails."""
    into = root.parent / "watched.json"
    child = os.fork()
    if child == 0:
        os.chdir(root)
        watch = Watch(root)
        code = pytest.main(["-q", "-p", "no:cacheprovider", "--durations", "5", *tests], plugins=[watch])
        files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
        modules = [name for name, file in files.items() if file and str(root) not in file]
        into.write_text(json.dumps([watch.seconds, watch.lines(), modules]))
        os._exit(int(code))
    failed = os.waitpid(child, 0)[1]
    seconds, lines, modules = json.loads(into.read_text())
    preload(modules)
    return None if failed or is_noticed(root, [*seconds, "--collect-only"], 120) else Tests(seconds, lines, slowest)


def is_noticed(root: Path, tests: list[str], limit: float) -> bool:
    """Whether a test fails, or all take more than `limit` seconds; in a child that has its parent's torch and ComfyUI."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.chdir(root)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
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


def preload(modules: list[str]) -> None:
    """What every child would import anew, but for the pack and its tests."""
    for name in modules:
        with contextlib.suppress(Exception):  # some cannot be imported by themselves
            importlib.import_module(name)


def prepare_host() -> None:
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", help="a folder or a file")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--number", type=int, default=100, help="of changes; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slowest", type=float, default=5, help="seconds: a test that takes more is left out")
    options = parser.parse_args()
    prepare_host()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "pack"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".dev", "__pycache__"))
        (root / ".dev").symlink_to(ROOT / ".dev")  # the models that tests keep there
        tests = look(root, options.tests, options.slowest)
        if tests is None:
            print("the tests fail without any change")
            return 2
        files = sorted((root / options.code).glob("*.py")) if (root / options.code).is_dir() else [root / options.code]
        every = [(path, *mutant) for path in files for mutant in mutants(path.read_text(encoding="utf-8"))]
        random.Random(options.seed).shuffle(every)
        chosen = sorted(every[: options.number or None], key=lambda change: change[:2])
        left = 0
        for path, node_lines, what, source in chosen:
            those = tests.of(path, *node_lines)
            original = path.read_text(encoding="utf-8")
            path.write_text(source, encoding="utf-8")
            noticed = bool(those) and is_noticed(root, those, 3 * tests.time(those) + 20)
            path.write_text(original, encoding="utf-8")
            if not noticed:
                left += 1
                ran = f"{len(those)} tests run it" if those else "no test runs it"
                print(f"{path.relative_to(root)}:{node_lines[0]}: {what}   ({ran})", flush=True)
        print(f"{left} of {len(chosen)} changes were not noticed; there are {len(every)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
