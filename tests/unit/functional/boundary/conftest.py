import pytest
import torch
from helpers import Linear
from hyperplanes import K


@pytest.fixture
def teacher():
    """Four hyperplanes through the middle of the pixel box; images near the middle, so that the box does not bind."""
    weight = torch.randn(K, 36, generator=torch.Generator().manual_seed(0))
    bias = -(weight @ torch.full((36,), 0.5))
    return Linear(weight, bias)
