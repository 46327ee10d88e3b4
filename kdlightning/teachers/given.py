"""What is given as a teacher, as the teacher that a method can use."""

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from kdlightning.teachers.blackbox import BlackBoxTeacher
from kdlightning.teachers.whitebox import WhiteBoxTeacher

Kind = TypeVar("Kind", BlackBoxTeacher, WhiteBoxTeacher)

_TOP = {"hard": ": the same network, or server, asked by a HardLabelTeacher answers its top class"}


IN_JOBS = (
    "answers in batch jobs, hours later: name the teacher of the same model without jobs, with the same options and "
    "ledger; its questions are the same, and so are its answers"
)


def as_teacher(given: Any, *kinds: type[Any], jobs: bool = False) -> Any:  # noqa: ANN401 - a teacher, or what one is made of
    """A teacher of one of the kinds: the given one, or one of the first kind that is made of a network.

    Args:
        given: a teacher; a network, or the directory of a saved one. A white box is a network as well.
        kinds: classes of teachers; the first one is made, without a budget.
        jobs: whether one that answers in batch jobs will do: all questions are known before the first is answered.

    Raises:
        TypeError: none of these, or a teacher that discloses less than, or something else than, is needed.
    """
    if isinstance(given, BlackBoxTeacher) and given.in_jobs and not jobs:
        raise TypeError(
            f"teacher: expected one that answers when it is asked, got a {type(given).__name__}, which answers in "
            "batch jobs, hours later: label a transfer set with it (TeacherAnswers) and train on that, or name the "
            "teacher of the same model without jobs"
        )
    if isinstance(given, kinds):
        return given
    network = given.network if isinstance(given, WhiteBoxTeacher) else given
    if isinstance(network, (nn.Module, str, Path)):
        return kinds[0](network)
    wanted, got = " or ".join(kind.__name__ for kind in kinds), type(given).__name__
    if isinstance(given, BlackBoxTeacher):
        needs = {
            "soft": "probabilities",
            "hard": "labels",
            "topk": "the best classes with their scores",
            "white": "to open it",
        }
        why = f"this method needs {' or '.join(needs[kind.access] for kind in kinds)}, and it answers "
        raise TypeError(
            f"teacher: expected a {wanted}, got a {got}: {why}{needs[given.access]}{_TOP.get(kinds[0].access, '')}"
        )
    raise TypeError(f"teacher: expected a {wanted}, or a network to make one of, got a {got}")
