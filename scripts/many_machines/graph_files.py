"""The graph in API format: its nodes, the part of it that a node needs, and the files of this machine that it names."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

from .jobs import Bundle, bundle
from .outcomes import WrongUse

EVALUATE, OPTIONS = "AttractorPDSTEvaluate", "AttractorPDSTEvaluateOptions"
TRAIN, TRAIN_OPTIONS = "AttractorTrain", "AttractorTrainingOptions"
DATASET, TOKEN_LOADER, CHECKPOINTS = "AttractorLoadPDST", "AttractorLoadNeTIMapper", "AttractorLoadTokenCheckpoints"
PHOTO_FOLDER, PHOTOS = "AttractorLoadSubjectImages", ("LoadImage", "LoadImageMask")

EXAMPLE, NEWEST = "attractor example", "newest training"  # choices that are no files of the user's
EXAMPLES = Path(__file__).resolve().parents[2] / "example_photos"


def read_json(path: Path) -> dict:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUse(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise WrongUse(f"{path} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise WrongUse(f"{path} is not a JSON object.")
    return found


def read_graph(path: Path) -> dict:
    """A graph in API format."""
    graph = read_json(path)
    if "nodes" in graph and "links" in graph:
        raise WrongUse(f"{path} is a workflow of the page. Save it with File > Export (API), and use that file.")
    if not all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in graph.values()):
        raise WrongUse(f"{path} is not a graph in API format (File > Export (API)).")
    return graph


def nodes_of(graph: dict, *types: str) -> list[str]:
    """Ids of the nodes of these types."""
    return [key for key, node in graph.items() if node["class_type"] in types]


def only_node(graph: dict, kind: str, name: str, path: Path) -> str:
    found = nodes_of(graph, kind)
    if len(found) != 1:
        raise WrongUse(f"{path} has {len(found)} nodes {name}; there has to be exactly one.")
    return found[0]


def needed_by(graph: dict, node: str) -> dict:
    """A copy of a node with all that it needs, and nothing else: no report, no preview, no other output."""
    kept, todo = {}, [node]
    while todo:
        key = todo.pop()
        if key not in kept:
            if key not in graph:
                raise WrongUse(f"the graph has no node {key}, to which another is wired.")
            kept[key] = copy.deepcopy(graph[key])
            todo += [value[0] for value in kept[key]["inputs"].values() if is_wire(value)]
    return {key: kept[key] for key in graph if key in kept}


def is_wire(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def typed(node: dict, *names: str) -> list[str]:
    """Text inputs of a node, which have to be typed into it: a wire does not say here what comes through it."""
    found = [node["inputs"].get(name, "all" if name == "subjects" else None) for name in names]
    for name, value in zip(names, found, strict=True):
        if not isinstance(value, str):
            raise WrongUse(f"{name} of {node['class_type']} is wired or missing: type it into the node.")
    return found


def number(inputs: dict, name: str, default: int) -> int:
    value = inputs.get(name, default)
    if not isinstance(value, int):
        raise WrongUse(f"{name} is wired: type it into the node, so that the work can be shared out.")
    return value


class LocalFiles:
    """The files that graphs name, in a ComfyUI folder of this machine.

    root: with models, input and output. tokens: further ones, by the names that graphs give them.
    """

    def __init__(self, root: Path):
        self._root, self._bundles = root, {}
        self.tokens: dict[str, Path] = {}

    def put_in(self, graph: dict) -> list[Bundle]:
        """Rewrite every file and folder that a graph names to where it will be on the servers; what has to be sent there."""
        found = [self._of_node(node) for node in graph.values()]
        return list({one.folder: one for one in found if one is not None}.values())

    def _of_node(self, node: dict) -> Bundle | None:
        """What a node reads; its input is rewritten."""
        kind, inputs = node["class_type"], node["inputs"]
        if kind == DATASET:
            found = self._bundle(node, "folder", "subjects", of=self._subjects, place="input")
            inputs["folder"] = f"input/{found.folder}"
        elif kind == TOKEN_LOADER:
            found = self._bundle(node, "file", of=self._token, place="output")
            inputs["file"] = f"{found.folder.removeprefix('neti/')}/{next(iter(found.files))}"
        elif kind == CHECKPOINTS:
            found = self._bundle(node, "run", of=self.checkpoints, place="output")
            inputs["run"] = found.folder.removeprefix("neti/")
        elif kind == PHOTO_FOLDER:
            found = self._bundle(node, "folder", of=self._photos, place="input")
            inputs["folder"] = found.folder
        elif kind in PHOTOS:
            found = self._bundle(node, "image", of=self._photo, place="input")
            inputs["image"] = f"{found.folder}/{next(iter(found.files))}"
        else:
            return None
        return found

    def _bundle(self, node: dict, *names: str, of: Callable[..., dict[str, Path]], place: str) -> Bundle:
        """Of the files that `of` gives for these inputs; read once."""
        key = (of.__name__, *typed(node, *names))
        if key not in self._bundles:
            self._bundles[key] = bundle(place, "neti/" if place == "output" else "", of(*key[1:]))
        return self._bundles[key]

    def dataset(self, name: str) -> Path:
        """The folder of a data set, named as Load PDST Dataset names it."""
        if name == EXAMPLE:
            return EXAMPLES
        label, _, rest = name.partition("/")
        return self._find(rest, f"the data set {name!r}", {"pdst": ["models/pdst"], "input": ["input"]}.get(label, []))

    def _find(self, name: str, what: str, folders: list[str]) -> Path:
        """A file or folder of that name in one of these folders of the root."""
        if name == NEWEST:
            raise WrongUse(f"the graph takes the {NEWEST}, which is another one on every server: choose it by its name.")
        parts = name.replace("\\", "/").split("/")
        places = [] if {"", ".", ".."} & set(parts) else [self._root.joinpath(*folder.split("/"), *parts) for folder in folders]
        found = next((path for path in places if path.exists()), None)
        if found is None:
            where = " or ".join(folders) or "models/pdst or input"
            raise WrongUse(f"{what} is not in {where} of {self._root}. --files names the ComfyUI folder that has it.")
        return found

    def _subjects(self, name: str, subjects: str) -> dict[str, Path]:
        root = self.dataset(name)
        paths = [path for subject in subjects_named(root, subjects) for path in sorted((root / subject).rglob("*"))]
        return {path.relative_to(root).as_posix(): path for path in paths if path.is_file() and not path.name.startswith(".")}

    def _token(self, name: str) -> dict[str, Path]:
        """A token's file, first, and what belongs to it: an official NeTI mapper has its learned embeddings beside it."""
        path = self.tokens.get(name)
        if path is None and name.startswith("embeddings/"):
            path = self._find(name.removeprefix("embeddings/"), f"the token {name!r}", ["models/embeddings"])
        elif path is None:
            path = self._find(name, f"the token {name!r}", ["models/neti", "output/neti"])
        beside = sorted(path.parent.glob("learned_embeds*.bin")) if path.suffix == ".pt" else []
        return {one.name: one for one in (path, *beside)}

    def checkpoints(self, run: str) -> dict[str, Path]:
        folder = self._find(run, f"the run {run!r}", ["output/neti"])
        return {path.name: path for path in sorted(folder.glob("*-step-*.safetensors"))}

    def _photos(self, name: str) -> dict[str, Path]:
        example = EXAMPLES / "my-monster" / "train"
        folder = example if name == EXAMPLE else self._find(name, f"the folder of photos {name!r}", ["input"])
        return {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")}

    def _photo(self, name: str) -> dict[str, Path]:
        path = self._find(name.removesuffix(" [input]"), f"the photo {name!r}", ["input"])
        return {path.name: path}

    def captions(self, dataset: str, subjects: str, photos: int, captions: int) -> dict[str, int]:
        """How many captions each subject has. photos, captions: at most so many of them; 0: all."""
        root, count = self.dataset(dataset), {}
        for subject in subjects_named(root, subjects):
            texts = sorted((root / subject / "test").glob("*.txt"))[: photos or None]
            lines = [[line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()] for path in texts]
            count[subject] = sum(len(own[: captions or None]) for own in lines)
        return count


def subjects_named(root: Path, subjects: str) -> list[str]:
    """The subjects that Load PDST Dataset's input names; all of the data set's for `all`."""
    there = sorted(path.name for path in root.iterdir() if (path / "test").is_dir())
    names = [name.strip() for name in re.split(r"[,\n]", subjects) if name.strip()]
    chosen = there if names == ["all"] else list(dict.fromkeys(names))
    if missing := [name for name in chosen if name not in there]:
        raise WrongUse(f"the data set {root.name} has no subject {', '.join(missing)}. It has: {', '.join(there) or 'none'}.")
    return chosen
