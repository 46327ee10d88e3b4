"""Active Mixup: a few real images become many by mixing pairs; ask the mixes that the student is least sure of.

.. [Wang2020] D. Wang, Y. Li, L. Wang, B. Gong. Neural Networks Are More Productive Teachers Than Human Raters: Active
   Mixup for Data-Efficient Knowledge Distillation from a Blackbox Model. CVPR 2020. arXiv:2003.13960.
Reference code: https://github.com/dwang181/active-mixup/tree/46a1f22a (no licence: read for facts, nothing copied).

Access: soft, top-k or hard labels. Phases: predict ActiveMixup → fit, with a method that trains on answers.

Differences from the paper (P) and the released code (C):
1. All pairs of real images are candidates in P and C, half a million for 1,000 images; here ``candidates`` of them,
   drawn once. Pairs are enumerated as in C: image i with image i + s, for shifts s below half the number of images.
2. Mixes are rounded to 1/255 before they are judged and asked, as in an image file; C asks unrounded floats.
3. Every round asks the same number of mixes, (queries - real images) / rounds; C asks 10,000.
4. A round's training goes on from the last weights. C begins anew, and judges with the weights that were best on test
   images. Optimiser and epochs are arguments (C: SGD, 200 epochs, learning rate divided by 10 three times, crops and
   flips).
5. Nothing is trained after the last round: the student that counts is trained by the method of the next phase, on the
   whole transfer set.
"""

import random
from typing import Any

import torch
from torch import Tensor, nn

from kdlightning.data.base import at_least
from kdlightning.modules.rounds import RoundsModule
from kdlightning.teachers import BlackBoxTeacher


class ActiveMixup(RoundsModule):
    """Asks all images of the datamodule, then mixes of two of them, ``queries`` in all.

    Columns of the transfer set besides those of :class:`RoundsModule`: ``first`` and ``second`` (the datamodule's
    indices of the two images, equal for a real image) and ``weight`` (λ, of the first). ``index`` just counts.

    Args:
        teacher: who answers.
        output: directory of the transfer set.
        queries: images asked in all; more than the datamodule yields (its ``num_samples`` are the real images).
        student: pixels in [0, 1] to logits ``(N, K)``; its confidence decides what is asked.
        rounds: in how many rounds the mixes are asked.
        candidates: pairs that are candidates.
        lowest: smallest λ.
        highest: largest λ.
        num_weights: how many values of λ, evenly spaced.
        epochs: see :class:`RoundsModule`.
        options: the others of :class:`RoundsModule`.

    Raises:
        ValueError: a number below 1, or weights that are no convex combination.
    """

    columns = ("answer", "image", "first", "second", "weight")
    renumbers = True

    def __init__(
        self,
        teacher: BlackBoxTeacher,
        output: str,
        queries: int,
        student: nn.Module,
        rounds: int = 3,
        candidates: int = 100_000,
        lowest: float = 0.3,
        highest: float = 0.7,
        num_weights: int = 11,
        epochs: int = 20,
        **options: Any,  # noqa: ANN401 - RoundsModule's
    ) -> None:
        super().__init__(teacher, output, queries, student, epochs, **options)
        at_least(1, rounds=rounds, candidates=candidates, num_weights=num_weights)
        if not 0 <= lowest <= highest <= 1:
            raise ValueError(f"expected 0 <= lowest <= highest <= 1, got lowest={lowest}, highest={highest}")
        self.rounds, self.candidates = rounds, candidates
        self.weights = torch.linspace(lowest, highest, num_weights)

    def begin(self) -> dict[str, Tensor]:
        """The candidate pairs, by number; a ValueError where queries or pairs do not suffice."""
        real = len(self.pool.index)
        pairs = real * ((real - 1) // 2)
        mixes = self.queries - real
        if mixes < self.rounds:
            raise ValueError(
                f"queries={self.queries} has to be at least {real} real images + {self.rounds} rounds of mixes; "
                "give the datamodule fewer num_samples, or more queries"
            )
        number = min(self.candidates, pairs)
        if mixes > number:
            raise ValueError(
                f"{mixes} mixes are wanted, one of a pair, but there are {number} candidates ({real} real images make "
                f"{pairs} pairs, candidates={self.candidates})"
            )
        return {"pair": torch.tensor(random.Random(self.seed).sample(range(pairs), number))}

    def choose(self, number: int, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """All real images, then round after round the mixes of lowest confidence."""
        real = len(self.pool.index)
        if number == 0:
            index = self.pool.index
            return {"index": torch.arange(real), "first": index, "second": index, "weight": torch.ones(real)}
        first, second = self._left(rows)
        confidence, weight = self.least_confident(first, second)
        asked, rounds_left = len(rows["index"]), self.rounds - number + 1
        best = confidence.argsort(stable=True)[: -(-(self.queries - asked) // rounds_left)]
        return {
            "index": asked + torch.arange(len(best)),
            "first": self.pool.index[first[best]],
            "second": self.pool.index[second[best]],
            "weight": weight[best],
        }

    def pixels(self, chosen: dict[str, Tensor]) -> Tensor:
        """The mixes."""
        first, second = self.positions(chosen["first"]), self.positions(chosen["second"])
        return mix(self.pool.image[first], self.pool.image[second], chosen["weight"])

    def least_confident(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Of pairs of positions ``(N,)`` in the pool the mix that the student is least sure of.

        Returns:
            The student's top probability of that mix ``(N,)``, and its λ ``(N,)``.
        """
        lowest, weights = [], []
        for one, other in zip(first.split(self.batch_size), second.split(self.batch_size), strict=True):
            a, b = self.pool.image[one], self.pool.image[other]
            tops = [self.student_logits(mix(a, b, weight.expand(len(a)))).softmax(1).amax(1) for weight in self.weights]
            value, which = torch.stack(tops).min(dim=0)
            lowest.append(value)
            weights.append(self.weights[which])
        return torch.cat(lowest), torch.cat(weights)

    def _left(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Positions of the two images of every candidate that no mix has been asked of."""
        real, pair = len(self.pool.index), self.state["pair"]
        first, second = self.positions(rows["first"]), self.positions(rows["second"])
        asked = ((second - first) % real - 1) * real + first  # a pair's number; negative for a real image
        pair = pair[~torch.isin(pair, asked)]
        first = pair % real
        return first, (first + pair // real + 1) % real


def mix(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """λ x + (1 - λ) x' of images ``(N, C, H, W)``, uint8, with λ ``(N,)`` in [0, 1], rounded to whole pixel values."""
    share = weight[:, None, None, None]
    return (share * first.float() + (1 - share) * second.float()).round().to(torch.uint8)
