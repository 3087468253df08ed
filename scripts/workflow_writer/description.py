"""A graph as a description: what nodes there are, in columns, groups and rows."""

from dataclasses import dataclass

# Width and height in the renderer that needs more, with what a node shows after its run.
SIZES = {
    "CheckpointLoaderSimple": (340, 140),
    "LoraLoader": (340, 190),
    "AttractorLoadSubjectImages": (340, 380),
    "AttractorLoadPDST": (340, 320),
    "AttractorLoadEvaluationEncoders": (340, 160),
    "AttractorLoadFlorence2": (340, 160),
    "AttractorLoadSAM2": (340, 160),
    "AttractorSubjectMask": (340, 640),
    "AttractorCropToSubject": (340, 210),
    "AttractorTrain": (460, 760),
    "AttractorTrainingOptions": (340, 1440),
    "AttractorLoadNeTIMapper": (340, 150),
    "AttractorLoadTokenCheckpoints": (340, 210),
    "AttractorApplyToken": (340, 220),
    "AttractorMixTokens": (340, 220),
    "AttractorPDSTEvaluate": (380, 760),
    "AttractorPDSTPrompts": (340, 420),
    "AttractorPDSTScoreImages": (380, 620),
    "AttractorPDSTReport": (560, 760),
    "SAM3_Detect": (340, 260),
    "CLIPTextEncode": (340, 150),
    "EmptyLatentImage": (340, 150),
    "KSampler": (340, 350),
    "VAEDecode": (220, 80),
    "InvertMask": (260, 80),
    "JoinImageWithAlpha": (260, 100),
    "SaveImage": (420, 480),
    "PreviewImage": (420, 420),
    "CreateList": (240, 180),
    "ControlNetLoader": (340, 90),
    "ControlNetApplyAdvanced": (340, 240),
    "ImageFromBatch": (340, 120),
    "Canny": (340, 120),
}


@dataclass(eq=False)
class Node:
    """A node of a description; `node[i]` is its output i. inputs: values of widgets, outputs of nodes, or lists of outputs."""

    id: int
    kind: str
    title: str
    inputs: dict
    bypassed: bool
    size: tuple[int, int]
    collapsed: bool = False
    place: tuple[int, int] = (0, 0)  # row and column, then
    pos: tuple[int, int] = (0, 0)  # pixels

    def __getitem__(self, slot):
        return (self, slot)


@dataclass
class Group:
    title: str
    row: int
    columns: list[list[Node]]


class Workflow:
    """Built from left to right: `group`, then `column` and `add` in turn; `row` begins anew at the left."""

    def __init__(self, name, description, note):
        self.name, self.description, self.note = name, description, note
        self.nodes, self.groups, self.rows = [], [], 1

    def row(self):
        self.rows += 1

    def group(self, title):
        self.groups.append(Group(title, self.rows - 1, [[]]))

    def column(self):
        if self.groups[-1].columns[-1]:
            self.groups[-1].columns.append([])

    def add(self, kind, title, size=None, bypassed=False, collapsed=False, **inputs):
        size = (SIZES[kind][0], 0) if collapsed else size or SIZES[kind]
        node = Node(len(self.nodes) + 1, kind, title, inputs, bypassed, size, collapsed)
        self.nodes.append(node)
        self.groups[-1].columns[-1].append(node)
        return node


def links_of(node):
    """(name, output) of all that is wired to a node."""
    for name, value in node.inputs.items():
        if isinstance(value, list):
            yield from ((f"{name}.input{i}", link) for i, link in enumerate(value))
        elif isinstance(value, tuple):
            yield name, value
