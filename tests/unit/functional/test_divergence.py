import pytest
import torch
from torch.nn import functional as F

from kdlightning.functional.divergence import (
    centred,
    centred_log_probabilities,
    decoupled_divergence,
    kd_divergence,
    log_softened,
    smoothed_labels,
    softened,
)
from kdlightning.functional.inversion import agreement
from kdlightning.functional.selection import contrastive_loss


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


LOSSES = {
    "kd": lambda logits, target, t: kd_divergence(logits, log_softened(target, t), t),
    "target": lambda logits, target, t: decoupled_divergence(
        logits, log_softened(target, t), target.argmax(1), t
    )[0].mean(),
    "others": lambda logits, target, t: decoupled_divergence(
        logits, log_softened(target, t), target.argmax(1), t
    )[1].mean(),
    "agreement": lambda logits, target, t: agreement(logits, target.log(), t),
    "printed": lambda logits, target, t: contrastive_loss(logits, target.to(logits), t),
    "ntxent": lambda logits, target, t: contrastive_loss(logits, target.to(logits), t, "ntxent"),
}  # fmt: skip


@pytest.mark.parametrize("temperature", [1e-3, 0.01, 0.1, 1e4])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_extreme_temperature_has_a_finite_gradient(loss, temperature):
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float16):
        logits = (20 * torch.randn(6, 5, generator=draw)).to(dtype).requires_grad_()
        value = LOSSES[loss](logits, (10 * torch.randn(6, 5, generator=draw)).softmax(1).clamp_min(1e-7), temperature)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


def test_half_precision_does_not_overflow_at_a_small_temperature():
    logits = torch.tensor([[40.0, 0.0]])
    torch.testing.assert_close(softened(logits.half(), 1e-4), softened(logits, 1e-4))
    assert softened(logits.double(), 3.0).dtype == torch.float64


def test_the_others_gradient_at_a_small_temperature_by_hand():
    # the target is ahead by 50 / 0.1 = 500, whose exponential is infinite; the others are even, the teacher's 1 : 3
    logits = torch.tensor([[50.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.6, 0.1, 0.3]]).log()
    _, nckd = decoupled_divergence(logits, teacher, torch.tensor([0]), 0.1)
    nckd.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 2.5, -2.5]]), atol=1e-3, rtol=0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"same shape \(N, K\)"):
        kd_divergence(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)


def test_a_label_keeps_its_confidence_and_the_others_share_the_rest():
    smoothed = smoothed_labels(torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 1]]), 0.7)
    torch.testing.assert_close(smoothed, torch.tensor([[0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]]))
    torch.testing.assert_close(smoothed.sum(1), torch.ones(2))


@pytest.mark.parametrize("confidence", [0.25, 0.1, 1.0, 1.2])
def test_a_confidence_has_to_leave_the_label_the_likeliest(confidence):
    with pytest.raises(ValueError, match=f"more than 1/4 and less than 1, got {confidence}"):
        smoothed_labels(torch.eye(4), confidence)


def test_centred_rows_have_mean_zero_and_the_same_differences():
    values = centred(torch.tensor([[1.0, 2, 6], [-5, 0, 5]]))
    torch.testing.assert_close(values, torch.tensor([[-2.0, -1, 3], [-5, 0, 5]]))


def test_centred_log_probabilities_are_the_centred_logits():
    logits = 3 * torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    seen = centred_log_probabilities(logits.softmax(1), floor=1e-30)
    torch.testing.assert_close(seen, centred(logits), atol=2e-6, rtol=0)
    exact = centred_log_probabilities(logits.double().softmax(1), floor=1e-30)
    torch.testing.assert_close(exact, centred(logits.double()), atol=1e-13, rtol=0)


def test_the_floor_bounds_what_an_api_rounds_to_zero():
    seen = centred_log_probabilities(torch.tensor([[1.0, 0.0]]), floor=1e-4)
    half = torch.tensor(1e4).log() / 2
    torch.testing.assert_close(seen, torch.stack([half, -half])[None])
    assert centred_log_probabilities(torch.tensor([[1.0, 0.0]])).isfinite().all()
