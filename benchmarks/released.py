"""The released DB3KD search, written anew from a description of what it does: the baseline of boundary.py.

It is a targeted Sign-OPT (Cheng et al., ICLR 2020) over a batch: random candidates, a moving unit direction, 200
probes of relative norm 1e-3, a line search whose step is shared by the batch, bisection to 2e-6. Its quirks are
kept, because they cost queries: the bracket of a failed candidate restarts from 0, the quartering search always
follows the doubling one, and the radius it keeps is that of the unclamped point.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]


class ReleasedSearch:
    """All pairs of a batch in lockstep.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        images: one image per pair ``(P, C, H, W)``.
        target: target class indices ``(P,)``.
        seed: owner of candidates and probes.
    """

    def __init__(self, predict: Predict, images: Tensor, target: Tensor, seed: int = 0) -> None:
        self.predict, self.shape, self.target = predict, images.shape[1:], target
        self.x0 = images.flatten(1)
        self.queries = torch.zeros(len(images), dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(seed)

    def ask(self, theta: Tensor, radius: Tensor, rows: Tensor, copies: int = 1) -> Tensor:
        """Whether clamped points along directions are in the target class."""
        points = (self.x0[rows].repeat_interleave(copies, 0) + theta * radius.repeat_interleave(copies)[:, None]).clamp(
            0, 1
        )
        labels = torch.cat([self.predict(chunk) for chunk in points.view(-1, *self.shape).split(256)])
        self.queries[rows] += copies
        return labels == self.target[rows].repeat_interleave(copies)

    def bisect(self, theta: Tensor, low: Tensor, high: Tensor, tolerance: float, rows: Tensor) -> Tensor:
        """The radius at which each direction enters the target class, from outside ``low`` and inside ``high``."""
        while len(rows := rows[high[rows] - low[rows] > tolerance]):
            middle = (low[rows] + high[rows]) / 2
            inside = self.ask(theta[rows], middle, rows)
            high[rows] = torch.where(inside, middle, high[rows])
            low[rows] = torch.where(inside, low[rows], middle)
        return high

    def candidates(self, pool: Tensor, pool_class: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """BD: candidates in random order, searched only if inside at the best radius so far."""
        everyone = torch.arange(len(self.x0))
        best, direction = torch.full((len(self.x0),), torch.inf), torch.zeros_like(self.x0)
        members = {k: torch.nonzero(pool_class == k).squeeze(1) for k in self.target.unique().tolist()}
        order = {k: rows[torch.randperm(len(rows), generator=self.generator)] for k, rows in members.items()}
        for turn in range(number):
            chosen = torch.tensor([int(order[int(t)][turn % len(order[int(t)])]) for t in self.target])
            difference = pool[chosen].flatten(1) - self.x0
            length = difference.norm(dim=1)
            theta = difference / length[:, None]
            rows = everyone
            if turn:
                rows = everyone[self.ask(theta, torch.minimum(best, length), everyone)]
            high = torch.minimum(best, length)
            high = self.bisect(theta, torch.zeros_like(high), high, 1e-5, rows)
            better = torch.zeros(len(high), dtype=torch.bool)
            better[rows] = high[rows] < best[rows]
            best[better], direction[better] = high[better], theta[better]
        return direction, best

    def local(self, theta: Tensor, start: Tensor, tolerance: float) -> Tensor:
        """The radius of a changed direction: grow or shrink by 1 % to a bracket, then bisect."""
        everyone = torch.arange(len(theta))
        inside = self.ask(theta, start, everyone)
        low, high = torch.zeros_like(start), start.clone()
        rows = everyone[~inside]
        while len(rows):
            high[rows] *= 1.01
            rows = rows[high[rows] <= 100]
            rows = rows[~self.ask(theta[rows], high[rows], rows)] if len(rows) else rows
        lost = high > 100
        rows = everyone[inside]
        while len(rows):
            low[rows] = high[rows] * 0.99
            still = self.ask(theta[rows], low[rows], rows)
            high[rows[still]] = low[rows[still]]
            rows = rows[still]
        high = self.bisect(theta, low, high, tolerance, everyone[~lost])
        return torch.where(lost, torch.inf, high)

    def minimise(self, theta: Tensor, radius: Tensor, limit: int) -> Iterator[tuple[float, float]]:
        """MBD: yields (mean queries, mean distance) after every iteration until the mean passes the limit."""
        alpha, beta, everyone = 0.2, 1e-3, torch.arange(len(theta))
        while float(self.queries.float().mean()) < limit and beta > 1e-8:
            u = torch.randn(len(theta), 200, theta.shape[1], generator=self.generator)
            u = u / u.norm(dim=2, keepdim=True) * 1e-3
            probes = theta[:, None] + u
            probes = (probes / probes.norm(dim=2, keepdim=True)).flatten(0, 1)
            inside = self.ask(probes, radius, everyone, copies=200).view(len(theta), 200)
            gradient = torch.einsum("pq,pqd->pd", 1 - 2 * inside.float(), u)
            best_theta, best = theta.clone(), radius.clone()
            for factor, start in ((2.0, None), (0.25, theta)):
                for _ in range(15):
                    alpha = alpha * factor if factor < 1 else alpha
                    moved = (best_theta if start is None else start) - alpha * gradient
                    moved = moved / moved.norm(dim=1, keepdim=True)
                    reached = self.local(moved, best, beta / 500)
                    alpha = alpha * factor if factor > 1 else alpha
                    better = reached < best
                    best_theta[better], best[better] = moved[better], reached[better]
                    if bool(better.any()) == (factor < 1):
                        break
            theta, radius = best_theta, best
            if alpha < 1e-4:
                alpha, beta = 1.0, beta * 0.1
            yield float(self.queries.float().mean()), float(radius.mean())
