"""What comes into a run is tried against its data, before anything is asked."""

from collections.abc import Sized
from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdlightning.data.classes import check_order
from kdlightning.data.views import Views
from kdlightning.networks.pretrained import name_of
from kdlightning.networks.rehearsal import rehearse_student
from kdlightning.teachers import BlackBoxTeacher, WhiteBoxTeacher
from kdlightning.teachers.blackbox import ONE_SIZE
from kdlightning.types import Batch

_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


def check_precision(trainer: L.Trainer) -> None:
    """Refuse, with a ValueError, a precision in which weights, images or answers would not be float32."""
    if trainer.precision not in _PRECISIONS:
        other = f"images and answers are float32; give {', '.join(_PRECISIONS[:-1])} or {_PRECISIONS[-1]}"
        raise ValueError(f"trainer.precision {trainer.precision} cannot be used: {other}")


def check_teacher(teacher: object, trainer: L.Trainer, views: Views | None = None) -> None:
    """Refuse, with a ValueError, a teacher that does not take the data's images, or has other classes or numbers.

    ``views``: what it sees in their place.
    """
    check_pair(teacher, getattr(trainer, "datamodule", None), trainer.strategy.root_device, views)


def check_pair(teacher: object, data: Any, device: torch.device | str = "cpu", views: Views | None = None) -> None:  # noqa: ANN401
    """The same of a datamodule that is set up, or None, where there is no trainer."""
    if not _says_what_it_is(data) or not isinstance(teacher, BlackBoxTeacher | WhiteBoxTeacher):
        return
    shape = _shape(data) if views is None else views.shape
    if shape is not None:
        teacher.rehearse(shape, device)
    elif not getattr(teacher, "any_size", False):
        sizes = "teacher_size: original keeps the sizes of the images, which differ"
        raise ValueError(f"{sizes}, but a {type(teacher).__name__} takes images of one size: {ONE_SIZE}")
    if isinstance(teacher, BlackBoxTeacher):
        teacher.expect(data.num_classes, f"the data set {data.name}")
    elif teacher.num_classes != data.num_classes:
        told = f"the teacher has {teacher.num_classes} classes"
        raise ValueError(f"{told}, but the data set {data.name} has {data.num_classes}")
    check_order(teacher.class_names, getattr(data, "class_names", ()), data.name)


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


def check_first(batch: Batch, teacher: object, student: nn.Module | None, trainer: L.Trainer) -> None:
    """Refuse, with a ValueError, what does not fit the first images of a loader that nobody could ask before."""
    if _data_of(trainer) is not None:
        return
    classes, least, known = None, 1, None
    with torch.inference_mode(False):  # where the first images are validated, a layout is changed for good
        if isinstance(teacher, BlackBoxTeacher | WhiteBoxTeacher):
            teacher.rehearse(batch.image.shape[1:], trainer.strategy.root_device)
            known = teacher.num_classes
        if student is not None:
            classes, least = rehearse_student(student, batch.image.shape[1:], trainer.strategy.root_device)
    if classes and known and classes != known:
        given = f"the student {name_of(cast(nn.Module, student))} answers {classes}"
        raise ValueError(f"the teacher has {known} classes, {given}: set the student's num_classes to {known}")
    if classes and batch.label is not None:
        check_classes(batch.label, classes)
    if least > 1 and (number := _last_alone(trainer.train_dataloader)):
        told = f"the last batch of {number} images has one: give the loader drop_last=True"
        raise ValueError(f"the network's batch normalisation needs two images in a batch, but {told}")


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse, with a ValueError, labels that are no classes of a student's."""
    low, high = (int(one) for one in torch.aminmax(labels))
    if low < 0 or high >= classes:
        got = f"{low if low < 0 else high} for a student of {classes} classes"
        raise ValueError(f"labels: expected class indices from 0 to {classes - 1}, got {got}")


def _last_alone(loader: Any) -> int | None:  # noqa: ANN401 - a loader, or None
    """How many images a loader has whose last batch has one; None for another."""
    if not isinstance(loader, DataLoader) or loader.drop_last or not isinstance(loader.sampler, Sized):
        return None
    number = len(loader.sampler)
    return number if loader.batch_size and number % loader.batch_size == 1 else None


def _data_of(trainer: L.Trainer) -> Any:  # noqa: ANN401 - a datamodule
    """The datamodule, if it says what its images are."""
    data = getattr(trainer, "datamodule", None)
    return data if _says_what_it_is(data) else None


def _says_what_it_is(data: Any) -> bool:  # noqa: ANN401 - a datamodule, or None
    return all(hasattr(data, told) for told in ("channels", "image_size", "num_classes"))


def _shape(data: Any) -> tuple[int, int, int]:  # noqa: ANN401 - a datamodule
    return data.channels, data.image_size, data.image_size
