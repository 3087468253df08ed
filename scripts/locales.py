#!/usr/bin/env python3
"""Write locales/en/nodeDefs.json from the nodes' own names, descriptions and tooltips.

    python scripts/dev.py locales              write it
    python scripts/dev.py locales --check      say what is not as it would be written, or is missing in another language

The other languages are written by hand, with the same keys as English. The page reads a text as a message in which some
characters have a meaning (`SPECIAL`), and not all versions of it let them be escaped. So no translation has any of them, and an
English text with one is left out: the page then shows the node's own.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ROOT / "locales"
SPECIAL = re.compile(r"[{}@|$]")


def read(language: str, file: str) -> dict:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def english(schemas: list) -> dict:
    """nodeDefs.json of these schemas, as the host's page looks texts up: inputs by id, outputs by number."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            **_unless_special(description=schema.description),
            "inputs": {part.id: _part(part) for part in schema.inputs},
            "outputs": {str(number): _part(part) for number, part in enumerate(schema.outputs)},
        }
        for schema in schemas
    }


def _part(part) -> dict:
    return {"name": part.display_name or part.id, **_unless_special(tooltip=part.tooltip)}


def _unless_special(**texts: str) -> dict:
    return {key: text for key, text in texts.items() if not SPECIAL.search(text)}


def texts(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every text of a locale's file with its key, such as `AttractorTrain.inputs.steps.tooltip`."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def wanted(schemas: list) -> set[str]:
    """The keys that every translation has: English's, and those that English leaves out."""
    found = {key for key, _ in texts(english(schemas))}
    for schema in schemas:
        found.add(f"{schema.node_id}.description")
        found |= {f"{schema.node_id}.inputs.{part.id}.tooltip" for part in schema.inputs}
        found |= {f"{schema.node_id}.outputs.{number}.tooltip" for number in range(len(schema.outputs))}
    return found


def written(tree: dict) -> str:
    return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"


def faults(schemas: list) -> list[str]:
    """What is wrong with the files; empty if all is well."""
    found = []
    if read("en", "nodeDefs.json") != english(schemas):
        found.append("locales/en/nodeDefs.json: run python scripts/dev.py locales")
    keys, main = wanted(schemas), {key for key, _ in texts(read("en", "main.json"))}
    for folder in sorted(path for path in LOCALES.iterdir() if path.is_dir()):
        for file, expected in (("nodeDefs.json", keys), ("main.json", main)):
            have = dict(texts(read(folder.name, file)))
            name = f"locales/{folder.name}/{file}"
            if folder.name != "en":
                found += [f"{name}: {key} is missing" for key in sorted(expected - set(have))]
            found += [f"{name}: {key} is of nothing" for key in sorted(set(have) - expected)]
            found += [f"{name}: {key} has a special character" for key, text in have.items() if SPECIAL.search(text)]
            found += [f"{name}: {key} is empty" for key, text in have.items() if not text.strip()]
    return found


def schemas_of_the_pack() -> list:
    """The nodes' schemas, from the pack imported into a ComfyUI that has nothing of the user's."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, tempfile.mkdtemp()
    import utils.extra_config  # noqa: F401  # before the host's nodes.py puts another `utils` first

    spec = importlib.util.spec_from_file_location("attractor", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = sys.modules["attractor"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    asyncio.run(extension.on_load())
    return [node.define_schema() for node in asyncio.run(extension.get_node_list())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, schemas = parser.parse_args().check, schemas_of_the_pack()
    if not check:
        path = LOCALES / "en" / "nodeDefs.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written(english(schemas)), encoding="utf-8", newline="\n")
    found = faults(schemas)
    print("\n".join(found or ["all languages are whole"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
