"""Teachers as their clients see them: access is a type."""

from kdlightning.teachers.blackbox import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher
from kdlightning.teachers.connection import Patience, RemoteTeacherError
from kdlightning.teachers.description import Tensors
from kdlightning.teachers.http import HTTPHardLabelTeacher, HTTPSoftLabelTeacher
from kdlightning.teachers.journal import AnswerJournal
from kdlightning.teachers.meter import QueryBudgetExceededError, QueryMeter
from kdlightning.teachers.remote import RemoteHardLabelTeacher, RemoteSoftLabelTeacher
from kdlightning.teachers.whitebox import WhiteBoxTeacher

__all__ = [
    "AnswerJournal",
    "BlackBoxTeacher",
    "HTTPHardLabelTeacher",
    "HTTPSoftLabelTeacher",
    "HardLabelTeacher",
    "Patience",
    "QueryBudgetExceededError",
    "QueryMeter",
    "RemoteHardLabelTeacher",
    "RemoteSoftLabelTeacher",
    "RemoteTeacherError",
    "SoftLabelTeacher",
    "Tensors",
    "WhiteBoxTeacher",
]
