"""The boundary's normal from labels around a point, and the way along the boundary that it shows."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdlightning.functional.boundary.search import Asker, BoundaryPoints, Predict, is_target
from kdlightning.functional.boundary.surrogate import Guide, guided_normals

TRIES = 6  # steps away from a boundary, each half as long as the one before


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
    tolerance: float = 1e-2,
    query_limit: int = 1000,
    patience: int = 3,
    memory: float = 0.7,
    guide: Guide | None = None,
    batch_size: int = 256,
) -> BoundaryPoints:
    """Minimal Boundary Distance: move a boundary point along the boundary towards its image, Eqs. 4-5 of [Wang2021]_.

    Each iteration estimates the boundary's normal from ``num_probes`` labels around the boundary point (Eqs. 4-5), goes
    a step along it, and pulls back to the boundary on the line to the image (Eq. 3). The step is searched per pair: if
    a step helps, twice as much is tried, otherwise half. The boundary turns little between two iterations, so what the
    earlier ones have told of the normal is kept, and fades.

    With a ``guide``, a network whose boundaries are like the classifier's, its normals are followed first, which asks
    for the steps only; when they lead nowhere any more, they are averaged with the estimated ones.

    Args:
        predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``.
        images: one image per pair ``(P, C, H, W)``.
        target: target class indices ``(P,)``, or :func:`any_but` of them.
        start: where to begin, from :func:`boundary_distance`; its queries count towards the limit.
        key: an int64 number ``(P,)`` of each pair that no batching changes; it owns the pair's draws.
        bank: unit-norm probe directions ``(B, D)`` from :func:`probe_bank`.
        num_probes: Q of Eq. 4, at most B, else a ValueError.
        step: ξ_d, the first step, relative to the present distance.
        probe_radius: ε_g, L2 norm of a probe relative to the present distance.
        tolerance: width of the bracket of a pulled-back point, relative to the distance.
        query_limit: images per pair, never exceeded, the queries of ``start`` included.
        patience: a pair stops when this many iterations in a row gain less than ``tolerance``.
        memory: weight of the normal of the iteration before, itself a mean with those before it; 0 forgets.
        guide: pixels ``(M, C, H, W)`` to logits ``(M, K)``, differentiable; asking it costs nothing.
        batch_size: images per call of ``predict``.

    Returns:
        Boundary points, never further than ``start``.
    """
    if num_probes > len(bank):
        raise ValueError(f"num_probes={num_probes} but the bank holds {len(bank)} directions: make a larger bank")
    ask = Asker(predict, images, batch_size)
    walk = _Walk(ask, images.flatten(1), target, start, tolerance, query_limit)
    if guide is not None:
        walk.descend(lambda rows, _: walk.guided(rows, guide), 0, step, patience)
    known = torch.zeros_like(walk.point)

    def estimated(rows: Tensor, iteration: int) -> Tensor:
        radius, turn = probe_radius * walk.distance[rows], key[rows] * 7919 + iteration
        normal = _normals(ask, walk.point[rows], target[rows], radius, turn, bank, num_probes)
        known[rows] = _unit(normal + memory * known[rows])
        return known[rows] if guide is None else _unit(known[rows] + walk.guided(rows, guide))

    walk.descend(estimated, num_probes, step, patience)
    return BoundaryPoints(walk.point.view_as(images), walk.distance, walk.queries)


class _Walk:
    """The state of :func:`minimal_boundary_distance`: the nearest boundary point so far of every pair."""

    def __init__(
        self, ask: Asker, x0: Tensor, target: Tensor, start: BoundaryPoints, tolerance: float, query_limit: int
    ) -> None:
        self.ask, self.x0, self.target = ask, x0, target
        self.tolerance, self.query_limit = tolerance, query_limit
        self.point, self.distance = start.point.flatten(1).clone(), start.distance.clone()
        self.queries = start.queries.clone()

    def descend(self, normal: Callable[[Tensor, int], Tensor], cost: int, step: float, patience: int) -> None:
        """Follow normals ``(M, D)`` of rows ``(M,)``, each of ``cost`` queries, until no pair gains or can pay more."""
        xi = torch.full_like(self.distance, step)
        stalled, iteration = torch.zeros_like(self.queries), 0
        while True:
            affordable = self.queries + cost < self.query_limit
            going = torch.isfinite(self.distance) & (self.distance > 0) & affordable & (stalled < patience)
            rows = torch.nonzero(going).squeeze(1)
            if not len(rows):
                return
            before, along = self.distance[rows], normal(rows, iteration)
            self.queries[rows] += cost
            first = self.step(rows, along, xi[rows])
            other = xi[rows] * torch.where(first, 2.0, 0.5)
            second = self.step(rows, along, other)
            xi[rows] = torch.where(second | ~first, other, xi[rows]).clamp_(1e-3, 4.0)
            gained = before - self.distance[rows] > self.tolerance * before
            stalled[rows] = torch.where(gained, 0, stalled[rows] + 1)
            iteration += 1

    def guided(self, rows: Tensor, guide: Guide) -> Tensor:
        """The guide's unit normals ``(M, D)``."""
        points = self.point[rows].view(-1, *self.ask.shape)
        return _unit(guided_normals(guide, points, self.target[rows], self.ask.batch_size).flatten(1))

    def step(self, rows: Tensor, normal: Tensor, xi: Tensor) -> Tensor:
        """Go ``xi`` times the distance along the normal, pull back to the boundary, keep it if nearer.

        Returns which rows improved ``(M,)``.
        """
        start = self.distance[rows]
        stepped = (self.point[rows] + (xi * start)[:, None] * normal).clamp_(0, 1)  # x̂ = x̄ + ξ_d ∇F, below Eq. (5)
        way = stepped - self.x0[rows]
        length = way.norm(dim=1)
        unit, upper = way / length.clamp_min(1e-12)[:, None], torch.minimum(start, length)
        accepted = self._bracket(rows, unit, upper)
        nearer = accepted & (upper < start)
        self.distance[rows] = torch.where(nearer, upper, start)
        pulled = torch.addcmul(self.x0[rows], unit, upper[:, None]).clamp_(0, 1)
        self.point[rows] = torch.where(nearer[:, None], pulled, self.point[rows])
        return nearer

    def _bracket(self, rows: Tensor, unit: Tensor, upper: Tensor) -> Tensor:
        """Eq. 3 from above: lowers ``upper`` in place to the boundary along ``unit`` where its point is inside.

        One query rejects a direction whose point at ``upper`` is outside; else a lower bracket is looked for below
        90 %, 65 %, ... of the radius, and the bracket halved to the tolerance. A pair at its limit stops where it is.
        """
        inside = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        asked = torch.nonzero(self._affordable(rows)).squeeze(1)
        inside[asked] = self._inside(rows, asked, unit, upper[asked])
        lower, share = torch.zeros_like(upper), torch.full_like(upper, 0.9)
        going = inside & self._affordable(rows) & (upper > 1e-6)
        while len(a := torch.nonzero(going).squeeze(1)):
            bracketing = lower[a] == 0
            radius = torch.where(bracketing, share[a] * upper[a], (lower[a] + upper[a]) / 2)
            within = self._inside(rows, a, unit, radius)
            upper[a] = torch.where(within, radius, upper[a])
            lower[a] = torch.where(within, lower[a], radius)
            share[a] = torch.where(within & bracketing, share[a] * 0.8, share[a])
            wide = upper[a] - lower[a] > self.tolerance * upper[a]
            going[a] = wide & self._affordable(rows[a]) & (upper[a] > 1e-6)
        return inside

    def _affordable(self, rows: Tensor) -> Tensor:
        return self.queries[rows] < self.query_limit

    def _inside(self, rows: Tensor, asked: Tensor, unit: Tensor, radius: Tensor) -> Tensor:
        """Whether the points of rows ``asked`` ``(M,)``, positions among the rows, are inside: a query each."""
        some = rows[asked]
        inside = is_target(self.ask.along(self.x0, some, unit, asked, radius), self.target[some])
        self.queries[some] += 1
        return inside


