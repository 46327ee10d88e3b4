import pytest
import torch

from kdlightning.networks import LeNet5
from kdlightning.teachers import HardLabelTeacher
from kdlightning.teachers.answers import AnswerError
from kdlightning.teachers.outcomes import Outcome, Reading, answered, counted, outcomes


def test_rows_without_an_answer_are_negative_throughout():
    soft = torch.tensor([[0.2, 0.8], [-1, -1], [1.0, 0.0], [-2, -2]])
    assert outcomes(soft).tolist() == [0, 1, 0, 2]
    assert outcomes(torch.tensor([3, -2, 0, -1])).tolist() == [0, 2, 0, 1]
    assert answered(soft).tolist() == [True, False, True, False]
    assert counted(soft) == {"answered": 2, "refused": 1, "unreadable": 1}
    assert outcomes(soft).dtype == torch.int8


def test_scores_of_synonyms_add_up():
    reading = Reading.summed([(2, 0.25), (0, 0.5), (2, 0.125)], rest=0.125)
    assert (reading.classes, reading.scores, reading.rest) == ((2, 0), (0.375, 0.5), 0.125)
    assert reading.best == 0
    assert Reading.summed([(2, 0.25), (0, 0.3), (2, 0.125)]).best == 2


def test_the_best_of_all_classes_of_some_and_of_a_label_alone():
    assert Reading(scores=(0.1, 0.7, 0.7)).best == 1
    assert Reading((4,)).best == 4
    none = Reading.none(Outcome.REFUSED, "I cannot")
    assert (none.answered, none.said) == (False, "I cannot")


def test_a_teacher_of_ones_own_that_leaves_an_image_out_is_said_where_every_answer_is_needed():
    class Reluctant(HardLabelTeacher):
        odd_answers = True

        def _answer(self, images):
            return torch.tensor([3, -1, 0, -2])[: len(images)]

    teacher, images = Reluctant(LeNet5(image_size=16)), torch.rand(4, 1, 16, 16)
    assert teacher.ask(images).tolist() == [3, -1, 0, -2]
    assert teacher.query(images[:1]).tolist() == [3]
    with pytest.raises(AnswerError, match="2 of 4 images got no answer, and what is asked here needs every one"):
        teacher.query(images)
