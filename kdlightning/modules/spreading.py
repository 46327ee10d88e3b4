"""How a module makes distributions of answers that name the best classes only: the ways of ``rest``."""

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from kdlightning.functional.topk import Rest, TopK, spread, spread_as

Spreading = Callable[[Tensor, Tensor], Tensor]


def spreading(rest: Rest) -> Spreading:
    """What makes distributions ``(N, K)`` of answers, rows of :class:`TopK`, beside the student's logits ``(N, K)``.

    - ``ignored``: the rest is one bin, which the student may fill as it likes. Exact for what is known.
    - ``uniform``: evenly over the other classes.
    - ``prior``: over the other classes by how often each was answered so far in this run.

    A ValueError for another way.
    """
    if rest not in get_args(Rest):
        raise ValueError(f"rest: expected {', '.join(get_args(Rest))}, got {rest}")
    return {"ignored": _ignored, "uniform": _uniform}.get(rest) or RunningPrior()


def _ignored(rows: Tensor, logits: Tensor) -> Tensor:
    return spread_as(TopK.of(rows), logits)


def _uniform(rows: Tensor, logits: Tensor) -> Tensor:
    return spread(TopK.of(rows), torch.zeros_like(logits[0], dtype=torch.float32))


class RunningPrior(nn.Module):
    """Shares the rest by the mean of all distributions that it has made so far, and an even one before them.

    Every process has its own. It goes into checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mass: Tensor | None = None  #: their sum ``(K,)``

    def forward(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Distributions ``(N, K)`` of rows of :class:`TopK`."""
        if self.mass is None:
            self.mass = torch.full_like(logits[0], 1 / logits.shape[1], dtype=torch.float32)
        made = spread(TopK.of(rows), self.mass.to(rows).log())
        self.mass = self.mass.to(made) + made.detach().sum(0)
        return made

    def get_extra_state(self) -> Tensor | None:
        """The sum, for a checkpoint."""
        return self.mass

    def set_extra_state(self, state: Tensor | None) -> None:
        """Go on with a checkpoint's sum."""
        self.mass = state
