"""A network that learns what a search has asked: its gradients show the way where every label of the teacher costs."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.functional.boundary.search import Predict

Guide = Callable[[Tensor], Tensor]


class Recorder:
    """A ``predict`` that keeps the last ``limit`` points ``(M, C, H, W)``, as float16, and their labels."""

    def __init__(self, predict: Predict, limit: int = 100_000) -> None:
        self.predict, self.limit = predict, limit
        self.points: list[Tensor] = []
        self.labels: list[Tensor] = []

    def __call__(self, points: Tensor) -> Tensor:
        """The labels ``(M,)``."""
        label = self.predict(points)
        self.points.append(points.half())
        self.labels.append(label)
        while sum(map(len, self.labels)) - len(self.labels[0]) >= self.limit:
            del self.points[0], self.labels[0]
        return label


def imitation(network: nn.Module, asked: Recorder, *, epochs: int = 5, seed: int = 0, batch_size: int = 128) -> Guide:
    """The network, trained anew from the seed on what was asked: pixels ``(M, C, H, W)`` to logits ``(M, K)``.

    The points of a search lie where the teacher's classes meet. So its labels tell more of the boundaries than those of
    images do, and the image's own pairs are among them. Weights, order and what else is drawn depend on the seed alone.
    """
    points, labels = torch.cat(asked.points), torch.cat(asked.labels)
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = copy.deepcopy(network).to(points.device)
        for layer in learner.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
        rounds = [rows for _ in range(epochs) for rows in torch.randperm(len(labels)).split(batch_size)]
        optimizer = torch.optim.Adam(learner.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(rounds))
        learner.train().requires_grad_(True)
        for rows in rounds:
            here = rows.to(points.device)
            loss = F.cross_entropy(learner(points[here].float()), labels[here].clone())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return learner.eval().requires_grad_(False)


def guided_normals(guide: Guide, points: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Where the guide's logit of the target gains most on all others: directions like ``points`` ``(P, C, H, W)``.

    Targets are class indices ``(P,)``, or :func:`any_but` of them. Not of unit length.
    """
    gradients = []
    with torch.inference_mode(False), torch.enable_grad():  # a labelling phase records no graph
        for some, sought in zip(points.split(batch_size), target.split(batch_size), strict=True):
            here, wanted = some.clone().requires_grad_(True), sought.clone()
            logits = guide(here)
            own = F.one_hot(torch.where(wanted < 0, ~wanted, wanted), logits.shape[1]).bool()
            gain = logits[own] - logits.masked_fill(own, -torch.inf).amax(1)
            gradients += torch.autograd.grad(torch.where(wanted < 0, -gain, gain).sum(), here)
    return torch.cat(gradients)
