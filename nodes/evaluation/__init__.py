"""Held-out evaluation: a data set on disk, scores of a token on it, and the report of them."""

from .encoders import LoadEvaluationEncoders
from .nodes_captions import MakePDSTCaptions, SplitSubjectPhotos
from .nodes_dataset import LoadPDST, LoadTokenCheckpoints
from .nodes_evaluate import PDSTEvaluate
from .nodes_report import PDSTReport

NODES = [
    SplitSubjectPhotos,
    MakePDSTCaptions,
    LoadPDST,
    LoadTokenCheckpoints,
    LoadEvaluationEncoders,
    PDSTEvaluate,
    PDSTReport,
]
