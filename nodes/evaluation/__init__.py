"""Held-out evaluation: a data set on disk, scores of a token on it, and the report of them."""

from .encoders import LoadEvaluationEncoders
from .evaluate import PDSTEvaluate
from .loading import LoadPDST, LoadTokenCheckpoints
from .making import MakePDSTCaptions, SplitSubjectPhotos
from .report.node import PDSTReport

NODES = [
    SplitSubjectPhotos,
    MakePDSTCaptions,
    LoadPDST,
    LoadTokenCheckpoints,
    LoadEvaluationEncoders,
    PDSTEvaluate,
    PDSTReport,
]
