"""DeepInversion: pixels of a classifier's classes that stir its BatchNorm layers as its training images did.

Networks take pixels in [0, 1] ``(N, C, H, W)``, normalise them themselves, and have to be in eval mode: their running
statistics are what the images are compared with. Gradients reach the pixels only. Cannot work under
``inference_mode``, which records no graph.

.. [Yin2020] H. Yin et al. Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion. CVPR 2020,
   arXiv:1912.08795.
Reference code: https://github.com/NVlabs/DeepInversion (not for commercial use: read for facts, nothing copied).
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdlightning.functional.divergence import softened

Norm = Literal["l1", "l2"]


class InversionWeights(NamedTuple):
    """Weights of the loss terms, Eqs. 3-4 and 8 of [Yin2020]_."""

    batch_norm: float = 10.0  #: α_f, of the sum over BatchNorm layers
    first_layer: float = 1.0  #: multiplier of the first of these layers
    variation: float = 2.5e-5  #: α_tv
    norm: float = 3e-8  #: α_ℓ2
    competition: float = 0.0  #: α_c; needs a student


def normalised_layers(network: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers that remember statistics of their training, in order of registration."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def logits_and_statistics(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass, and how far BatchNorm layers' inputs are from their running statistics: Eq. 4 of [Yin2020]_.

    Returns:
        Logits ``(N, K)``. Distances ``(L,)`` of the layers in the order in which the pixels reach them: ‖mean - running
        mean‖₂ + ‖variance - running variance‖₂ over a layer's channels, with the variance of the batch not corrected;
        a layer that is used twice counts twice; ``(0,)`` without such layers.
    """
    distances: list[Tensor] = []

    def compare(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401, ARG001 - torch's signature
        x = inputs[0].float()
        dims = [0, *range(2, x.ndim)]
        mean, variance = x.mean(dims), x.var(dims, correction=0)
        distances.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())  # Eq. (4)

    handles = [layer.register_forward_hook(compare) for layer in normalised_layers(network)]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, torch.stack(distances) if distances else images.new_zeros(0)


def total_variation(images: Tensor, norm: Norm = "l2") -> Tensor:
    """How much neighbouring pixels of images ``(N, C, H, W)`` differ: down, across and along both diagonals; a scalar.

    ``"l2"`` sums the Euclidean norms of the four differences, each over the whole batch; ``"l1"`` their mean absolute
    values.
    """
    differences = (
        images[..., 1:, :] - images[..., :-1, :],
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return torch.stack([part.norm() if norm == "l2" else part.abs().mean() for part in differences]).sum()


def agreement(logits: Tensor, others: Tensor, temperature: float = 3.0) -> Tensor:
    """One minus the Jensen-Shannon divergence of two networks' answers: Eqs. 8-9 of [Yin2020]_.

    Adaptive DeepInversion lowers it: it asks for images that teacher and student do not agree about yet. Of logits
    ``(N, K)`` at the same temperature; a scalar in [1 - log 2, 1], the batch's mean.
    """
    p, q = (softened(side, temperature) for side in (logits, others))
    middle = torch.logaddexp(p, q) - math.log(2)
    divergence = sum(F.kl_div(middle, side, reduction="batchmean", log_target=True) for side in (p, q))  # Eq. (9)
    return 1 - torch.as_tensor(divergence) / 2  # Eq. (8)


def inversion_terms(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    weights: InversionWeights,
    variation: Norm = "l2",
    student: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The named loss terms of a batch, weighted; arguments as for :func:`invert`.

    They are ``class``, ``batch_norm``, ``variation``, ``norm``, and with a student ``competition``.
    """
    logits, distances = logits_and_statistics(network, images)
    terms = {
        "class": F.cross_entropy(logits.float(), targets),
        "batch_norm": weights.batch_norm * (distances.sum() + (weights.first_layer - 1) * distances[:1].sum()),
        "variation": weights.variation * total_variation(images, variation),
        "norm": weights.norm * images.flatten(1).norm(dim=1).mean(),
    }
    if student is not None:
        terms["competition"] = weights.competition * agreement(logits, student(images))
    return terms


def invert(
    network: nn.Module,
    start: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    weights: InversionWeights | None = None,
    variation: Norm = "l2",
    iterations: int = 2000,
    learning_rate: float = 0.1,
    jitter: int = 2,
    flip: bool = False,
    student: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Optimise pixels by Adam, at a rate that falls to 0 along half a cosine, kept in [0, 1].

    Args:
        network: in eval mode; its parameters need no gradient.
        start: pixels ``(N, C, H, W)`` in [0, 1]; stays as it is.
        targets: class indices ``(N,)``.
        generator: on the CPU; owner of shifts and flips.
        weights: of the loss terms; None for the defaults.
        variation: which norm total variation takes.
        iterations: steps.
        learning_rate: Adam's, in pixel units.
        jitter: every step sees the images rolled by up to so many pixels, in both directions.
        flip: every second step, by chance, sees them mirrored.
        student: pixels to logits ``(N, K)``, for the competition.

    Returns:
        The images ``(N, C, H, W)`` in [0, 1], and the total loss of the last step, a scalar: batches and settings can
        be compared by it.
    """
    weights = weights or InversionWeights()
    pixels = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    loss = pixels.new_zeros(())
    for _ in range(iterations):
        shifts = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        mirrored = flip and bool(torch.rand((), generator=generator) < 0.5)
        seen = pixels.roll(shifts, (2, 3))
        seen = seen.flip(3) if mirrored else seen
        loss = torch.stack(list(inversion_terms(network, seen, targets, weights, variation, student).values())).sum()
        (pixels.grad,) = torch.autograd.grad(loss, [pixels])
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return pixels.detach(), loss.detach()
