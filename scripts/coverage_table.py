"""Line coverage of trainer/ and nodes/ as a table: by folder, and the modules that the tests run least of.

`dev.py test` runs this after the tests, whose processes have each left a file in .dev/coverage.
"""

from pathlib import Path

from coverage import Coverage
from coverage.exceptions import NoDataError

ROOT = Path(__file__).resolve().parent.parent
LEAST = 10  # modules listed


def lines_of(module, measured):
    """(lines run, lines that can be run) of a module."""
    _, statements, _, missing, _ = measured.analysis2(str(module))
    return len(statements) - len(missing), len(statements)


def table(counts):
    """The table's lines. counts: {path of a module from the root: (lines run, lines that can be run)}."""
    folders = {}
    for path, (run, lines) in counts.items():
        before = folders.get(path.parent, (0, 0))
        folders[path.parent] = before[0] + run, before[1] + lines
    total = tuple(map(sum, zip(*counts.values(), strict=True)))
    rows = [*sorted(folders.items()), ("together", total)]
    least = sorted((item for item in counts.items() if item[1][1]), key=lambda item: item[1][0] / item[1][1])[:LEAST]
    return ["line coverage", *map(_row, rows), "least covered", *map(_row, least)]


def _row(item):
    name, (run, lines) = item
    return f"  {name!s:<40}{run / max(lines, 1):>7.1%}{lines - run:>6} of {lines} lines not run"


def main():
    measured = Coverage()
    try:
        measured.combine()
    except NoDataError:
        print("line coverage: the tests left nothing to count")
        return
    modules = [path for folder in ("trainer", "nodes") for path in sorted((ROOT / folder).rglob("*.py"))]
    counts = {path.relative_to(ROOT): lines_of(path, measured) for path in modules}
    print(*table(counts), sep="\n")


if __name__ == "__main__":
    main()
