"""Teachers as their clients see them: access is a type."""

from kdlightning.teachers.blackbox import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher
from kdlightning.teachers.journal import AnswerJournal
from kdlightning.teachers.meter import QueryBudgetExceededError, QueryMeter
from kdlightning.teachers.whitebox import WhiteBoxTeacher

__all__ = [
    "AnswerJournal",
    "BlackBoxTeacher",
    "HardLabelTeacher",
    "QueryBudgetExceededError",
    "QueryMeter",
    "SoftLabelTeacher",
    "WhiteBoxTeacher",
]
