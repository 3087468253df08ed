"""From photos to subject masks."""

from .florence import LoadFlorence2
from .images import CropToSubject, LoadSubjectImages
from .sam import LoadSAM2
from .subject import MaskFromBoxes, SubjectMask

NODES = [LoadSubjectImages, CropToSubject, LoadFlorence2, LoadSAM2, SubjectMask, MaskFromBoxes]
