"""Teachers as a method sees them: access is a type. Those behind a connection are in :mod:`kdlightning.remote`."""

from kdlightning.moved import names_of
from kdlightning.teachers.answers import AnswerError
from kdlightning.teachers.blackbox import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher, TopKTeacher
from kdlightning.teachers.given import as_teacher
from kdlightning.teachers.whitebox import WhiteBoxTeacher

__all__ = [
    "AnswerError",
    "BlackBoxTeacher",
    "HardLabelTeacher",
    "SoftLabelTeacher",
    "TopKTeacher",
    "WhiteBoxTeacher",
    "as_teacher",
]
__getattr__ = names_of(__name__)
