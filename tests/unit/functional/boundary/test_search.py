import math

import torch
from hyperplanes import SHAPE, counting, images, pairs

from kdlightning.functional import boundary


def test_boundary_distance_is_the_crossing_along_its_direction(teacher):
    x, target, own, _ = pairs(teacher, images(20))
    pool = images(200, seed=2)
    candidates = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 1)
    predict, asked = counting(teacher)
    found = boundary.boundary_distance(predict, x, target, pool, candidates)
    # closed form on the line x + t (c - x): the last class that outweighs the target gives way at t
    start, end = teacher(x), teacher(pool[candidates[:, 0]])
    gap0 = start.gather(1, target[:, None]) - start
    gap1 = end.gather(1, target[:, None]) - end
    crossing = torch.where(gap0 < 0, gap0 / (gap0 - gap1), 0.0).amax(1)
    length = (pool[candidates[:, 0]] - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.distance, crossing * length, atol=1e-4, rtol=0)
    assert (teacher(found.point).argmax(1) == target).all()
    assert sum(asked) == int(found.queries.sum())
    assert (own != target).all()


def test_more_candidates_come_within_the_slack_of_the_best_one(teacher):
    x, target, _, _ = pairs(teacher, images(10))
    pool = images(300, seed=2)
    label = teacher(pool).argmax(1)
    many = boundary.nearest_candidates(x, pool, label, target, 30)
    predict, _ = counting(teacher)
    each = torch.stack(
        [boundary.boundary_distance(predict, x, target, pool, many[:, [s]]).distance for s in range(many.shape[1])]
    )
    found = boundary.boundary_distance(predict, x, target, pool, many)
    exact = each.amin(0)
    assert (found.distance >= exact - 1e-4).all()
    assert (found.distance <= exact / 0.99 + 1e-4).all()


def test_a_rejected_candidate_costs_one_query(teacher):
    x, target, _, _ = pairs(teacher, images(1))
    x, target = x[:1], target[:1]
    pool = images(300, seed=2)
    order = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 50)
    predict, _ = counting(teacher)
    alone = [boundary.boundary_distance(predict, x, target, pool, order[:, [s]]) for s in range(50)]
    best = min(range(50), key=lambda s: float(alone[s].distance))
    worst = max(range(50), key=lambda s: float(alone[s].distance))
    both = boundary.boundary_distance(predict, x, target, pool, order[:, [best, worst]])
    assert int(both.queries) == int(alone[best].queries) + 1


def test_a_class_without_candidates_is_not_found_and_costs_nothing(teacher):
    x = images(2)
    target = torch.tensor([0, 1])
    predict, asked = counting(teacher)
    none = torch.full((2, 3), -1)
    found = boundary.boundary_distance(predict, x, target, images(5), none)
    assert torch.isinf(found.distance).all()
    assert found.queries.tolist() == [0, 0]
    bank = boundary.probe_bank(SHAPE, subspace="pixels")
    after = boundary.minimal_boundary_distance(predict, x, target, found, torch.arange(2), bank)
    assert torch.isinf(after.distance).all()
    assert asked == []


def test_the_target_may_be_every_class_but_one(teacher):
    x = images(6)
    own, target = teacher(x).argmax(1), boundary.any_but(teacher(x).argmax(1))
    assert target.tolist() == [-1 - m for m in own.tolist()]
    label = torch.tensor([0, 1, 2, 3])
    assert boundary.is_target(label, torch.tensor([~1] * 4)).tolist() == [True, False, True, True]
    assert boundary.is_target(label, torch.tensor([1] * 4)).tolist() == [False, True, False, False]

    pool = images(80, seed=2, spread=0.3)
    pool_class = teacher(pool).argmax(1)
    index = boundary.nearest_candidates(x, pool, pool_class, target, 10)
    assert (pool_class[index] != own[:, None]).all()
    predict, _ = counting(teacher)
    start = boundary.boundary_distance(predict, x, target, pool, index)
    bank = boundary.probe_bank(SHAPE, subspace="pixels", size=1024)
    found = boundary.minimal_boundary_distance(
        predict, x, target, start, torch.arange(6), bank, num_probes=100, query_limit=3000, tolerance=1e-3
    )
    # a search ends at the foot on one of the hyperplanes between the own class and another, mostly on the nearest
    flat, weight, bias = x.flatten(1), teacher.weight, teacher.bias
    logits = flat @ weight.T + bias
    gap = logits.gather(1, own[:, None]) - logits
    steep = (weight[own][:, None] - weight[None]).norm(dim=2)
    feet = (gap / steep).scatter(1, own[:, None], math.inf)
    assert (found.distance >= feet.amin(1) - 1e-4).all()
    assert ((found.distance[:, None] / feet - 1).abs().amin(1) < 0.03).all()
    assert float(found.distance.median() / feet.amin(1).median()) < 1.03
    assert (teacher(found.point).argmax(1) != own).all()
