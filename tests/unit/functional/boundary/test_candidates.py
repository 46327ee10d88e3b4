import math

import pytest
import torch
from hyperplanes import SHAPE, images

from kdlightning.functional import boundary


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


def test_banks_are_unit_norm_and_lie_in_their_subspace():
    pool = images(50) * torch.tensor([1.0, 0, 0, 0, 0, 0])[:, None]  # only the first row of pixels varies
    bank = boundary.probe_bank(SHAPE, subspace="images", images=pool, rank=6, size=64)
    torch.testing.assert_close(bank.norm(dim=1), torch.ones(64))
    assert bank.view(64, 6, 6)[:, 1:].abs().max() < 1e-4
    whole = bank[:60].view(10, 6, 36)  # ten rotations of the same six directions
    torch.testing.assert_close(whole @ whole.mT, torch.eye(6).expand(10, 6, 6), atol=1e-5, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 0.1
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
