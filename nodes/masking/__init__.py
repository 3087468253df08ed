"""From photos to subject masks."""

from .florence import LoadFlorence2
from .nodes_masks import MaskFromBoxes, SubjectMask
from .nodes_photos import CropToSubject, LoadSubjectImages
from .sam import LoadSAM2

NODES = [LoadSubjectImages, CropToSubject, LoadFlorence2, LoadSAM2, SubjectMask, MaskFromBoxes]
