"""Brackets and binary search: boundary points on straight lines from an image to candidates."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
SLACK = 0.01  # relative improvement below which a candidate is not worth a search; 1e-4: about 7 queries more a winner


class BoundaryPoints(NamedTuple):
    """One boundary point per pair."""

    point: Tensor  #: ``(P, C, H, W)``, on the target's side of the boundary; the image itself where none was found
    distance: Tensor  #: L2 distance ``(P,)`` to the pair's image, in pixel units; inf where none was found
    queries: Tensor  #: images asked for each pair ``(P,)``, int64


def any_but(own: Tensor) -> Tensor:
    """The target "every class but ``own``" ``(P,)``: class m is written as ``~m``, a negative number."""
    return ~own


def is_target(label: Tensor, target: Tensor) -> Tensor:
    """Whether class indices ``(P,)`` are the target: the class itself, or all but one where :func:`any_but` made it."""
    return (label == target) | ((target < 0) & (label != ~target))


class Asker:
    """Packs points into batches for ``predict``: the only place where a search asks something.

    Points are built a batch at a time in two buffers that live as long as the search: fresh memory for every batch
    costs about as much as filling it. All of them are clamped to the pixel box.
    """

    def __init__(self, predict: Predict, images: Tensor, batch_size: int) -> None:
        self.predict, self.shape, self.batch_size = predict, images.shape[1:], batch_size
        self._buffers = images.new_empty(2, batch_size, images[0].numel())

    def along(
        self, origin: Tensor, row: Tensor, other: Tensor, other_row: Tensor, share: Tensor, *, toward: bool = False
    ) -> Tensor:
        """The class indices ``(M,)`` of ``origin + share * other``, or a ``share`` of the way ``toward`` the other."""
        label = torch.empty(len(share), dtype=torch.int64, device=origin.device)
        for start in range(0, len(share), self.batch_size):
            part = slice(start, start + self.batch_size)
            label[part] = self._ask(origin, row[part], other, other_row[part], share[part], toward)[0]
        return label

    def around(self, origin: Tensor, row: Tensor, move: Tensor, which: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Like :meth:`along` for at most one batch; also the moves ``(M, D)`` that the box let through, in a buffer."""
        label, base, points = self._ask(origin, row, move, which, radius, False)
        return label, points.sub_(base)

    def _ask(
        self, origin: Tensor, row: Tensor, other: Tensor, other_row: Tensor, share: Tensor, toward: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        base, points = self._buffers[:, : len(row)]
        torch.index_select(origin, 0, row, out=base)
        torch.index_select(other, 0, other_row, out=points)
        if toward:
            points.sub_(base)
        points.mul_(share[:, None]).add_(base).clamp_(0, 1)
        return self.predict(points.view(-1, *self.shape)), base, points


def boundary_distance(
    predict: Predict,
    images: Tensor,
    target: Tensor,
    candidates: Tensor,
    candidate_index: Tensor,
    *,
    tolerance: float = 1e-5,
    batch_size: int = 256,
) -> BoundaryPoints:
    """Boundary Distance: binary search towards each candidate, the nearest boundary point wins, Eq. 3 of [Wang2021]_.

    A later candidate is rejected with one query when its point at 99 % of the best radius so far is not in the target
    class; only winners are searched, to a relative width of 1 %; the last winner is refined to ``tolerance``. The
    returned distance is therefore exact along its direction to ``tolerance`` and at most a factor 1 / 0.99 above the
    minimum over the candidates.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        images: one image per pair ``(P, C, H, W)``, which the classifier does *not* put in the target class.
        target: target class indices ``(P,)``, or :func:`any_but` of them.
        candidates: pool ``(S, C, H, W)``.
        candidate_index: positions in the pool ``(P, S')``, each known to be in the pair's target class; -1 for none.
        tolerance: width of the last bracket, L2 pixel units (the paper's ε, 1e-5).
        batch_size: images per call of ``predict``.

    Returns:
        Boundary points; not found (inf, zero queries) for pairs without candidates.
    """
    search = _CandidateSearch(images.flatten(1), target, candidates.flatten(1), candidate_index, tolerance)
    search.run(Asker(predict, images, batch_size))
    point, distance = search.found()
    return BoundaryPoints(point.view_as(images), distance, search.queries)


def most_boundary_queries(candidates: int, values: int, tolerance: float = 1e-5) -> int:
    """The most images that :func:`boundary_distance` asks for a pair with so many candidates.

    A candidate costs a test and, if it wins, a search to the relative width of 1 %, which halves the radius that the
    next one has to beat as often as it takes longer: these halvings are counted once. The square root of the number of
    an image's values, C * H * W, is the longest distance in the pixel box.
    """
    span = math.sqrt(values)
    halvings = math.log2(max(1.0, span / tolerance))
    refining = math.log2(max(1.0, SLACK * span / tolerance))
    return math.ceil(candidates * (2 - math.log2(SLACK)) + halvings + refining) + 2 if candidates else 0


class _CandidateSearch:
    """The state of :func:`boundary_distance`: a pair tests a candidate, narrows its bracket or refines the winner.

    A step waits for a GPU once, to learn which pairs go on; all else is arithmetic on masks.
    """

    TEST, NARROW, REFINE = 0, 1, 2

    def __init__(self, x0: Tensor, target: Tensor, pool: Tensor, index: Tensor, tolerance: float) -> None:
        self.x0, self.target, self.pool, self.tolerance = x0, target, pool, tolerance
        self.number, self.index = (index >= 0).sum(1), index.clamp_min(0)
        self.length = torch.stack([(pool[column] - x0).norm(dim=1) for column in self.index.T], dim=1)
        self.queries = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        self.turn, self.winner = torch.zeros_like(self.queries), torch.zeros_like(self.queries)
        self.mode = torch.full_like(self.queries, self.NARROW)
        self.upper = self.length[:, 0].clone()
        self.lower = torch.zeros_like(self.upper)
        self.best_lower, self.best_upper = self.lower.clone(), self.upper.clone()

    def run(self, ask: Asker) -> None:
        rows = torch.nonzero(self.number > 0).squeeze(1)
        while len(rows):
            testing = self.mode[rows] == self.TEST
            upper, lower, turn = self.upper[rows], self.lower[rows], self.turn[rows]
            radius = torch.where(testing, upper, (lower + upper) / 2)
            share = radius / self.length[rows, turn].clamp_min(1e-12)
            label = ask.along(self.x0, rows, self.pool, self.index[rows, turn], share, toward=True)
            inside = is_target(label, self.target[rows])
            self.queries[rows] += 1
            self.upper[rows] = torch.where(inside, radius, upper)
            self.lower[rows] = torch.where(inside | testing, lower, radius)
            self._where(rows, testing & inside, mode=self.NARROW)
            self._crown(rows)
            self._advance(rows, testing & ~inside)
            width = self.upper[rows] - self.lower[rows]
            rows = rows[(self.mode[rows] != self.REFINE) | (width > self.tolerance)]

    def found(self) -> tuple[Tensor, Tensor]:
        """Boundary points ``(P, D)``, the images where none was found, and their distances ``(P,)``, inf there."""
        everyone = torch.arange(len(self.x0), device=self.x0.device)
        share = self.upper / self.length[everyone, self.turn].clamp_min(1e-12)
        share = torch.where(self.number > 0, share, 0.0)
        # operation by operation as they were asked, so that they are inside to the last bit
        difference = self.pool[self.index[everyone, self.turn]] - self.x0
        points = difference.mul_(share[:, None]).add_(self.x0).clamp_(0, 1)
        return points, torch.where(self.number > 0, self.upper, math.inf)

    def _crown(self, rows: Tensor) -> None:
        """A bracket that is narrow enough makes its candidate the winner; the next one's turn comes."""
        lower, upper = self.lower[rows], self.upper[rows]
        narrow = upper - lower <= (SLACK * upper).clamp_min(self.tolerance)
        won = (self.mode[rows] == self.NARROW) & narrow
        self._where(rows, won, winner=self.turn[rows], best_lower=lower, best_upper=upper)
        self._advance(rows, won)

    def _advance(self, rows: Tensor, those: Tensor) -> None:
        """Turn, where ``those`` says so, to the next candidate, or to refining the winner when there is none."""
        over = self.turn[rows] + 1 >= self.number[rows]
        best_lower, best_upper = self.best_lower[rows], self.best_upper[rows]
        done, going = those & over, those & ~over
        self._where(rows, done, mode=self.REFINE, turn=self.winner[rows], lower=best_lower, upper=best_upper)
        self.turn[rows] += going.long()
        length, to_beat = self.length[rows, self.turn[rows]], best_upper * (1 - SLACK)
        # a candidate nearer than the radius to beat is known to be inside: no test needed
        mode = torch.where(length < to_beat, self.NARROW, self.TEST)
        self._where(rows, going, mode=mode, upper=torch.minimum(length, to_beat), lower=0.0)

    def _where(self, rows: Tensor, those: Tensor, **values: Tensor | float) -> None:
        """Set a part of the state in ``those`` of the rows, a mask of them."""
        for name, value in values.items():
            state: Tensor = getattr(self, name)
            state[rows] = torch.where(those, value, state[rows])
