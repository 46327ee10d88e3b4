from math import exp, log

import pytest
import torch

from kdlightning.functional import selection


def test_the_students_weight_grows_to_one_at_half_time():
    assert selection.student_weight(0.0) == pytest.approx(exp(-5))
    assert selection.student_weight(0.25) == pytest.approx(exp(-5 / 4))
    assert selection.student_weight(0.5) == 1.0
    assert selection.student_weight(0.51) == 1.0
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        selection.student_weight(1.5)


def test_thresholds_as_printed_and_as_released():
    count = torch.tensor([10, 5, 0])
    torch.testing.assert_close(selection.class_thresholds(count), torch.tensor([0.95, 0.475, 0.0]))
    torch.testing.assert_close(
        selection.class_thresholds(count, 0.9, "convex"), torch.tensor([0.9, 0.9 * 0.5 / 1.5, 0.0])
    )
    with pytest.raises(ValueError, match="all of them are 0"):
        selection.class_thresholds(torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected a probability, got 1\.2"):
        selection.class_thresholds(count, 1.2)


def test_selection_by_hand():
    teacher = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
    student = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.9, 0.1]])
    combined = selection.combine(teacher, student, 0.25)
    torch.testing.assert_close(combined, torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]))
    confidence, label = torch.tensor([0.95, 0.9, 0.6, 0.4]), torch.tensor([0, 0, 1, 2])
    chosen = selection.select(confidence, label)  # thresholds 0.95, 0.475, 0.475: at the threshold is not above it
    assert chosen.tolist() == [False, False, True, False]
    assert selection.select(confidence, label, 0.9).tolist() == [True, False, True, False]


def test_the_teacher_chooses_where_both_together_choose_too_little():
    teacher, student = torch.tensor([[0.99, 0.01], [0.2, 0.8]]), torch.tensor([[0.5, 0.5], [0.4, 0.6]])
    predictions = selection.top_predictions(teacher, student, 0.5)
    torch.testing.assert_close(predictions, torch.tensor([[0.99, 0, 0.745, 0], [0.8, 1, 0.7, 1]]))
    choice = selection.choose(predictions, 0.74)
    assert choice.mask.tolist() == [True, False]
    torch.testing.assert_close(choice.confidence, torch.tensor([0.745, 0.7]))
    assert not choice.teacher_alone
    alone = selection.choose(predictions, 0.74, least_share=0.6)
    assert alone.mask.tolist() == [True, True]
    assert alone.teacher_alone


def test_agreement_weights_of_both_forms():
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    same = selection.agreement_weights(logits, logits)
    torch.testing.assert_close(same, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(selection.agreement_weights(logits, logits, "released"), torch.tensor([0.5, 0.5]))
    far = selection.agreement_weights(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]))
    torch.testing.assert_close(far, torch.tensor([1 - 1 / (1 + exp(-2))]))  # the largest L1 distance is 2
    released = selection.agreement_weights(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]), "released")
    torch.testing.assert_close(released, torch.tensor([1 / (1 + exp(-5))]))
    assert not selection.agreement_weights(logits.requires_grad_(), logits).requires_grad


def test_mix_distribution_takes_over_statistics():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 6, 6, generator=generator) * torch.tensor([1.0, 0.5, 0.2, 2.0]).view(4, 1, 1, 1)
    partner = torch.tensor([1, 0, 3, 2])
    kept = selection.mix_distribution(images, partner, torch.ones(4))
    torch.testing.assert_close(kept, images)
    taken = selection.mix_distribution(images, partner, torch.zeros(4))
    torch.testing.assert_close(taken.mean((2, 3)), images[partner].mean((2, 3)))
    torch.testing.assert_close(taken.std((2, 3)), images[partner].std((2, 3)), rtol=1e-3, atol=1e-4)
    half = selection.mix_distribution(images, partner, torch.full((4,), 0.5))
    torch.testing.assert_close(half.mean((2, 3)), (images.mean((2, 3)) + images[partner].mean((2, 3))) / 2)
    assert torch.isfinite(selection.mix_distribution(torch.zeros_like(images), partner, torch.ones(4))).all()


def test_contrastive_loss_of_orthogonal_embeddings():
    one = 3 * torch.eye(4)
    # similarity 1 to the own view, 0 to the three others
    torch.testing.assert_close(selection.contrastive_loss(one, one, 0.5), torch.tensor(log(3) - 2.0))
    # two views of four images: the partner at 1, six others at 0
    released = -log(exp(2) / (exp(2) + 6))
    torch.testing.assert_close(selection.contrastive_loss(one, one, 0.5, "ntxent"), torch.tensor(released))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        selection.contrastive_loss(one[:1], one[:1])


def test_targets_by_hand():
    predicted = torch.tensor([0] * 8 + [1] * 4 + [2] * 1)  # class 3 is never predicted
    positions, targets = selection.assign_targets(predicted, 4, 6, torch.Generator().manual_seed(0))
    assert torch.bincount(targets).tolist() == [6, 6, 6, 6]
    assert (predicted[positions] != targets).all()
    for target, counts in ((1, [5, 0, 1]), (2, [3, 3, 0]), (3, [2, 2, 1])):  # even parts, as far as there are enough
        mine = positions[targets == target]
        found = torch.bincount(predicted[mine], minlength=3)
        assert (found >= torch.tensor(counts)).all()
        assert len(mine.unique()) == 6
    first = positions[targets == 0]  # 5 images of other classes for 6 places: one stands there twice
    assert sorted(first.unique().tolist()) == [8, 9, 10, 11, 12]


def test_a_class_that_is_predicted_alone_has_no_images_to_come_from():
    positions, targets = selection.assign_targets(torch.tensor([1, 1]), 3, 2, torch.Generator())
    assert targets.tolist() == [0, 0, 2, 2]
    assert sorted(positions.tolist()) == [0, 0, 1, 1]
