"""One method, one file. Importing this package lets YAML use their short names."""

from kdlightning.methods.base import DistillationModule
from kdlightning.methods.db3kd import DB3KD, DB3KDLabels
from kdlightning.methods.kd import KD
from kdlightning.methods.labelling import LabellingModule
from kdlightning.methods.supervised import Supervised

__all__ = ["DB3KD", "KD", "DB3KDLabels", "DistillationModule", "LabellingModule", "Supervised"]
