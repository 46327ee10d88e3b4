"""One method, one file. Importing this package lets YAML use their short names."""

from kdlightning.methods.answered import AnsweredModule
from kdlightning.methods.answers import TeacherAnswers
from kdlightning.methods.base import DistillationModule, TaughtModule
from kdlightning.methods.db3kd import DB3KD, DB3KDLabels
from kdlightning.methods.generator import GeneratorModule
from kdlightning.methods.kd import KD
from kdlightning.methods.labelling import LabellingModule
from kdlightning.methods.mekd import MEKD, MEKDGenerator
from kdlightning.methods.supervised import Supervised

__all__ = [
    "DB3KD",
    "KD",
    "MEKD",
    "AnsweredModule",
    "DB3KDLabels",
    "DistillationModule",
    "GeneratorModule",
    "LabellingModule",
    "MEKDGenerator",
    "Supervised",
    "TaughtModule",
    "TeacherAnswers",
]
