import pytest
import torch
from helpers import Linear, ToyDataModule, trainer
from torch import nn, tensor

from kdlightning.methods import KD, TeacherAnswers
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher
from kdlightning.teachers.answers import AnswerError, hard_answer, soft_answer


def probabilities(rows, **options):
    return soft_answer(tensor(rows, dtype=torch.float64), "probabilities", len(rows), options.get("classes"))


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_rounded_probabilities_become_a_distribution_again(digits):
    true = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    answer = soft_answer(true.double().round(decimals=digits), "probabilities", 50, 40)
    torch.testing.assert_close(answer.sum(1), torch.ones(50))
    torch.testing.assert_close(answer, true, atol=0.6 * 10**-digits, rtol=20 * 10.0**-digits)


def test_as_many_digits_as_there_are_explain_as_much():
    assert probabilities([[0.33, 0.33, 0.33]]).tolist() == [[pytest.approx(1 / 3)] * 3]
    with pytest.raises(AnswerError, match=r"got a least value of 0\.3213 and a sum of 0\.9639"):
        probabilities([[0.3213, 0.3213, 0.3213]])


def test_percentages_are_divided():
    torch.testing.assert_close(
        probabilities([[97, 2, 1], [33.3, 33.3, 33.3]]), tensor([[0.97, 0.02, 0.01], [1 / 3] * 3])
    )


def test_what_sums_to_one_stays_to_the_bit():
    row = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert torch.equal(soft_answer(row, "probabilities", 3, 10), row)
    half = row.bfloat16().float()
    torch.testing.assert_close(soft_answer(half, "probabilities", 3, 10).sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([0.9, 0.8, 0.1], "have the server answer a softmax over all classes, or take its best label"),
        ([0.6, 0.1, 0.1], "those of the best classes alone, are no distribution"),
        ([-0.1, -2.3, -4.6], "declare outputs=logits if these are logits or log-probabilities"),
        ([float("nan"), 0.5, 0.5], "not finite"),
        ([60.0, 30.0, 0.0], "a sum of 90"),
    ],
)
def test_what_is_no_distribution_is_refused_with_the_right_advice(row, text):
    with pytest.raises(AnswerError, match=text):
        probabilities([row])


def test_classes_may_be_whole_floats_and_have_to_be_in_range():
    assert hard_answer(tensor([[2.0], [0.0]]), 2, 3).tolist() == [2, 0]
    for values, text in [
        ([0.5, 1.0], "got .0.5, 1.0"),
        ([0, 7], r"indices 0 to 3 - 1, got 0\.\.7$"),
        ([1, 3], "if the first class is 1, give outputs=text and labels="),
        ([-1, 0], r"got -1\.\.0"),
    ]:
        with pytest.raises(AnswerError, match=text):
            hard_answer(tensor(values), 2, 3)


class Broken(nn.Module):
    """NaN from the third image on."""

    def forward(self, x):
        return torch.where(torch.arange(len(x))[:, None] > 1, torch.nan, x.flatten(1)[:, :3])


@pytest.mark.parametrize("kind", [SoftLabelTeacher, HardLabelTeacher])
def test_a_teacher_of_nan_is_no_teacher(kind):
    teacher = kind(Broken())
    assert teacher.query(torch.rand(1, 1, 8, 8)).isfinite().all()
    with pytest.raises(AnswerError, match=r"expected logits of shape \[4, 3\], got values that are not finite"):
        teacher.query(torch.rand(4, 1, 8, 8))
    assert teacher.paid.queries == 5


class Wide(nn.Module):
    """A thousand classes, which it does not tell."""

    def forward(self, x):
        return x.flatten(1).repeat(1, 1000 // 64 + 1)[:, :1000]


def test_a_teacher_of_more_classes_than_the_data_is_found_before_it_is_asked(tmp_path):
    for kind in (SoftLabelTeacher, HardLabelTeacher):
        teacher = kind(Wide())
        labels = TeacherAnswers(teacher, str(tmp_path / kind.__name__))
        with pytest.raises(ValueError, match="the teacher has 1000 classes, but the data set toy has 3"):
            trainer(tmp_path).predict(labels, datamodule=ToyDataModule(), return_predictions=False)
        assert teacher.paid.queries == 0
        assert not (tmp_path / kind.__name__).exists()


def test_a_teacher_known_to_have_other_classes_is_refused_unpaid(tmp_path):
    teacher = SoftLabelTeacher(Linear(torch.eye(5, 64)))
    student = Linear(torch.zeros(3, 64))
    with pytest.raises(ValueError, match="the teacher has 5 classes, but the data set toy has 3"):
        trainer(tmp_path).fit(KD(teacher, student), datamodule=ToyDataModule())
    assert teacher.paid.queries == 0
