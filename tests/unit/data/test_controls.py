import math

import torch

from kdlightning.data.controls import class_means, shuffled


def test_shuffling_keeps_the_own_class_and_the_values_of_a_row_and_nothing_else():
    answers = torch.arange(4000.0).view(400, 10)
    own = torch.arange(400) % 10
    out = shuffled(answers, own, seed=1)
    assert torch.equal(out.gather(1, own[:, None]), answers.gather(1, own[:, None]))
    assert torch.equal(out.sort(dim=1).values, answers)
    moved = float((out != answers).float().mean())
    assert abs(moved - 0.9 * 8 / 9) < 0.02  # of 9 values one stays in its place by chance
    assert torch.equal(out, shuffled(answers, own, seed=1))
    assert not torch.equal(out, shuffled(answers, own, seed=2))


def test_class_means_by_hand():
    answers = torch.tensor([[0.0, 2.0, math.inf], [0.0, 4.0, 6.0], [1.0, 0.0, math.inf]])
    out = class_means(answers, torch.tensor([0, 0, 1]))
    assert out.tolist() == [[0.0, 3.0, 6.0], [0.0, 3.0, 6.0], [1.0, 0.0, math.inf]]
