"""Answers without what they say about the image itself: what a soft label has to beat in an ablation."""

import torch
from torch import Tensor
from torch.nn import functional as F


def shuffled(answers: Tensor, own: Tensor, seed: int) -> Tensor:
    """Every row's values of the classes other than its own, ``(N, K)`` and ``(N,)``, in an order drawn by the seed.

    As soft as before, row by row; but which class is how near is lost.
    """
    generator = torch.Generator().manual_seed(seed)
    others = ~F.one_hot(own, answers.shape[1]).bool()
    order = torch.rand(len(own), answers.shape[1] - 1, generator=generator).argsort(dim=1)
    out = answers.clone()
    out[others] = answers[others].view_as(order).gather(1, order).flatten()
    return out


def class_means(answers: Tensor, own: Tensor) -> Tensor:
    """Every row of ``(N, K)`` becomes the mean over the rows of its class ``(N,)``: which classes are alike remains.

    Infinite values are left out of a mean; a value that is infinite in all rows of a class stays infinite.
    """
    out = answers.clone()
    for k in own.unique().tolist():
        rows = answers[own == k]
        finite = torch.isfinite(rows)
        total = torch.where(finite, rows, 0.0).sum(0)
        out[own == k] = torch.where(finite.any(0), total / finite.sum(0).clamp_min(1), torch.inf)
    return out
