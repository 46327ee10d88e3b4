import pytest
import torch
from torch.nn import functional as F

from kdlightning.functional.divergence import kd_divergence, log_softened


def test_softening_probabilities_equals_softening_logits():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double()
    for temperature in (0.3, 1.0, 20.0):
        softened = log_softened(logits.softmax(1), temperature)
        torch.testing.assert_close(softened, (logits / temperature).log_softmax(1))


def test_zero_probability_stays_finite():
    softened = log_softened(torch.tensor([[1.0, 0.0]]), 1.0)
    assert torch.isfinite(softened).all()
    assert softened[0, 0] == 0


def test_divergence_by_hand():
    teacher = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    student = torch.tensor([[0.6, 0.4], [0.5, 0.5]])
    by_hand = 0.8 * torch.log(torch.tensor(0.8 / 0.6)) + 0.2 * torch.log(torch.tensor(0.2 / 0.4))
    torch.testing.assert_close(kd_divergence(student.log(), teacher.log(), 1.0), by_hand / 2)


def test_gradient_is_student_minus_teacher_over_temperature():
    logits = torch.zeros(1, 3, requires_grad=True)
    target = torch.tensor([[0.7, 0.2, 0.1]])
    kd_divergence(logits, target.log(), 4.0).backward()
    torch.testing.assert_close(logits.grad, (F.softmax(torch.zeros(1, 3), 1) - target) / 4)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"same shape \(N, K\)"):
        kd_divergence(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
