"""From photos to subject masks."""

from .nodes_masks import MaskFromBoxes, SubjectMask
from .nodes_models import LoadFlorence2, LoadSAM2
from .nodes_photos import CropToSubject, LoadSubjectImages

NODES = [LoadSubjectImages, CropToSubject, LoadFlorence2, LoadSAM2, SubjectMask, MaskFromBoxes]
