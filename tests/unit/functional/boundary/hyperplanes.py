"""Images between four hyperplanes, and a teacher that counts what it is asked."""

import torch

from kdlightning.functional import boundary

K, SHAPE = 4, (1, 6, 6)


def images(number, seed=1, spread=0.1):
    return 0.5 + spread * torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(seed)).clamp(-4, 4)


def pairs(teacher, x):
    """Every image against every class that is not its own."""
    own = teacher(x).argmax(1)
    image = torch.arange(len(x)).repeat_interleave(K - 1)
    target = torch.cat([torch.tensor([k for k in range(K) if k != m]) for m in own.tolist()])
    return x[image], target, own[image], image


def counting(teacher):
    asked = []

    def predict(x):
        assert x.min() >= 0
        assert x.max() <= 1
        asked.append(len(x))
        return teacher(x).argmax(1)

    return predict, asked


def started(teacher, number, pool, candidates):
    """Images and the classes to find, who is asked and how much so far, and points on the boundaries."""
    x, target, _, _ = pairs(teacher, images(number))
    predict, asked = counting(teacher)
    index = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, candidates)
    return x, target, predict, asked, boundary.boundary_distance(predict, x, target, pool, index)
