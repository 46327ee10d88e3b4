"""What a method stands on, and what a user subclasses.

=============================  ==========================================================================
subclass                       to make
=============================  ==========================================================================
:class:`DistillationModule`    a method that trains a student: override ``losses``
:class:`AnsweredModule`        one that trains on given answers, those of a transfer set
:class:`AdversarialModule`     one whose student plays against a discriminator of answers
:class:`SelectingModule`       one that chooses its images from a pool, every epoch
:class:`GeneratorModule`       one that trains a generator
:class:`LabellingModule`       a phase that writes a transfer set: override ``label``
:class:`RoundsModule`          one that asks in rounds, each chosen by the answers before it
=============================  ==========================================================================
"""

from kdlightning.modules.alternating import AdversarialModule, Discriminator, TwoPlayerModule
from kdlightning.modules.answered import AnsweredModule
from kdlightning.modules.asking import TeacherAnswers
from kdlightning.modules.base import DistillationModule, TaughtModule
from kdlightning.modules.generator import GeneratorModule
from kdlightning.modules.labelling import LabellingModule
from kdlightning.modules.precision import Trainer, best_precision
from kdlightning.modules.rates import WarmupCosineLR
from kdlightning.modules.rounds import RoundsModule
from kdlightning.modules.selecting import SelectingModule

__all__ = [
    "AdversarialModule",
    "AnsweredModule",
    "Discriminator",
    "DistillationModule",
    "GeneratorModule",
    "LabellingModule",
    "RoundsModule",
    "SelectingModule",
    "TaughtModule",
    "TeacherAnswers",
    "Trainer",
    "TwoPlayerModule",
    "WarmupCosineLR",
    "best_precision",
]
