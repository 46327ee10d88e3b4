"""AnsweredKD: the distillation term on given answers, against terms computed by hand."""

import math

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, trainer

from kdlightning.data import TransferSetDataModule
from kdlightning.methods import AnsweredKD, TeacherAnswers
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher
from kdlightning.types import Batch


def logits_student(logits):
    """A student that answers these logits, whatever it sees."""
    return Linear(torch.zeros(len(logits), 4), torch.tensor(logits))


def batch(answer):
    return Batch(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64), None, torch.tensor([answer]))


def test_soft_answers_by_hand():
    method = AnsweredKD(logits_student([0.0, 0.0]), temperature=2.0)
    method.access = "soft"
    # sqrt(0.9) : sqrt(0.1) = 3 : 1, so the softened target is (0.75, 0.25) against (0.5, 0.5)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert method.losses(batch([0.9, 0.1]))["kd"].item() == pytest.approx(expected, rel=1e-5)


def test_hard_answers_become_probabilities():
    method = AnsweredKD(logits_student([0.0, 0.0]), confidence=0.75)
    method.access = "hard"
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert method.losses(batch([1.0, 0.0]))["kd"].item() == pytest.approx(expected, rel=1e-5)


def test_a_student_of_other_classes_is_refused():
    method = AnsweredKD(logits_student([0.0, 0.0, 0.0]))
    method.access = "soft"
    with pytest.raises(ValueError, match="student answers 3 classes, but the teacher's answers have 2"):
        method.losses(batch([0.9, 0.1]))


@pytest.mark.parametrize("teacher_class", [SoftLabelTeacher, HardLabelTeacher])
def test_fits_on_what_teacher_answers_wrote_and_asks_nothing(tmp_path, teacher_class):
    torch.manual_seed(0)
    teacher = teacher_class(TinyNet())
    trainer(tmp_path).predict(
        TeacherAnswers(teacher, str(tmp_path / "set")), datamodule=ToyDataModule(), return_predictions=False
    )
    assert teacher.paid.queries == 60
    data = TransferSetDataModule(ToyDataModule(unlabelled=True), str(tmp_path / "set"))
    method = AnsweredKD(TinyNet())
    before = method.student.classifier.weight.clone()
    trainer(tmp_path).fit(method, datamodule=data)
    assert method.access == teacher.access
    assert teacher.paid.queries == 60
    assert not torch.equal(method.student.classifier.weight, before)
