"""One method, one file. Importing this package lets YAML use their short names."""

from kdlightning.methods.answered import AnsweredModule
from kdlightning.methods.answers import TeacherAnswers
from kdlightning.methods.base import DistillationModule, TaughtModule
from kdlightning.methods.baselines import AL, CAN, CDL, DAFL, DFND, DKD, ML, ActiveMixup, KnockoffSelection
from kdlightning.methods.db3kd import DB3KD, DB3KDLabels
from kdlightning.methods.deepinversion import DeepInversion
from kdlightning.methods.generator import GeneratorModule
from kdlightning.methods.inversionstudy import InversionStudy
from kdlightning.methods.kd import KD, AnsweredKD
from kdlightning.methods.kd3 import KD3
from kdlightning.methods.labelling import LabellingModule
from kdlightning.methods.mekd import MEKD, MEKDGenerator
from kdlightning.methods.pool import SelectingModule
from kdlightning.methods.shaderkd import ShaderKD
from kdlightning.methods.supervised import Supervised
from kdlightning.methods.zsdb3kd import ZSDB3KDImages

__all__ = [
    "AL",
    "CAN",
    "CDL",
    "DAFL",
    "DB3KD",
    "DFND",
    "DKD",
    "KD",
    "KD3",
    "MEKD",
    "ML",
    "ActiveMixup",
    "AnsweredKD",
    "AnsweredModule",
    "DB3KDLabels",
    "DeepInversion",
    "DistillationModule",
    "GeneratorModule",
    "InversionStudy",
    "KnockoffSelection",
    "LabellingModule",
    "MEKDGenerator",
    "SelectingModule",
    "ShaderKD",
    "Supervised",
    "TaughtModule",
    "TeacherAnswers",
    "ZSDB3KDImages",
]
