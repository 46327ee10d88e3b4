"""What became of a question about an image: an answer, or none; and an answer as it was read, before it is disclosed.

A row without an answer is negative throughout, which no probability and no class index is: -1 where the teacher
refused, -2 where what it said could not be read. So one tensor carries answers and outcomes through journal, ledger and
transfer set.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Outcome(IntEnum):
    """What became of a question about one image."""

    ANSWERED = 0
    REFUSED = 1  # the model declines, a filter steps in, or nothing is said
    UNREADABLE = 2  # something is said, and no known label, or more than one, is in it


class Reading(NamedTuple):
    """What one image was answered, as it was read: scores of all classes, of some, or a label; or no answer.

    Attributes:
        classes: class indices of the scores, each once; None: all K, in order.
        scores: one for each of them, on the scale that the teacher's ``outputs`` names; None for a label without one:
            ``classes`` is that one then.
        rest: the mass of all other classes together, and of what is no class; 0 where all K are there, None where
            nobody knows. What is known of it is what top-k answers and token probabilities tell beyond their classes.
        outcome: whether there is an answer.
        said: the words, for messages, where there is none.
    """

    classes: tuple[int, ...] | None = None
    scores: tuple[float, ...] | None = None
    rest: float | None = None
    outcome: Outcome = Outcome.ANSWERED
    said: str = ""

    @classmethod
    def none(cls, outcome: Outcome, said: str) -> "Reading":
        """No answer, and the words that came instead."""
        return cls(outcome=outcome, said=said)

    @property
    def answered(self) -> bool:
        """Whether there is an answer."""
        return self.outcome == Outcome.ANSWERED

    @property
    def best(self) -> int:
        """The class with the highest score, the first of equals; of a label alone, that."""
        if self.scores is None:
            assert self.classes is not None
            return self.classes[0]
        place = max(range(len(self.scores)), key=self.scores.__getitem__)
        return place if self.classes is None else self.classes[place]

    @classmethod
    def summed(cls, pairs: Sequence[tuple[int, float]], rest: float | None = None) -> "Reading":
        """Scores by class, in the order of their first mention; those of one class, of its synonyms, add up."""
        total: dict[int, float] = {}
        for index, score in pairs:
            total[index] = total.get(index, 0.0) + score
        return cls(tuple(total), tuple(total.values()), rest)


def outcomes(answer: Tensor) -> Tensor:
    """The `Outcome` ``(N,)``, int8, of each row of answers ``(N, K)`` or ``(N,)``."""
    first = answer if answer.ndim == 1 else answer[:, 0]
    return (-first).clamp(0, max(Outcome)).to(torch.int8)


def answered(answer: Tensor) -> Tensor:
    """Which rows ``(N,)``, bool, of answers ``(N, K)`` or ``(N,)`` are answers."""
    return outcomes(answer) == Outcome.ANSWERED


def answered_rows(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of columns the rows that have an answer; without a column ``outcome``, all do."""
    kept = rows["outcome"] == Outcome.ANSWERED if "outcome" in rows else None
    return dict(rows) if kept is None else {name: column[kept] for name, column in rows.items()}


def counted(answer: Tensor) -> dict[str, int]:
    """How many of the rows are ``answered``, ``refused`` and ``unreadable``."""
    number = torch.bincount(outcomes(answer).long().cpu(), minlength=len(Outcome)).tolist()
    return {outcome.name.lower(): number[outcome] for outcome in Outcome}
