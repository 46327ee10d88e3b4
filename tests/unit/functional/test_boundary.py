import math

import pytest
import torch
from helpers import Linear

from kdlightning.functional import boundary

K, SHAPE = 4, (1, 6, 6)


@pytest.fixture
def teacher():
    """Four hyperplanes through the middle of the pixel box; images near the middle, so that the box does not bind."""
    weight = torch.randn(K, 36, generator=torch.Generator().manual_seed(0))
    bias = -(weight @ torch.full((36,), 0.5))
    return Linear(weight, bias)


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


def linear_minimum(teacher, x, target):
    """Distance to the region of a class: projection onto {x: (w_t - w_k) x >= ..., all k}, by Dykstra's algorithm."""
    flat, result = x.flatten(1).double(), []
    weight, bias = teacher.weight.double(), teacher.bias.double()
    for row, t in zip(flat, target.tolist(), strict=True):
        others = [k for k in range(K) if k != t]
        point, corrections = row.clone(), {k: torch.zeros_like(row) for k in others}
        for _ in range(2000):
            for k in others:
                normal, offset = weight[t] - weight[k], bias[t] - bias[k]
                moved = point + corrections[k]
                short = (normal @ moved + offset).clamp(max=0) / (normal @ normal)
                point = moved - short * normal
                corrections[k] = moved - point
        result.append((point - row).norm())
    return torch.stack(result).float()


def test_sample_distance_is_the_nearest_image_of_each_class():
    x = torch.zeros(1, *SHAPE)
    pool = torch.stack([torch.full(SHAPE, value) for value in (0.1, 0.2, 0.3)])
    distance = boundary.sample_distance(x, pool, torch.tensor([1, 1, 2]), 4)
    expected = torch.tensor([[math.inf, 0.6, 1.8, math.inf]])  # sqrt(36) times the value
    torch.testing.assert_close(distance, expected)


def test_nearest_candidates_are_sorted_and_padded():
    x = torch.zeros(2, *SHAPE)
    pool = torch.stack([torch.full(SHAPE, value) for value in (0.3, 0.1, 0.2, 0.5)])
    index = boundary.nearest_candidates(x, pool, torch.tensor([1, 1, 1, 2]), torch.tensor([1, 3]), 4)
    assert index.tolist() == [[1, 2, 0, -1], [-1, -1, -1, -1]]


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
    found = boundary.boundary_distance(predict, x, target, pool, many, slack=0.01)
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


def test_minimal_boundary_distance_of_a_linear_teacher(teacher):
    x, target, _, _ = pairs(teacher, images(12))
    pool = images(300, seed=2)
    candidates = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 5)
    predict, asked = counting(teacher)
    start = boundary.boundary_distance(predict, x, target, pool, candidates)
    bank = boundary.probe_bank(SHAPE, subspace="pixels")
    found = boundary.minimal_boundary_distance(
        predict, x, target, start, torch.arange(len(x)), bank, query_limit=6000, patience=5
    )
    minimum = linear_minimum(teacher, x, target)
    assert (found.distance >= minimum - 1e-4).all()
    assert (found.distance / minimum).mean() < 1.02
    assert (found.distance <= 1.05 * minimum).all()
    assert sum(asked) == int(found.queries.sum())


def test_the_query_limit_is_never_exceeded_and_nothing_gets_worse(teacher):
    x, target, _, _ = pairs(teacher, images(10))
    pool = images(100, seed=2)
    candidates = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 3)
    predict, _ = counting(teacher)
    start = boundary.boundary_distance(predict, x, target, pool, candidates)
    bank = boundary.probe_bank(SHAPE, subspace="pixels")
    for limit in (1, 130, 333):
        found = boundary.minimal_boundary_distance(
            predict, x, target, start, torch.arange(len(x)), bank, num_probes=100, query_limit=limit
        )
        assert (found.queries <= torch.maximum(start.queries, torch.tensor(limit))).all()
        assert (found.distance <= start.distance).all()
        assert (teacher(found.point).argmax(1) == target).all()


def test_a_pair_does_not_depend_on_its_batch(teacher):
    x, target, _, _ = pairs(teacher, images(9))
    pool = images(100, seed=2)
    candidates = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 8)
    predict, _ = counting(teacher)
    bank = boundary.probe_bank(SHAPE, subspace="pixels")
    key = torch.arange(len(x)) * 17

    def run(rows):
        start = boundary.boundary_distance(predict, x[rows], target[rows], pool, candidates[rows], batch_size=7)
        return boundary.minimal_boundary_distance(
            predict, x[rows], target[rows], start, key[rows], bank, num_probes=50, query_limit=400, batch_size=7
        )

    together = run(slice(None))
    for row in (0, 5, 20):
        alone = run(slice(row, row + 1))
        torch.testing.assert_close(alone.distance[0], together.distance[row], atol=1e-4, rtol=1e-3)
        assert abs(int(alone.queries[0]) - int(together.queries[row])) <= 2


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


def test_the_normal_of_a_hyperplane(teacher):
    x, target, _, _ = pairs(teacher, images(4))
    pool = images(100, seed=2)
    candidates = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 1)
    predict, asked = counting(teacher)
    start = boundary.boundary_distance(predict, x, target, pool, candidates)
    bank = boundary.probe_bank(SHAPE, subspace="pixels")
    radius = torch.full((len(x),), 1e-3)
    before = sum(asked)
    normal = boundary.boundary_normal(predict, start.point, target, radius, torch.arange(len(x)), bank, num_probes=4000)
    assert sum(asked) - before == 4000 * len(x)
    runner_up = teacher(start.point).topk(2).indices
    other = torch.where(runner_up[:, 0] == target, runner_up[:, 1], runner_up[:, 0])
    expected = teacher.weight[target] - teacher.weight[other]
    cosine = torch.cosine_similarity(normal.flatten(1), expected)
    assert (cosine > 0.97).float().mean() > 0.8
    torch.testing.assert_close(normal.flatten(1).norm(dim=1), torch.ones(len(x)))


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
        predict, x, target, start, torch.arange(6), bank, num_probes=100, query_limit=3000
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


def test_a_teacher_in_bfloat16_leaves_the_search_in_float32(teacher):
    x = images(5)
    own = teacher(x).argmax(1)
    bank = boundary.probe_bank(SHAPE, subspace="pixels", size=512)
    predict, _ = counting(teacher)
    arguments = (x, boundary.any_but(own), torch.full((5,), 0.3), torch.arange(5), bank, 100)
    plain = boundary.boundary_normal(predict, *arguments), boundary.sample_distance(x, x.flip(0), own, K)

    def exact(points):  # the same labels as above, whatever autocast does to a matrix product
        with torch.autocast("cpu", enabled=False):
            return teacher(points).argmax(1)

    with torch.autocast("cpu", torch.bfloat16):
        assert (x.flatten(1) @ teacher.weight.T).dtype == torch.bfloat16
        mixed = boundary.boundary_normal(exact, *arguments), boundary.sample_distance(x, x.flip(0), own, K)
    assert torch.equal(plain[0], mixed[0])
    assert torch.equal(plain[1], mixed[1])


def test_a_retreat_goes_its_step_or_half_of_it_until_the_class_stays():
    # one bright pixel decides: class 1 where the first pixel is above a half
    weight = torch.zeros(2, 36)
    weight[1, 0] = 1.0
    teacher = Linear(weight, torch.tensor([0.5, 0.0]))
    predict, asked = counting(teacher)
    x = torch.full((4, *SHAPE), 0.5)
    x[:, 0, 0, 0] = torch.tensor([0.9, 0.7, 0.52, 0.6])
    own = torch.ones(4, dtype=torch.int64)
    up = torch.zeros_like(x)
    up[:, 0, 0, 0] = 1.0
    toward = torch.stack([up[0], up[1], up[2], -up[3]])  # the last one's normal points out of the class, as it should
    moved, taken, queries = boundary.retreat(predict, x, own, toward, 0.3, tries=4)
    torch.testing.assert_close(moved[:, 0, 0, 0], torch.tensor([0.6, 0.55, 0.52, 0.9]))
    torch.testing.assert_close(taken, torch.tensor([0.3, 0.15, 0.0, 0.3]))
    assert queries.tolist() == [1, 2, 4, 1]
    assert sum(asked) == 8
    assert torch.equal(moved.flatten(1)[:, 1:], x.flatten(1)[:, 1:])


def test_banks_are_unit_norm_and_lie_in_their_subspace():
    pool = images(50) * torch.tensor([1.0, 0, 0, 0, 0, 0])[:, None]  # only the first row of pixels varies
    bank = boundary.probe_bank(SHAPE, subspace="images", images=pool, rank=6, size=64)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(64))
    assert bank.view(64, 6, 6)[:, 1:].abs().max() < 1e-4
    smooth = boundary.probe_bank((3, 8, 8), subspace="frequency", rank=1, size=8).view(8, 3, 64)
    torch.testing.assert_close(smooth, smooth[..., :1].expand_as(smooth))  # frequency 0 is constant per channel
    with pytest.raises(ValueError, match="needs images"):
        boundary.probe_bank(SHAPE, subspace="images")
    with pytest.raises(ValueError, match="larger bank"):
        boundary.minimal_boundary_distance(
            lambda x: x, images(1), torch.tensor([0]),
            boundary.BoundaryPoints(images(1), torch.ones(1), torch.zeros(1)),
            torch.zeros(1, dtype=torch.int64), bank, num_probes=65,
        )  # fmt: skip


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
