"""How near some points come to others, beside further points that are known to be drawn like those others.

.. [Meehan2020] C. Meehan, K. Chaudhuri, S. Dasgupta. A Non-Parametric Test to Detect Data-Copying in Generative
   Models. AISTATS 2020, arXiv:2004.05675.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta

LEVEL = 0.01  # of the held-out distances, the threshold of "near"
_CHUNK = 500  # rows at a time


def compare(pool: Tensor, local: Tensor, held_out: Tensor) -> dict[str, Any]:
    """How near rows of a pool ``(N, F)`` lie to local rows ``(M, F)``, against held-out rows ``(V, F)``.

    Returns:
        ``pool`` and ``held_out``: the 0, 1, ..., 100 % quantiles of the distance to the nearest local row.
        ``threshold``: the 1 % quantile of the held-out ones. ``share``: that of pool rows at most so far from a local
        row; ``share_expected`` and ``share_by_chance``: its mean and its 95 % quantile if pool rows were held-out rows.
        ``copies``: pool rows at distance 0.
    """
    near, near_held_out = nearest(pool, local)[0], nearest(held_out, local)[0]
    threshold = _quantile(near_held_out, LEVEL)
    return {
        "share": float((near <= threshold).double().mean()),
        "share_expected": _rank(len(held_out)) / (len(held_out) + 1),
        "share_by_chance": _by_chance(len(pool), len(held_out)),
        "threshold": threshold,
        "copies": int((near == 0).sum()),
        "pool": [round(_quantile(near, percent / 100), 5) for percent in range(101)],
        "held_out": [round(_quantile(near_held_out, percent / 100), 5) for percent in range(101)],
    }


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of other rows ``(M, F)`` to rows ``(N, F)``, float32: L2 distances ``(N,)``, positions ``(N,)``.

    Distances are exact: a copy is at distance 0.
    """
    precise = torch.float32 if points.device.type == "mps" else torch.float64
    positions = []
    for some in points.to(precise).split(_CHUNK):
        # by matrix products, ten times as fast as differences; in float64, as they cancel near 0
        mode = "use_mm_for_euclid_dist"
        parts = [torch.cdist(some, part.to(precise), compute_mode=mode) for part in others.split(_CHUNK)]
        positions.append(torch.cat(parts, dim=1).argmin(1))
    position = torch.cat(positions)
    pairs = zip(points.split(_CHUNK), position.split(_CHUNK), strict=True)
    return torch.cat([(some - others[which]).norm(dim=1) for some, which in pairs]), position


def _quantile(distances: Tensor, level: float) -> float:
    """A quantile of Weibull's kind: a further draw lies below it with probability ``level`` (within what n allows)."""
    return float(np.quantile(distances.double().cpu().numpy(), level, method="weibull"))


def _rank(number: int) -> float:
    """Rank, from 1, of the threshold among ``number`` held-out distances."""
    return max(1.0, LEVEL * (number + 1))


def _by_chance(pool: int, held_out: int) -> float:
    """95 % quantile of the share of pool images below the threshold, if they were drawn like the held-out ones.

    The probability below the threshold, an order statistic, follows a Beta distribution; the count is binomial.
    """
    rank = _rank(held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        below = Beta(torch.tensor(rank), torch.tensor(held_out + 1 - rank)).sample((100_000,))
        share = torch.binomial(torch.full_like(below, pool), below) / pool
    return round(float(share.quantile(0.95)), 5)
