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


def linear_logits(robustness: Tensor, slope: float) -> Tensor:
    """Logits that fall with the distance to a class, -slope * r, as a trained network's do near its boundaries.

    Args:
        robustness: distances r ``(N, K)`` in a unit that means something for the set, 0 for the own class; inf for a
            class that was never found, which then lies as far as the row's farthest one, and at least one unit away.
        slope: how many logits lie in a unit.

    Returns:
        ``(N, K)``, 0 for the own class.
    """
    found = torch.isfinite(robustness)
    far = torch.where(found, robustness, 1.0).amax(dim=1, keepdim=True)
    return -slope * torch.where(found, robustness, far)


def mean_nearest(robustness: Tensor, own: Tensor) -> float:
    """The mean over images of the distance to the nearest other class, a set's own unit of length.

    Of distances ``(N, K)``, whose own class ``own`` ``(N,)`` is left out; rows without any other class found as well. A
    ValueError where no row has one.
    """
    others = robustness.clone()
    others[torch.arange(len(own)), own] = torch.inf
    nearest = others.amin(dim=1)
    nearest = nearest[torch.isfinite(nearest)]
    if not len(nearest):
        raise ValueError("no image has a finite distance to another class: the candidate pool is of one class only")
    return float(nearest.mean())
