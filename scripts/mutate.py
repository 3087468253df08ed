#!/usr/bin/env python3
"""Change the code in small ways and see whether a test notices.

python scripts/mutate.py trainer tests/unit tests/host [--number 0] [--seed 0] [--most 30] [--seconds 5]

Takes changes out of all that could be made inside the functions of a folder's modules (or of one file), at random or all of
them. The tests run once, and it is noted which lines each of them runs. Then, for each change, a child of this process gets the
changed function in place of the right one and runs the tests that run the changed line, the quickest first, until one fails.
Lists the changes that none noticed: a test is missing, or the change makes no difference. Nothing on disk is changed. Needs the
environment of `dev.py test`, a system that can fork, and COMFYUI_PATH.
"""

import argparse
import ast
import copy
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

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


def mutants(source: str) -> Iterator[tuple[range, str, ast.Module]]:
    """Every change of a module: its lines, what it is in words, the changed module, which is changed back afterwards."""
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns"):
                continue
            for place, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                for new in changes_of(node) if isinstance(node, ast.AST) else ():
                    last = node.test.end_lineno if isinstance(node, ast.If | ast.While) else node.end_lineno
                    before = value[place] if place is not None else value
                    words = f"{shown(node)}  ->  {shown(new)}"
                    put(parent, name, place, ast.copy_location(new, node))
                    yield range(node.lineno, last + 1), words, ast.fix_missing_locations(tree)
                    put(parent, name, place, before)


def put(parent: ast.AST, name: str, place: int | None, node: object) -> None:
    if place is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[place] = node


def shown(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0][:100]


def codes(code: CodeType) -> Iterator[CodeType]:
    """Of all functions of a module, however deep."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from codes(part)


def place_of(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


class Mutation:
    """A pytest plugin: the run of all tests, and after it that of the changes."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.seconds: dict[str, float] = {}
        self.failed = False
        self._functions: tuple[Path | None, list[FunctionType]] = None, []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        lines = self.look(session.items)
        if self.failed:
            print("the tests fail without any change")
            return True
        items = {item.nodeid: item for item in session.items}
        left, done, started = 0, 0, time.monotonic()
        for path, span, words, tree in self.chosen():
            code = {place_of(part): part for part in codes(compile(tree, str(path), "exec"))}
            live = [f for f in self.functions(path) if place_of(f.__code__) in code]
            changed = [f for f in live if code[place_of(f.__code__)] != f.__code__]
            changed = [f for f in changed if code[place_of(f.__code__)].co_freevars == f.__code__.co_freevars]
            if not changed:
                continue  # what is run on import (constants, defaults, tables), or would need another closure
            done += 1
            names = {name for line in span for name in lines.get(str(path), {}).get(line, [])}
            names = sorted((name for name in names if name in items), key=self.seconds.__getitem__)[: self.options.most]
            if not names or not self.is_noticed([(f, code[place_of(f.__code__)]) for f in changed], [items[n] for n in names]):
                left += 1
                ran = f"{len(names)} tests run it" if names else "no test runs it"
                print(f"{path.relative_to(ROOT)}:{span[0]}: {words}   ({ran})", flush=True)
        print(f"{left} of {done} changes were not noticed, {time.monotonic() - started:.0f} s")
        return True

    def look(self, items: list[pytest.Item]) -> dict[str, dict[int, list[str]]]:
        """Run all tests once. Returns tests by file and line; those that take too long are left out."""
        from coverage import Coverage

        coverage = Coverage(data_file=None, include=[f"{ROOT}/trainer/*", f"{ROOT}/nodes/*"], config_file=False)
        coverage.start()
        for item, following in zip(items, [*items[1:], items[0].session], strict=True):  # the session's fixtures stay
            coverage.switch_context(item.nodeid)
            started = time.monotonic()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            self.seconds[item.nodeid] = time.monotonic() - started
        coverage.stop()
        data, found = coverage.get_data(), {}
        for path in data.measured_files():
            found[path] = {
                line: [test for test in tests if self.seconds.get(test, 1e9) < self.options.seconds]
                for line, tests in data.contexts_by_lineno(path).items()
            }
        return found

    def chosen(self) -> Iterator[tuple[Path, range, str, ast.Module]]:
        places = [ROOT / part for part in self.options.code.split(",")]
        files = [file for place in places for file in (sorted(place.glob("*.py")) if place.is_dir() else [place])]
        count = sum(1 for path in files for _ in mutants(path.read_text(encoding="utf-8")))
        most = self.options.number or count
        numbers = set(random.Random(self.options.seed).sample(range(count), min(most, count)))
        print(f"\n{len(numbers)} of {count} changes", flush=True)
        number = 0
        for path in files:
            for span, words, tree in mutants(path.read_text(encoding="utf-8")):
                if number in numbers:
                    yield path, span, words, tree
                number += 1

    def functions(self, path: Path) -> list[FunctionType]:
        """Those of a module that are alive."""
        if self._functions[0] != path:
            alive = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
            self._functions = path, [function for function in alive if function.__code__.co_filename == str(path)]
        return self._functions[1]

    def is_noticed(self, changes: list[tuple[FunctionType, CodeType]], items: list[pytest.Item]) -> bool:
        """Whether a test fails in a child with the changes, or all take far longer than before."""
        child = os.fork()
        if child == 0:
            items[0].config.pluginmanager.unregister(name="terminalreporter")
            for function, code in changes:
                function.__code__ = code
            for item, following in zip(items, [*items[1:], items[0].session], strict=True):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                if self.failed:
                    os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + 5 * sum(self.seconds[item.nodeid] for item in items) + 20
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status != 0
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", help="folders and files, with commas between")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--number", type=int, default=100, help="of changes; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=30, help="tests for a change")
    parser.add_argument("--seconds", type=float, default=5, help="a test that takes longer is left out")
    options = parser.parse_args()
    os.chdir(ROOT)
    return int(pytest.main(["-q", "-p", "no:cacheprovider", *options.tests], plugins=[Mutation(options)]))


if __name__ == "__main__":
    sys.exit(main())
