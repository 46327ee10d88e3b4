"""Top-k answers and the ways of sharing what they leave open, by hand."""

import pytest
import torch

from kdlightning.functional.divergence import kd_divergence
from kdlightning.functional.topk import TopK, spread, spread_as, top_class
from kdlightning.modules.spreading import RunningPrior, spreading

EVEN = torch.zeros(4)


def known(*answers, k=2):
    """Answers given as ({class: score}, rest)."""
    scores = torch.tensor([[*told.values(), *[0.0] * (k - len(told))] for told, _ in answers])
    classes = torch.tensor([[*told, *[-1] * (k - len(told))] for told, _ in answers])
    return TopK(scores, classes, torch.tensor([rest for _, rest in answers]))


def assert_rows(made, *expected):
    torch.testing.assert_close(made, torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_best_classes_of_a_distribution_and_what_the_others_weigh():
    best = TopK.best(torch.tensor([[0.125, 0.25, 0.5, 0.125]]), 2)
    assert best.scores.tolist() == [[0.5, 0.25]]
    assert best.classes.tolist() == [[2, 1]]
    assert best.rest.tolist() == [0.25]
    assert best.top.tolist() == [2]


def test_of_equals_the_lower_index_is_named():
    ties = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.0, 0.5]])
    assert TopK.best(ties, 1).classes.tolist() == [[0], [1]]
    assert TopK.best(ties, 3).classes.tolist() == [[0, 1, 2], [1, 3, 0]]
    assert TopK.best(ties, 3).rest.tolist() == [0.25, 0.0]


def test_an_answer_travels_as_a_row_and_lies_in_columns():
    answer = known(({3: 0.5, 0: 0.25}, 0.25), ({1: 0.9}, -1.0))
    rows = answer.rows()
    assert rows.tolist() == [[0.5, 0.25, 3, 0, 0.25], [pytest.approx(0.9), 0, 1, -1, -1]]
    for back in (TopK.of(rows), TopK.of_columns(answer.columns())):
        assert all(torch.equal(one, other) for one, other in zip(answer, back, strict=True))
    assert answer.columns()["classes"].dtype == torch.int32
    assert top_class(rows, topk=True).tolist() == [3, 1]
    assert top_class(torch.tensor([[0.1, 0.9]])).tolist() == [1]
    assert top_class(torch.tensor([4, 2])).tolist() == [4, 2]


def test_uniform_shares_the_rest_evenly():
    made = spread(known(({3: 0.5, 0: 0.2}, 0.3), ({1: 0.7, 2: 0.3}, 0.0)), EVEN)
    assert_rows(made, [0.2, 0.15, 0.15, 0.5], [0, 0.7, 0.3, 0])


def test_k_may_vary_from_answer_to_answer():
    made = spread(known(({3: 0.5, 0: 0.2}, 0.3), ({1: 0.4}, 0.6)), EVEN)
    assert_rows(made, [0.2, 0.15, 0.15, 0.5], [0.2, 0.4, 0.2, 0.2])


def test_a_prior_shares_the_rest_in_its_proportions():
    prior = torch.tensor([0.1, 0.6, 0.2, 0.1])
    made = spread(known(({3: 0.5, 0: 0.2}, 0.3), ({1: 0.4}, 0.6)), prior.log())
    assert_rows(made, [0.2, 0.225, 0.075, 0.5], [0.15, 0.4, 0.3, 0.15])


def test_the_running_prior_is_the_mean_of_what_it_has_made():
    prior, logits = RunningPrior(), torch.zeros(1, 3)
    assert_rows(prior(known(({0: 0.6}, 0.4), k=1).rows(), logits), [0.6, 0.2, 0.2])
    assert_rows(prior.mass[None], [1 / 3 + 0.6, 1 / 3 + 0.2, 1 / 3 + 0.2])
    assert_rows(prior(known(({1: 0.5}, 0.5), k=1).rows(), logits), [0.5 * 14 / 22, 0.5, 0.5 * 8 / 22])
    again = RunningPrior()
    again.load_state_dict(prior.state_dict())
    assert torch.equal(again.mass, prior.mass)


