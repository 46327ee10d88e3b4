import math

import pytest
import torch

from kdlightning.functional import boundary


def test_activations_by_hand():
    r = torch.tensor([[9.0, 2.0, 4.0]])
    own = torch.tensor([0])
    # 1/r = .5, .25; S = .75
    torch.testing.assert_close(boundary.activations(r, own, normalise=False), torch.tensor([[0.75, 0.5, 0.25]]))
    expected = torch.tensor([[0.75, 0.5, 0.25]]) / 0.75**2
    torch.testing.assert_close(boundary.activations(r, own), expected)


def test_activations_meet_the_papers_three_requirements():
    generator = torch.Generator().manual_seed(0)
    r = 0.5 + torch.rand(100, 10, generator=generator)
    own = torch.randint(0, 10, (100,), generator=generator)
    a = boundary.activations(r, own)
    assert (a.argmax(1) == own).all()  # (1)
    rest = torch.ones(100, 10, dtype=torch.bool).scatter_(1, own[:, None], False)
    order_a = a[rest].view(100, 9).argsort(dim=1)
    assert (order_a == r[rest].view(100, 9).argsort(dim=1, descending=True)).all()  # (2)
    further = boundary.activations(2 * r, own)
    assert (further.gather(1, own[:, None]) > a.gather(1, own[:, None])).all()  # (3)


def test_activations_of_classes_never_found():
    r = torch.tensor([[1.0, 2.0, math.inf], [1.0, math.inf, math.inf]])
    a = boundary.activations(r, torch.tensor([0, 0]))
    torch.testing.assert_close(a[0], torch.tensor([2.0, 2.0, 0.0]))
    assert a[1].tolist() == pytest.approx([1000.0, 0.0, 0.0])
    assert a[1].softmax(0)[0] == 1


def test_linear_logits_by_hand():
    r = torch.tensor([[0.0, 2.0, 0.5], [3.0, 0.0, math.inf], [0.0, 0.5, math.inf], [0.0, math.inf, math.inf]])
    expected = [[0.0, -6.0, -1.5], [-9.0, 0.0, -9.0], [0.0, -1.5, -3.0], [0.0, -3.0, -3.0]]
    assert boundary.linear_logits(r, 3.0).tolist() == expected


def test_the_mean_distance_to_the_nearest_other_class_by_hand():
    r = torch.tensor([[0.0, 2.0, 5.0], [4.0, 0.0, math.inf], [math.inf, math.inf, 0.0]])
    assert boundary.mean_nearest(r, torch.tensor([0, 1, 2])) == 3.0
    with pytest.raises(ValueError, match="one class only"):
        boundary.mean_nearest(r[2:], torch.tensor([2]))
