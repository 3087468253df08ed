"""Held-out evaluation: a data set on disk, scores of a token on it, and the report of them."""

from .nodes_captions import MakePDSTCaptions
from .nodes_dataset import LoadPDST, SplitSubjectPhotos
from .nodes_encoders import LoadEvaluationEncoders
from .nodes_evaluate import PDSTEvaluate, PDSTEvaluateOptions
from .nodes_own_graph import PDSTPrompts, PDSTScoreImages
from .nodes_report import PDSTReport

NODES = [
    SplitSubjectPhotos,
    MakePDSTCaptions,
    LoadPDST,
    LoadEvaluationEncoders,
    PDSTEvaluate,
    PDSTEvaluateOptions,
    PDSTPrompts,
    PDSTScoreImages,
    PDSTReport,
]
