"""The shapes that travel between the stations of the package, and nothing else."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Bounds(NamedTuple):
    """The closed interval that pixels live in; ``Bounds(0.0, 1.0)`` everywhere in this package."""

    lower: float
    upper: float


class Batch(NamedTuple):
    """One batch, as every dataloader of the package yields it and every method receives it, whatever a loader yields.

    Attributes:
        image: pixels ``(N, C, H, W)``, float32 in [0, 1] once on the device (uint8 before the transfer).
        index: position ``(N,)`` of each image in its source dataset, int64; -1 where a loader of the user's own does
            not say it.
        label: ground-truth class indices ``(N,)``, int64; None where labels are withheld or do not exist.
        answer: what a transfer set holds for each image ``(N, K)``, float32; its column is named by the
            datamodule (for DB3KD the pre-softmax activations of Eq. 7); None without a transfer set.
    """

    image: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody wants of a batch
    label: Tensor | None = None
    answer: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on a device; Lightning, which finds this method, need not look for tensors inside."""
        parts: list[Any] = [part if part is None else part.to(device, non_blocking=non_blocking) for part in self]
        return Batch(*parts)


class Answers(NamedTuple):
    """What a teacher has been paid for so far: images answered and bytes exchanged."""

    queries: int
    bytes_up: int
    bytes_down: int


class Estimate(NamedTuple):
    """How many images a run asks a teacher about, as far as it is known before it begins.

    Attributes:
        least: the fewest, in the whole run; equal to ``most`` where the number is known exactly.
        most: the most.
        kept: those of them that need no question any more: an interrupted run has their answers.
        distinct: the fewest and the most different images among them, which is what a ledger lets through; None where
            all of them differ.
    """

    least: int
    most: int
    kept: int = 0
    distinct: tuple[int, int] | None = None

    @property
    def exact(self) -> bool:
        """Whether the number is known exactly."""
        return self.least == self.most
