import torch
from hyperplanes import SHAPE, K, counting, images, pairs, started
from torch import nn

from kdlightning.functional import boundary


def learner():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, K))


def test_a_guides_normals_are_what_its_target_gains_on_the_best_other_class(teacher):
    x, target, _, _ = pairs(teacher, images(12))
    logits = teacher(x)
    other = logits.scatter(1, target[:, None], -torch.inf).argmax(1)
    expected = (teacher.weight[target] - teacher.weight[other]).view_as(x)
    torch.testing.assert_close(boundary.guided_normals(teacher, x, target, 5), expected)
    own = logits.argmax(1)
    second = logits.scatter(1, own[:, None], -torch.inf).argmax(1)
    away = (teacher.weight[second] - teacher.weight[own]).view_as(x)
    torch.testing.assert_close(boundary.guided_normals(teacher, x, boundary.any_but(own), 5), away)


def test_what_was_asked_is_learned_and_depends_on_the_seed_alone(teacher):
    asked = boundary.Recorder(counting(teacher)[0])
    for seed in range(20):
        asked(images(100, seed=seed, spread=0.5).clamp(0, 1))
    guides = [boundary.imitation(learner(), asked, epochs=60, seed=seed) for seed in (0, 0, 1)]
    one, same, other = (guide(images(500, seed=99, spread=0.5)) for guide in guides)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    truth = teacher(images(500, seed=99, spread=0.5)).argmax(1)
    assert float((one.argmax(1) == truth).float().mean()) > 0.85
    assert not any(weight.requires_grad for weight in guides[0].parameters())


def test_only_so_much_of_what_was_asked_is_kept(teacher):
    asked = boundary.Recorder(counting(teacher)[0], limit=250)
    for seed in range(6):
        asked(images(100, seed=seed))
    assert [len(labels) for labels in asked.labels] == [100, 100, 100]
    torch.testing.assert_close(asked.points[-1], images(100, seed=5).half())


def test_a_guide_that_knows_the_way_needs_few_queries_and_the_limit_holds(teacher):
    pool = images(300, seed=2)
    x, target, predict, asked, start = started(teacher, 16, pool, 1)
    bank = boundary.probe_bank(SHAPE, images=pool, rank=36)

    def walked(limit, guide):
        return boundary.minimal_boundary_distance(
            predict, x, target, start, torch.arange(len(x)), bank, num_probes=36, query_limit=limit, guide=guide
        )

    guided, alone = walked(150, teacher), walked(1000, None)
    assert sum(asked) == int(guided.queries.sum() + alone.queries.sum() - start.queries.sum())
    assert int(guided.queries.max()) <= 150
    assert float(guided.distance.mean()) < 1.03 * float(alone.distance.mean())
    misled = walked(150, lambda points: -teacher(points))
    assert (misled.distance <= start.distance).all()
