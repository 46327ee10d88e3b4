"""What comes into a run is tried against its data, before anything is asked."""

from typing import Any

import lightning.pytorch as L
from torch import nn

from kdlightning.networks.pretrained import name_of
from kdlightning.networks.rehearsal import rehearse_student
from kdlightning.teachers import BlackBoxTeacher, WhiteBoxTeacher

_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_precision(trainer: L.Trainer) -> None:
    """Refuse, with a ValueError, a precision in which weights, images or answers would not be float32."""
    if trainer.precision not in _PRECISIONS:
        other = f"images and answers are float32; give {', '.join(_PRECISIONS[:-1])} or {_PRECISIONS[-1]}"
        raise ValueError(f"trainer.precision {trainer.precision} cannot be used: {other}")


def check_teacher(teacher: object, trainer: L.Trainer) -> None:
    """Refuse, with a ValueError, a teacher that does not take the data's images, or answers other classes."""
    data = _data_of(trainer)
    if data is None or not isinstance(teacher, BlackBoxTeacher | WhiteBoxTeacher):
        return
    teacher.rehearse(_shape(data), trainer.strategy.root_device)
    if isinstance(teacher, BlackBoxTeacher):
        teacher.expect(data.num_classes, f"the data set {data.name}")
    elif teacher.num_classes != data.num_classes:
        told = f"the teacher has {teacher.num_classes} classes"
        raise ValueError(f"{told}, but the data set {data.name} has {data.num_classes}")


def check_student(student: nn.Module, trainer: L.Trainer) -> None:
    """Refuse, with a ValueError, a student that does not take the data's images, or answers other classes."""
    data = _data_of(trainer)
    if data is None:
        return
    classes, least = rehearse_student(student, _shape(data), trainer.strategy.root_device)
    if classes != data.num_classes:
        raise ValueError(
            f"the student {name_of(student)} answers {classes} classes, {data.name} has {data.num_classes}: "
            f"set the student's num_classes to {data.num_classes}"
        )
    for each in (data, getattr(data, "source", None)):
        if each is not None:
            each.least_batch = least


def _data_of(trainer: L.Trainer) -> Any:  # noqa: ANN401 - a datamodule
    """The datamodule, if it says what its images are."""
    data = getattr(trainer, "datamodule", None)
    return data if all(hasattr(data, told) for told in ("channels", "image_size", "num_classes")) else None


def _shape(data: Any) -> tuple[int, int, int]:  # noqa: ANN401 - a datamodule
    return data.channels, data.image_size, data.image_size