@pytest.mark.parametrize("way", ["ignored", "uniform", "prior"])
@pytest.mark.parametrize("k", [3, 7])
def test_where_every_class_is_named_the_distribution_comes_back_to_the_bit(way, k):
    soft = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).mul(9).softmax(1)
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(spreading(way)(TopK.best(soft, k).rows(), logits), soft)


def coarse(answer, logits):
    """The divergence over the named classes and one bin of all others, as it is written in a text book."""
    total = 0.0
    for scores, classes, rest, row in zip(*answer, logits.log_softmax(1), strict=True):
        named = classes[classes >= 0]
        p = torch.cat([scores[: len(named)], rest[None]])
        other = torch.ones(len(row), dtype=torch.bool).index_fill(0, named, False)
        q = torch.cat([row[named], row[other].logsumexp(0, keepdim=True)])
        total = total + (p * (p.log() - q)).sum()
    return total / len(logits)


@pytest.mark.parametrize("k", [1, 2])
def test_ignored_is_the_divergence_with_one_bin_for_the_rest_and_has_its_gradient(k):
    told = [({3: 0.5, 0: 0.2}, 0.3), ({1: 0.4}, 0.6)] if k == 2 else [({3: 0.7}, 0.3), ({1: 0.4}, 0.6)]
    answer = known(*told, k=k)
    logits = torch.tensor([[0.3, -1.2, 2.0, 0.4], [5.0, 0.1, -0.2, 0.3]], dtype=torch.float64)
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    divergence = kd_divergence(one, spread_as(answer, one).double().log(), 1.0)
    expected = coarse(answer, other)
    assert divergence.item() == pytest.approx(expected.item(), abs=1e-6)
    divergence.backward()
    expected.backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=0)
    assert float(other.grad.abs().max()) > 0.1


def test_top_1_with_its_confidence_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    q = [0.66524, 0.24473, 0.09003]  # e^2, e, 1 over their sum
    answer = known(({1: 0.8}, 0.2), k=1)
    assert_rows(spread_as(answer, logits), [0.2 * q[0] / (q[0] + q[2]), 0.8, 0.2 * q[2] / (q[0] + q[2])])
    assert_rows(spread(answer, torch.zeros(3)), [0.1, 0.8, 0.1])


def test_a_rest_that_nobody_knows_is_nothing_or_the_students_own():
    answer, logits = known(({0: 0.75, 2: 0.25}, -1.0)), torch.tensor([[0.2, 0.3, 0.4, 0.1]]).log()
    assert_rows(spread(answer, EVEN), [0.75, 0, 0.25, 0])
    assert_rows(spread_as(answer, logits), [0.45, 0.3, 0.15, 0.1])  # 0.6 is the student's share of classes 0 and 2


def test_where_every_class_is_named_a_rest_is_of_no_class():
    answer = known(({0: 0.5, 1: 0.3}, 0.2))
    for made in (spread(answer, torch.zeros(2)), spread_as(answer, torch.tensor([[3.0, -1.0]]))):
        assert_rows(made, [0.625, 0.375])


def test_a_student_that_is_sure_of_a_named_class_still_shares_the_rest():
    made = spread_as(known(({0: 0.6}, 0.4), k=1), torch.tensor([[500.0, 0.0, 1.0, -300.0]]))
    share = 0.4 / (1 + torch.e)
    assert_rows(made, [0.6, share, share * torch.e, 0.0])


def test_a_class_that_is_none_is_refused():
    with pytest.raises(ValueError, match="an answer names class 5, but there are only 4 classes"):
        spread(known(({5: 0.5}, 0.5), k=1), EVEN)
    with pytest.raises(ValueError, match="rest: expected ignored, uniform, prior, got even"):
        spreading("even")
