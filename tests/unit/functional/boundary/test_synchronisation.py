"""How often a search would wait for a GPU: each of these calls needs a number on the host."""

from contextlib import contextmanager

import pytest
import torch
from hyperplanes import SHAPE, counting, images, pairs, started
from torch.utils._python_dispatch import TorchDispatchMode

from kdlightning.functional import boundary

WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.masked_select", "aten.equal"}


class Waits(TorchDispatchMode):
    """Counts them; a mask as an index is a nonzero, too."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        indexed = name in ("aten.index", "aten.index_put", "aten.index_put_")
        masked = indexed and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.number += masked or name in WAITING
        return func(*args, **(kwargs or {}))


@contextmanager
def paused(mode):
    """Without the mode: what a teacher does is its own affair."""
    mode.__exit__(None, None, None)
    try:
        yield
    finally:
        mode.__enter__()


def watched(teacher, ask):
    """What a search of these questions waits, and how often it asks."""
    predict, asked = counting(teacher)
    waits = Waits()

    def apart(x):
        with paused(waits):
            return predict(x)

    with waits:
        ask(apart)
    return waits.number, len(asked)


@pytest.fixture
def task(teacher):
    pool = images(100, seed=2)
    x, target, _, start = (one for k, one in enumerate(started(teacher, 10, pool, 4)) if k != 3)
    index = boundary.nearest_candidates(x, pool, teacher(pool).argmax(1), target, 4)
    return pool, x, target, index, start


def test_a_boundary_distance_waits_once_a_question(teacher, task):
    pool, x, target, index, _ = task
    waits, asked = watched(teacher, lambda ask: boundary.boundary_distance(ask, x, target, pool, index))
    assert asked > 20
    assert waits == asked + 1  # which pairs have candidates


def test_a_minimal_distance_waits_at_most_once_a_question(teacher, task):
    _, x, target, _, start = task
    bank, key = boundary.probe_bank(SHAPE, subspace="pixels"), torch.arange(len(x))
    waits, asked = watched(
        teacher, lambda ask: boundary.minimal_boundary_distance(ask, x, target, start, key, bank, num_probes=50)
    )
    assert asked > 50
    assert waits <= asked + 1


def test_a_retreat_waits_once_a_question(teacher):
    x, _, own, _ = pairs(teacher, images(6))
    normal = torch.nn.functional.normalize(torch.randn(x.flatten(1).shape), dim=1).view_as(x)
    waits, asked = watched(teacher, lambda ask: boundary.retreat(ask, x, own, normal, 3.0))
    assert 1 <= waits <= asked
