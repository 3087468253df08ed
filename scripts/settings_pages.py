#!/usr/bin/env python3
"""Write the tables of settings in the help pages from the rows of trainer/setting_rows.py.

python scripts/settings_pages.py            write them
python scripts/settings_pages.py --check    say whether they are as they would be written; exit code 1 if not
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer.rows import GROUPS, Row  # noqa: E402
from trainer.settings import ROWS, TrainingSettings  # noqa: E402

PAGES = {"AttractorTrain": ["main"], "AttractorTrainingOptions": [group for group in GROUPS if group != "main"]}
BEGIN, END = "<!-- settings: written by scripts/settings_pages.py -->", "<!-- end of settings -->"


def table(group: str) -> str:
    """The settings of a group in Markdown."""
    lines = [f"### {GROUPS[group]}", "", "| setting | default | allowed | |", "|---|---|---|---|"]
    for name, row in ROWS.items():
        if row.group == group:
            default = getattr(TrainingSettings(), name)
            shown = f"`{default}`" if default != "" else "(empty)"
            doc = row.doc.replace("<", "\\<")  # a placeholder is not an HTML tag
            lines.append(f"| *{name}* | {shown} | {allowed(row, default)} | {doc} |")
    return "\n".join(lines)


def allowed(row: Row, default: object) -> str:
    if isinstance(default, bool):
        return "on, off"
    if isinstance(default, str) and not row.choices:
        return "text"
    return row.limits()


def written(page: str, groups: list[str]) -> str:
    """A page with its tables as they are to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    tables = "\n\n".join(table(group) for group in groups)
    return f"{head}{BEGIN}\n{tables}\n\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, stale = parser.parse_args().check, []
    for name, groups in PAGES.items():
        path = ROOT / "web" / "docs" / f"{name}.md"
        page = path.read_text(encoding="utf-8")
        wanted = written(page, groups)
        if page != wanted:
            stale.append(name)
            if not check:
                path.write_text(wanted, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: run python scripts/settings_pages.py")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
