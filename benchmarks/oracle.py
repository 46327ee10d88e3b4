"""The nearest image of another class, with a network's own gradients: what no search of a black box can better.

.. [Rony2019] J. Rony et al. Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks. CVPR
   2019, arXiv:1811.09600.
"""

import math

import torch
from torch import Tensor, nn


def margin(network: nn.Module, points: Tensor, target: Tensor) -> Tensor:
    """How far the target's logit is above all others ``(P,)``."""
    logits = network(points)
    own = nn.functional.one_hot(target, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -math.inf).amax(1)


def nearest(network: nn.Module, images: Tensor, target: Tensor, steps: int = 200, restarts: int = 2) -> Tensor:
    """L2 distance ``(P,)`` from images ``(P, C, H, W)`` to the region of the target class, in the pixel box.

    The attack of [Rony2019]_, which shrinks the norm while it is in the class and lets it grow while it is not, from
    the image and from noise around it; then bisection on the line to the nearest point.
    """
    best, point = images.new_full((len(images),), math.inf), images.clone()
    generator = torch.Generator().manual_seed(0)
    for restart in range(restarts):
        move = torch.randn(images.shape, generator=generator) * (0.0 if restart == 0 else 0.05)
        norm = images.new_full((len(images),), 2.0)
        for step in range(steps):
            here = (images + move).clamp(0, 1).requires_grad_(True)
            gain = margin(network, here, target)
            (gradient,) = torch.autograd.grad(gain.sum(), here)
            here, inside = here.detach(), gain.detach() > 0
            distance = (here - images).flatten(1).norm(dim=1)
            nearer = inside & (distance < best)
            best, point[nearer] = torch.where(nearer, distance, best), here[nearer]
            share = (1 + math.cos(math.pi * step / steps)) / 2
            move = _scaled(here - images + (0.95 * share + 0.01) * _scaled(gradient, 1.0), 1.0)
            rate = 0.05 * share + 0.002
            norm = torch.where(inside, torch.minimum(norm, distance) * (1 - rate), norm * (1 + rate))
            move = _scaled(move, norm)
    low, high = torch.zeros_like(best), torch.ones_like(best)
    with torch.no_grad():
        for _ in range(12):
            middle = (low + high) / 2
            inside = margin(network, torch.lerp(images, point, middle[:, None, None, None]), target) > 0
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return best * high


def _scaled(move: Tensor, norm: Tensor | float) -> Tensor:
    length = torch.as_tensor(norm) / move.flatten(1).norm(dim=1).clamp_min(1e-12)
    return move * length[:, None, None, None]
