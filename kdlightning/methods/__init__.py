"""One method, one file; what they stand on is in :mod:`kdlightning.modules`."""

from kdlightning.methods.baselines import AL, CAN, CDL, DAFL, DFND, DKD, ML, ActiveMixup, KnockoffSelection
from kdlightning.methods.db3kd import DB3KD, DB3KDLabels
from kdlightning.methods.deepinversion import DeepInversion
from kdlightning.methods.inversionstudy import InversionStudy
from kdlightning.methods.kd import KD, AnsweredKD
from kdlightning.methods.kd3 import KD3
from kdlightning.methods.mekd import MEKD, MEKDGenerator
from kdlightning.methods.shaderkd import ShaderKD
from kdlightning.methods.supervised import Supervised
from kdlightning.methods.zsdb3kd import ZSDB3KDImages
from kdlightning.modules.asking import TeacherAnswers
from kdlightning.moved import names_of

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
    "DB3KDLabels",
    "DeepInversion",
    "InversionStudy",
    "KnockoffSelection",
    "MEKDGenerator",
    "ShaderKD",
    "Supervised",
    "TeacherAnswers",
    "ZSDB3KDImages",
]
__getattr__ = names_of(__name__)
