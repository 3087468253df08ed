"""From photos to subject masks."""

from .images import CropToSubject, LoadSubjectImages

NODES = [LoadSubjectImages, CropToSubject]