def boundary_normal(
    predict: Predict, point: Tensor, target: Tensor, radius: Tensor, key: Tensor, bank: Tensor, num_probes: int = 200,
    batch_size: int = 256,
) -> Tensor:  # fmt: skip
    """Unit normal of the boundary at a point, towards the target class, by Eqs. 4-5 of [Wang2021]_.

    The mean label is subtracted as in Sec. III-C of [Chen2020]_, and a probe counts as far as the pixel box let it go.
    Points are ``(P, C, H, W)``, the radius is the probes' L2 norm ``(P,)`` in pixel units; other arguments as for
    :func:`minimal_boundary_distance`.

    Returns:
        ``(P, C, H, W)``, L2 norm 1; asks P * Q images.
    """
    ask = Asker(predict, point, batch_size)
    return _normals(ask, point.flatten(1), target, radius, key * 7919, bank, num_probes).view_as(point)


def retreat(
    predict: Predict, images: Tensor, own: Tensor, normal: Tensor, step: float | Tensor, tries: int = TRIES,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Step away from a boundary, o - ξ_o ∇F (Sec. 3.3 of [Wang2021]_), as far as the image stays in its class.

    A step after which the classifier says something else is halved, up to ``tries`` - 1 times; then the image stays.
    Images are ``(P, C, H, W)`` in [0, 1] of the classes ``own`` ``(P,)``; the boundary's unit normals ``(P, C, H, W)``
    point out of the class; ξ_o is the first step's L2 length in pixel units, for all or ``(P,)``.

    Returns:
        The images ``(P, C, H, W)``, how far each has really gone ``(P,)``, which the pixel box may make less than its
        step (0 for none), and the queries ``(P,)``, int64.
    """
    ask = Asker(predict, images, batch_size)
    flat, away = images.flatten(1), -normal.flatten(1)
    size = torch.as_tensor(step, dtype=images.dtype, device=images.device).expand(len(images)).clone()
    taken, queries = torch.zeros_like(size), torch.zeros_like(own)
    rows = torch.arange(len(images), device=images.device)
    for _ in range(tries):
        if not len(rows):
            break
        stays = ask.along(flat, rows, away, rows, size[rows]) == own[rows]
        queries[rows] += 1
        taken[rows] = torch.where(stays, size[rows], taken[rows])
        rows = rows[~stays]
        size[rows] /= 2
    moved = torch.addcmul(flat, away, taken[:, None]).clamp_(0, 1)  # o <- o - ξ_o ∇F(o*), below Eq. (8)
    return moved.view_as(images), (moved - flat).norm(dim=1), queries


def _normals(
    ask: Asker, point: Tensor, target: Tensor, radius: Tensor, turn: Tensor, bank: Tensor, num_probes: int
) -> Tensor:
    """Eqs. 4-5 for flattened points, one full batch of probes at a time, whichever pairs they belong to.

    The bank is dealt in hands of ``num_probes``, which a turn ``(P,)`` numbers: the next turn's directions are others.
    """
    first = turn % (len(bank) // num_probes) * num_probes
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
    return _unit(gradient)


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit
