import torch
from helpers import Linear
from hyperplanes import SHAPE, K, counting, images, pairs, started

from kdlightning.functional import boundary


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


def test_minimal_boundary_distance_of_a_linear_teacher(teacher):
    pool = images(300, seed=2)
    x, target, predict, asked, start = started(teacher, 12, pool, 5)
    bank = boundary.probe_bank(SHAPE, subspace="pixels")
    found = boundary.minimal_boundary_distance(
        predict, x, target, start, torch.arange(len(x)), bank, query_limit=6000, patience=5, tolerance=1e-3
    )
    minimum = linear_minimum(teacher, x, target)
    assert (found.distance >= minimum - 1e-4).all()
    assert (found.distance / minimum).mean() < 1.02
    assert (found.distance <= 1.05 * minimum).all()
    assert sum(asked) == int(found.queries.sum())


def test_the_query_limit_is_never_exceeded_and_nothing_gets_worse(teacher):
    pool = images(100, seed=2)
    x, target, predict, _, start = started(teacher, 10, pool, 3)
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


def test_the_normal_of_a_hyperplane(teacher):
    pool = images(100, seed=2)
    x, target, predict, asked, start = started(teacher, 4, pool, 1)
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


def test_orthogonal_probes_and_earlier_normals_come_nearer_for_the_same_queries(teacher):
    x, target, _, _ = pairs(teacher, images(24))
    pool = images(300, seed=2)
    candidates = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 1)
    start = boundary.boundary_distance(lambda points: teacher(points).argmax(1), x, target, pool, candidates)
    orthogonal = boundary.probe_bank(SHAPE, images=pool, rank=36)
    gaussian = boundary.probe_bank(SHAPE, subspace="pixels")

    def distance(bank, memory):
        predict, _ = counting(teacher)
        found = boundary.minimal_boundary_distance(
            predict, x, target, start, torch.arange(len(x)), bank, num_probes=18, query_limit=120, memory=memory
        )
        return float((found.distance / linear_minimum(teacher, x, target)).mean())

    assert distance(orthogonal, 0.7) < distance(orthogonal, 0.0) < distance(gaussian, 0.0)
