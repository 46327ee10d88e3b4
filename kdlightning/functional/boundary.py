"""How far an image is from a classifier's decision boundaries, found with top-1 labels only.

Every function takes ``predict: Callable[[Tensor], Tensor]`` (pixels in [0, 1] ``(M, C, H, W)`` to class indices
``(M,)``), not a teacher: what it cannot see it cannot miscount. Work is done on *pairs* (image, target class), all at
once: each round asks one image for every unfinished pair, in batches of at most ``batch_size``, and a pair that is done
leaves. A pair's result depends on nothing but the pair, so that any split over batches and processes gives the same.

All points lie in the pixel box, so a distance is that of an image that was really shown to the classifier.

.. [Wang2021] Z. Wang. Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model. ICML 2021.
.. [Chen2020] J. Chen, M. Jordan, M. Wainwright. HopSkipJumpAttack. IEEE S&P 2020, arXiv:1904.02144.
.. [Li2020] H. Li et al. QEBA: Query-Efficient Boundary-Based Blackbox Attack. CVPR 2020, arXiv:2005.14137.
.. [Cheng2020] M. Cheng et al. Sign-OPT: A Query-Efficient Hard-label Adversarial Attack. ICLR 2020, arXiv:1909.10773.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
Subspace = Literal["pixels", "frequency", "images"]
TRIES = 6  # steps away from a boundary, each half as long as the one before


class BoundaryPoints(NamedTuple):
    """One boundary point per pair.

    Attributes:
        point: ``(P, C, H, W)``, on the target's side of the boundary; the image itself where none was found.
        distance: L2 distance ``(P,)`` to the pair's image, in pixel units; inf where none was found.
        queries: images asked for each pair ``(P,)``, int64.
    """

    point: Tensor
    distance: Tensor
    queries: Tensor


def any_but(own: Tensor) -> Tensor:
    """The target "every class but ``own``" ``(P,)``: class m is written as ``~m``, a negative number."""
    return ~own


def is_target(label: Tensor, target: Tensor) -> Tensor:
    """Whether class indices ``(P,)`` are the target: the class itself, or all but one where :func:`any_but` made it."""
    return (label == target) | ((target < 0) & (label != ~target))


class _Asker:
    """Packs points into batches for ``predict``: the only place where a search asks something.

    Points are built a batch at a time in two buffers that live as long as the search: fresh memory for every batch
    costs about as much as filling it. All of them are clamped to the pixel box.
    """

    def __init__(self, predict: Predict, images: Tensor, batch_size: int) -> None:
        self.predict, self.shape, self.batch_size = predict, images.shape[1:], batch_size
        self._buffers = images.new_empty(2, batch_size, images[0].numel())

    def along(self, origin: Tensor, origin_row: Tensor, move: Tensor, move_row: Tensor, radius: Tensor) -> Tensor:
        """The class indices ``(M,)`` of ``origin + radius * move``; nothing is asked for M = 0."""
        label = torch.empty(len(radius), dtype=torch.int64, device=origin.device)
        for start in range(0, len(radius), self.batch_size):
            part = slice(start, start + self.batch_size)
            base, points = self._select(origin, origin_row[part], move, move_row[part])
            label[part] = self._label(points.mul_(radius[part, None]).add_(base).clamp_(0, 1))
        return label

    def toward(self, origin: Tensor, origin_row: Tensor, end: Tensor, end_row: Tensor, share: Tensor) -> Tensor:
        """The class indices ``(M,)`` of the points at a share of the way from ``origin`` to ``end``."""
        label = torch.empty(len(share), dtype=torch.int64, device=origin.device)
        for start in range(0, len(share), self.batch_size):
            part = slice(start, start + self.batch_size)
            base, points = self._select(origin, origin_row[part], end, end_row[part])
            label[part] = self._label(points.sub_(base).mul_(share[part, None]).add_(base).clamp_(0, 1))
        return label

    def around(
        self, origin: Tensor, origin_row: Tensor, move: Tensor, move_row: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Like :meth:`along` for at most one batch; also the moves ``(M, D)`` that the box let through, in a buffer."""
        base, points = self._select(origin, origin_row, move, move_row)
        label = self._label(points.mul_(radius[:, None]).add_(base).clamp_(0, 1))
        return label, points.sub_(base)

    def _select(self, one: Tensor, one_row: Tensor, other: Tensor, other_row: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self._buffers[:, : len(one_row)]
        torch.index_select(one, 0, one_row, out=first)
        torch.index_select(other, 0, other_row, out=second)
        return first, second

    def _label(self, points: Tensor) -> Tensor:
        return self.predict(points.view(-1, *self.shape))


def sample_distance(images: Tensor, candidates: Tensor, candidate_class: Tensor, num_classes: int) -> Tensor:
    """Sample Distance: L2 distance to the nearest image of every class, Eq. 2 of [Wang2021]_. Asks nothing.

    Args:
        images: ``(N, C, H, W)``.
        candidates: images ``(S, C, H, W)`` to measure against.
        candidate_class: class indices ``(S,)`` of the candidates.
        num_classes: K.

    Returns:
        Distances ``(N, K)``; inf for a class without candidates.
    """
    distance = _pairwise_distance(images.flatten(1), candidates.flatten(1))
    out = images.new_full((len(images), num_classes), math.inf)
    for k in candidate_class.unique().tolist():
        out[:, k] = distance[:, candidate_class == k].amin(1)  # Eq. (2)
    return out


def nearest_candidates(
    images: Tensor, candidates: Tensor, candidate_class: Tensor, target: Tensor, number: int
) -> Tensor:
    """Positions of the candidates of the target class that are nearest to each image, nearest first. Asks nothing.

    Args:
        images: one image per pair ``(P, C, H, W)``.
        candidates: the pool ``(S, C, H, W)``.
        candidate_class: the *teacher's* class indices ``(S,)`` of the pool.
        target: target class indices ``(P,)``, or :func:`any_but` of them.
        number: how many for each pair.

    Returns:
        int64 ``(P, number)``, -1 where the class has fewer.
    """
    out = torch.full((len(images), number), -1, dtype=torch.int64, device=images.device)
    flat, pool = images.flatten(1), candidates.flatten(1)
    for k in target.unique().tolist():
        members = torch.nonzero(is_target(candidate_class, torch.as_tensor(k))).squeeze(1)
        if len(members):
            rows = torch.nonzero(target == k).squeeze(1)
            distance = _pairwise_distance(flat[rows], pool[members])
            nearest = distance.topk(min(number, len(members)), dim=1, largest=False).indices
            out[rows, : nearest.shape[1]] = members[nearest]
    return out


def boundary_distance(
    predict: Predict,
    images: Tensor,
    target: Tensor,
    candidates: Tensor,
    candidate_index: Tensor,
    *,
    tolerance: float = 1e-5,
    slack: float = 0.01,
    batch_size: int = 256,
) -> BoundaryPoints:
    """Boundary Distance: binary search towards each candidate, the nearest boundary point wins, Eq. 3 of [Wang2021]_.

    A later candidate is rejected with one query when its point at (1 - ``slack``) times the best radius so far is not
    in the target class; only winners are searched, to a relative width of ``slack``; the last winner is refined to
    ``tolerance``. The returned distance is therefore exact along its direction to ``tolerance`` and at most a factor
    1 / (1 - slack) above the minimum over the candidates; ``slack=1e-4`` costs about 7 queries more per winner.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        images: one image per pair ``(P, C, H, W)``, which the classifier does *not* put in the target class.
        target: target class indices ``(P,)``, or :func:`any_but` of them.
        candidates: pool ``(S, C, H, W)``.
        candidate_index: positions in the pool ``(P, S')``, each known to be in the pair's target class; -1 for none.
        tolerance: width of the last bracket, L2 pixel units (the paper's ε, 1e-5).
        slack: relative improvement below which a candidate is not worth a search.
        batch_size: images per call of ``predict``.

    Returns:
        Boundary points; not found (inf, zero queries) for pairs without candidates.
    """
    ask = _Asker(predict, images, batch_size)
    search = _CandidateSearch(images.flatten(1), target, candidates.flatten(1), candidate_index, tolerance, slack)
    search.run(ask)
    return BoundaryPoints(search.points().view_as(images), search.distance(), search.queries)


def most_boundary_queries(candidates: int, values: int, tolerance: float = 1e-5, slack: float = 0.01) -> int:
    """The most images that :func:`boundary_distance` asks for a pair.

    A candidate costs a test and, if it wins, a search to the relative width ``slack``, which halves the radius that the
    next one has to beat as often as it takes longer: these halvings are counted once.

    Args:
        candidates: for the pair.
        values: of an image, C * H * W: its square root is the longest distance in the pixel box.
        tolerance: see :func:`boundary_distance`.
        slack: see :func:`boundary_distance`.
    """
    span = math.sqrt(values)
    halvings = math.log2(max(1.0, span / tolerance))
    refining = math.log2(max(1.0, slack * span / tolerance))
    return math.ceil(candidates * (2 - math.log2(slack)) + halvings + refining) + 2 if candidates else 0


class _CandidateSearch:
    """The state of :func:`boundary_distance`: a pair tests a candidate, narrows its bracket or refines the winner."""

    TEST, NARROW, REFINE = 0, 1, 2

    def __init__(self, x0: Tensor, target: Tensor, pool: Tensor, index: Tensor, tolerance: float, slack: float) -> None:
        self.x0, self.target, self.pool = x0, target, pool
        self.tolerance, self.slack = tolerance, slack
        self.number, self.index = (index >= 0).sum(1), index.clamp_min(0)
        self.length = torch.stack([(pool[column] - x0).norm(dim=1) for column in self.index.T], dim=1)
        self.queries = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        self.turn, self.winner = torch.zeros_like(self.queries), torch.zeros_like(self.queries)
        self.mode = torch.full_like(self.queries, self.NARROW)
        self.upper = self.length[:, 0].clone()
        self.lower = torch.zeros_like(self.upper)
        self.best_lower, self.best_upper = self.lower.clone(), self.upper.clone()

    def run(self, ask: _Asker) -> None:
        rows = torch.nonzero(self.number > 0).squeeze(1)
        while len(rows):
            testing = self.mode[rows] == self.TEST
            upper, lower, turn = self.upper[rows], self.lower[rows], self.turn[rows]
            radius = torch.where(testing, upper, (lower + upper) / 2)
            share = radius / self.length[rows, turn].clamp_min(1e-12)
            label = ask.toward(self.x0, rows, self.pool, self.index[rows, turn], share)
            inside = is_target(label, self.target[rows])
            self.queries[rows] += 1
            self.upper[rows] = torch.where(inside, radius, upper)
            self.lower[rows] = torch.where(inside | testing, lower, radius)
            self.mode[rows[testing & inside]] = self.NARROW
            self._crown(rows)
            self._advance(rows[testing & ~inside])
            width = self.upper[rows] - self.lower[rows]
            rows = rows[(self.mode[rows] != self.REFINE) | (width > self.tolerance)]

    def points(self) -> Tensor:
        """Boundary points ``(P, D)``, the images where none was found."""
        everyone = torch.arange(len(self.x0), device=self.x0.device)
        share = self.upper / self.length[everyone, self.turn].clamp_min(1e-12)
        share = torch.where(self.number > 0, share, 0.0)
        # operation by operation as they were asked, so that they are inside to the last bit
        difference = self.pool[self.index[everyone, self.turn]] - self.x0
        return difference.mul_(share[:, None]).add_(self.x0).clamp_(0, 1)

    def distance(self) -> Tensor:
        """Their distances ``(P,)``, inf where none was found."""
        return torch.where(self.number > 0, self.upper, math.inf)

    def _crown(self, rows: Tensor) -> None:
        """A bracket that is narrow enough makes its candidate the winner; the next one's turn comes."""
        narrow = self.upper[rows] - self.lower[rows] <= (self.slack * self.upper[rows]).clamp_min(self.tolerance)
        won = rows[(self.mode[rows] == self.NARROW) & narrow]
        self.winner[won], self.best_lower[won], self.best_upper[won] = self.turn[won], self.lower[won], self.upper[won]
        self._advance(won)

    def _advance(self, rows: Tensor) -> None:
        """Turn to the next candidate, or to refining the winner when there is none."""
        over = self.turn[rows] + 1 >= self.number[rows]
        done, rows = rows[over], rows[~over]
        self.mode[done], self.turn[done] = self.REFINE, self.winner[done]
        self.lower[done], self.upper[done] = self.best_lower[done], self.best_upper[done]
        self.turn[rows] += 1
        length, to_beat = self.length[rows, self.turn[rows]], self.best_upper[rows] * (1 - self.slack)
        # a candidate nearer than the radius to beat is known to be inside: no test needed
        self.mode[rows] = torch.where(length < to_beat, self.NARROW, self.TEST)
        self.upper[rows] = torch.minimum(length, to_beat)
        self.lower[rows] = 0.0


def minimal_boundary_distance(
    predict: Predict,
    images: Tensor,
    target: Tensor,
    start: BoundaryPoints,
    key: Tensor,
    bank: Tensor,
    *,
    num_probes: int = 200,
    step: float = 0.2,
    probe_radius: float = 0.1,
    tolerance: float = 1e-3,
    query_limit: int = 1000,
    patience: int = 3,
    batch_size: int = 256,
) -> BoundaryPoints:
    """Minimal Boundary Distance: move a boundary point along the boundary towards its image, Eqs. 4-5 of [Wang2021]_.

    Each iteration estimates the boundary's normal from ``num_probes`` labels around the boundary point (Eqs. 4-5), goes
    a step along it, and pulls back to the boundary on the line to the image (Eq. 3). The step is searched per pair: if
    a step helps, twice as much is tried, otherwise half.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        images: one image per pair ``(P, C, H, W)``.
        target: target class indices ``(P,)``, or :func:`any_but` of them.
        start: where to begin, from :func:`boundary_distance`; its queries count towards the limit.
        key: an int64 number ``(P,)`` of each pair that no batching changes; it owns the pair's draws.
        bank: unit-norm probe directions ``(B, D)`` from :func:`probe_bank`, B >= ``num_probes``.
        num_probes: Q of Eq. 4, at most B.
        step: ξ_d, the first step, relative to the present distance.
        probe_radius: ε_g, L2 norm of a probe relative to the present distance.
        tolerance: width of the bracket of a pulled-back point, relative to the distance.
        query_limit: images per pair, never exceeded, the queries of ``start`` included.
        patience: a pair stops when this many iterations in a row gain less than ``tolerance``.
        batch_size: images per call of ``predict``.

    Returns:
        Boundary points, never further than ``start``.

    Raises:
        ValueError: more probes than the bank holds.
    """
    if num_probes > len(bank):
        raise ValueError(f"num_probes={num_probes} but the bank holds {len(bank)} directions: make a larger bank")
    ask = _Asker(predict, images, batch_size)
    walk = _Walk(ask, images.flatten(1), target, start, tolerance, query_limit)
    xi = torch.full_like(walk.distance, step)
    stalled = torch.zeros_like(walk.queries)
    iteration = 0
    while True:
        affordable = walk.queries + num_probes < query_limit
        rows = torch.nonzero(torch.isfinite(walk.distance) & (walk.distance > 0) & affordable & (stalled < patience))
        rows = rows.squeeze(1)
        if not len(rows):
            return BoundaryPoints(walk.point.view_as(images), walk.distance, walk.queries)
        before = walk.distance[rows]
        turn = key[rows] + 104_729 * iteration
        normal = _normals(ask, walk.point[rows], target[rows], probe_radius * before, turn, bank, num_probes)
        walk.queries[rows] += num_probes
        first = walk.step(rows, normal, xi[rows])
        other = xi[rows] * torch.where(first, 2.0, 0.5)
        second = walk.step(rows, normal, other)
        xi[rows] = torch.where(second | ~first, other, xi[rows]).clamp_(1e-3, 4.0)
        gained = before - walk.distance[rows] > tolerance * before
        stalled[rows] = torch.where(gained, 0, stalled[rows] + 1)
        iteration += 1


class _Walk:
    """The state of :func:`minimal_boundary_distance`: the nearest boundary point so far of every pair."""

    def __init__(
        self,
        ask: _Asker,
        x0: Tensor,
        target: Tensor,
        start: BoundaryPoints,
        tolerance: float,
        query_limit: int,
    ) -> None:
        self.ask, self.x0, self.target = ask, x0, target
        self.tolerance, self.query_limit = tolerance, query_limit
        self.point, self.distance = start.point.flatten(1).clone(), start.distance.clone()
        self.queries = start.queries.clone()

    def step(self, rows: Tensor, normal: Tensor, xi: Tensor) -> Tensor:
        """Go ``xi`` times the distance along the normal, pull back to the boundary, keep it if nearer.

        Returns which rows improved ``(M,)``.
        """
        start = self.distance[rows]
        stepped = (self.point[rows] + (xi * start)[:, None] * normal).clamp_(0, 1)  # x̂ = x̄ + ξ_d ∇F, below Eq. (5)
        unit, length = _direction(self.x0[rows], stepped)
        upper = torch.minimum(start, length)
        accepted = self._bracket(rows, unit, upper)
        keep = torch.nonzero(accepted & (upper < start)).squeeze(1)
        self.distance[rows[keep]] = upper[keep]
        self.point[rows[keep]] = torch.addcmul(self.x0[rows[keep]], unit[keep], upper[keep, None]).clamp_(0, 1)
        return accepted & (upper < start)

    def _bracket(self, rows: Tensor, unit: Tensor, upper: Tensor) -> Tensor:
        """Eq. 3 from above: lowers ``upper`` in place to the boundary along ``unit`` where its point is inside.

        One query rejects a direction whose point at ``upper`` is outside; else a lower bracket is looked for below
        90 %, 65 %, ... of the radius, and the bracket halved to the tolerance. A pair at its limit stops where it is.
        """
        inside = self._inside(rows, unit, upper)
        lower, share = torch.zeros_like(upper), torch.full_like(upper, 0.9)
        active = torch.nonzero(inside).squeeze(1)
        while len(active):
            active = active[(self.queries[rows[active]] < self.query_limit) & (upper[active] > 1e-6)]
            a = active
            bracketing = lower[a] == 0
            radius = torch.where(bracketing, share[a] * upper[a], (lower[a] + upper[a]) / 2)
            within = self._inside(rows[a], unit[a], radius)
            upper[a] = torch.where(within, radius, upper[a])
            lower[a] = torch.where(within, lower[a], radius)
            share[a] = torch.where(within & bracketing, share[a] * 0.8, share[a])
            active = a[upper[a] - lower[a] > self.tolerance * upper[a]]
        return inside

    def _inside(self, rows: Tensor, unit: Tensor, radius: Tensor) -> Tensor:
        """One query a row, none for rows at their limit (which count as outside)."""
        inside = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        can = torch.nonzero(self.queries[rows] < self.query_limit).squeeze(1)
        some = rows[can]
        inside[can] = is_target(self.ask.along(self.x0, some, unit, can, radius[can]), self.target[some])
        self.queries[some] += 1
        return inside


def boundary_normal(
    predict: Predict, point: Tensor, target: Tensor, radius: Tensor, key: Tensor, bank: Tensor, num_probes: int = 200,
    batch_size: int = 256,
) -> Tensor:  # fmt: skip
    """Unit normal of the boundary at a point, towards the target class, by Eqs. 4-5 of [Wang2021]_.

    The mean label is subtracted as in Sec. III-C of [Chen2020]_, and a probe counts as far as the pixel box let it go.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        point: boundary points ``(P, C, H, W)``.
        target: target class indices ``(P,)``, or :func:`any_but` of them.
        radius: L2 norm ``(P,)`` of the probes, pixel units.
        key: the pairs' numbers ``(P,)``, see :func:`minimal_boundary_distance`.
        bank: probe directions ``(B, D)``.
        num_probes: Q.
        batch_size: images per call of ``predict``.

    Returns:
        ``(P, C, H, W)``, L2 norm 1; asks P * Q images.
    """
    ask = _Asker(predict, point, batch_size)
    return _normals(ask, point.flatten(1), target, radius, key, bank, num_probes).view_as(point)


def retreat(
    predict: Predict, images: Tensor, own: Tensor, normal: Tensor, step: float | Tensor, tries: int = TRIES,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Step away from a boundary, o - ξ_o ∇F (Sec. 3.3 of [Wang2021]_), as far as the image stays in its class.

    A step after which the classifier says something else is halved, up to ``tries`` - 1 times; then the image stays.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        images: ``(P, C, H, W)`` in [0, 1].
        own: class indices ``(P,)`` that the images have.
        normal: unit normals ``(P, C, H, W)`` of the boundary, out of the class.
        step: ξ_o, the first step's L2 length in pixel units, for all or ``(P,)``.
        tries: steps tried at most.
        batch_size: images per call of ``predict``.

    Returns:
        The images ``(P, C, H, W)``, how far each has really gone ``(P,)``, which the pixel box may make less than its
        step (0 for none), and the queries ``(P,)``, int64.
    """
    ask = _Asker(predict, images, batch_size)
    flat, away = images.flatten(1), -normal.flatten(1)
    size = torch.as_tensor(step, dtype=images.dtype, device=images.device).expand(len(images)).clone()
    taken, queries = torch.zeros_like(size), torch.zeros_like(own)
    rows = torch.arange(len(images), device=images.device)
    for _ in range(tries):
        if not len(rows):
            break
        stays = ask.along(flat, rows, away, rows, size[rows]) == own[rows]
        queries[rows] += 1
        taken[rows[stays]] = size[rows[stays]]
        rows = rows[~stays]
        size[rows] /= 2
    moved = torch.addcmul(flat, away, taken[:, None]).clamp_(0, 1)  # o <- o - ξ_o ∇F(o*), below Eq. (8)
    return moved.view_as(images), (moved - flat).norm(dim=1), queries


def _normals(
    ask: _Asker, point: Tensor, target: Tensor, radius: Tensor, key: Tensor, bank: Tensor, num_probes: int
) -> Tensor:
    """Eqs. 4-5 for flattened points, one full batch of probes at a time, whichever pairs they belong to."""
    first = (key * 7919) % len(bank)
    signed, plain = torch.zeros_like(point), torch.zeros_like(point)
    balance = torch.zeros_like(radius)
    for start in range(0, len(point) * num_probes, ask.batch_size):
        stop = min(start + ask.batch_size, len(point) * num_probes)
        number = torch.arange(start, stop, device=point.device)
        pair = number // num_probes
        draw = (first[pair] + number % num_probes) % len(bank)
        label, moved = ask.around(point, pair, bank, draw, radius[pair])  # moved: what the box let through of ε_g u
        sign = is_target(label, target[pair]).to(point.dtype).mul_(2).sub_(1)  # Eq. (5)
        here = slice(start // num_probes, (stop - 1) // num_probes + 1)
        member = (pair == torch.arange(here.start, here.stop, device=pair.device)[:, None]).to(point.dtype)
        weighted = member * sign
        with torch.autocast(moved.device.type, enabled=False):  # the teacher may answer in bfloat16, sums may not
            sums = torch.cat([weighted, member]) @ moved
        signed[here] += sums[: len(member)]
        plain[here] += sums[len(member) :]
        balance[here] += weighted.sum(1)
    mean = balance / num_probes
    mean = torch.where(mean.abs() < 1, mean, 0.0)  # labels all alike: nothing to subtract
    gradient = signed - mean[:, None] * plain  # Eq. (4), up to a factor that the normalisation drops
    normal: Tensor = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return normal


def probe_bank(
    shape: torch.Size | tuple[int, int, int],
    *,
    subspace: Subspace = "images",
    images: Tensor | None = None,
    rank: int = 100,
    size: int = 4096,
    seed: int = 0,
) -> Tensor:
    """Unit-norm Gaussian directions for Eq. 4, drawn once and shared by all pairs.

    A normal in D dimensions takes about D labels to estimate, and an image classifier's normals lie mostly where images
    vary [Li2020]_; so the Gaussian vectors are drawn in a subspace.

    Args:
        shape: (C, H, W).
        subspace: ``"pixels"``: all of R^D, the paper's; ``"frequency"``: the lowest ``rank`` two-dimensional cosine
            frequencies of every channel, for when there are no images; ``"images"``: the first ``rank`` principal
            components of the user's own images.
        images: ``(S, C, H, W)`` in [0, 1]; needed by ``"images"``, asks nothing of the teacher.
        rank: dimensions of the subspace (per channel for ``"frequency"``).
        size: number of directions, lowered so that the bank stays under 256 MiB.
        seed: owner of the draw.

    Returns:
        float32 ``(size, C * H * W)``.

    Raises:
        ValueError: ``"images"`` without images.
    """
    channels, height, width = shape
    dim = channels * height * width
    size = min(size, max(256, 2**26 // dim))
    generator = torch.Generator().manual_seed(seed)
    if subspace == "pixels":
        bank = torch.randn(size, dim, generator=generator)
    elif subspace == "frequency":
        basis = _lowest_frequencies(height, width, rank)
        coefficients = torch.randn(size, channels, len(basis), generator=generator)
        bank = (coefficients @ basis).flatten(1)
    else:
        if images is None:
            raise ValueError("subspace='images' needs images; give some, or use subspace='frequency'")
        basis = _principal_components(images.flatten(1).cpu(), rank)
        bank = torch.randn(size, len(basis), generator=generator) @ basis
    unit: Tensor = bank / bank.norm(dim=1, keepdim=True)
    return unit


def _principal_components(flat: Tensor, rank: int) -> Tensor:
    """The first ``rank`` principal directions ``(rank, D)`` of at most 4,000 rows, by the smaller Gram matrix."""
    rows = flat[torch.linspace(0, len(flat) - 1, min(len(flat), 4000)).long()].double()
    rows = rows - rows.mean(0)
    if rows.shape[1] <= 4000:
        basis = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1).T[:rank]
    else:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        basis = (vectors.flip(1).T[:rank] @ rows) / values.flip(0)[:rank, None].clamp_min(1e-12).sqrt()
    components: Tensor = basis.float()
    return components


def _lowest_frequencies(height: int, width: int, rank: int) -> Tensor:
    """The ``rank`` smoothest functions ``(rank, H * W)`` of the orthonormal cosine basis."""

    def cosines(n: int) -> Tensor:
        k, i = torch.arange(n)[:, None], torch.arange(n)[None]
        rows = torch.cos(math.pi * (i + 0.5) * k / n)
        unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
        return unit

    basis = torch.einsum("ai,bj->abij", cosines(height), cosines(width)).reshape(height * width, -1)
    frequency = ((torch.arange(height)[:, None] / height) ** 2 + (torch.arange(width)[None] / width) ** 2).flatten()
    return basis[frequency.argsort(stable=True)[:rank]]


def _direction(origin: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors ``(P, D)`` and lengths ``(P,)`` from one set of points to another."""
    difference = to - origin
    length = difference.norm(dim=1)
    return difference / length.clamp_min(1e-12)[:, None], length


def _pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """L2 distances ``(N, S)`` by one matrix product; the square root of a slightly negative number is 0."""
    with torch.autocast(a.device.type, enabled=False):
        squared = a.pow(2).sum(1)[:, None] + b.pow(2).sum(1)[None] - 2 * a @ b.T
    return squared.clamp_min(0).sqrt()


def activations(robustness: Tensor, own: Tensor, *, normalise: bool = True, floor: float = 1e-3) -> Tensor:
    """Pre-softmax activations of an image from its distances to the other classes, Eqs. 6-7 of [Wang2021]_.

    a_n = (1 / r_n) / S^2 for n != m and a_m = S / S^2, with S the sum of 1 / r_i over i != m.

    Args:
        robustness: distances r ``(N, K)``, L2 pixel units; inf for a class that was never found (1 / r = 0). The own
            class's entry is ignored.
        own: class indices m ``(N,)`` of the images.
        normalise: divide by S^2 (Eq. 7); the released code stops at Eq. 6.
        floor: distances are raised to this, so that an image on a boundary does not outweigh all others.

    Returns:
        ``(N, K)``; the soft label at temperature τ is ``softmax(activations / τ)``. Where no other class was found,
        S is taken as ``floor``: as sure as can be.
    """
    inverse = 1 / robustness.clamp_min(floor)
    rows = torch.arange(len(own), device=own.device)
    inverse[rows, own] = 0.0
    total = inverse.sum(dim=1)
    inverse[rows, own] = total  # Eq. (6)
    if not normalise:
        return inverse
    safe = total.clamp_min(floor)
    inverse[rows, own] = safe
    return inverse / safe[:, None] ** 2  # Eq. (7)
