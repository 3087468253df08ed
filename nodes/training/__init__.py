"""From photos and masks to a token: the training node, its run on disk and what it shows."""

from .nodes_options import TrainingOptions
from .nodes_training import TrainAttractorEmbedding

NODES = [TrainAttractorEmbedding, TrainingOptions]
