"""Soft labels from distances to the other classes."""

import torch
from torch import Tensor


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
