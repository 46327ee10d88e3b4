"""Answers that name the k best classes only, and the one place where what they leave open is shared out."""

from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

Rest = Literal["ignored", "uniform", "prior"]


class TopK(NamedTuple):
    """What N answers say of their k best classes, and what the other classes weigh together.

    Attributes:
        scores: probabilities ``(N, k)``, float32, the highest first; 0 where an answer names fewer.
        classes: class indices ``(N, k)``, int64; -1 where an answer names fewer.
        rest: mass ``(N,)`` of the classes that are not named. -1 where nobody knows: the scores sum to 1 then.
    """

    scores: Tensor
    classes: Tensor
    rest: Tensor

    @classmethod
    def best(cls, probabilities: Tensor, k: int) -> Self:
        """The k best classes of distributions ``(N, K)``, all of them if there are fewer; the lower index of equals."""
        scores, classes = probabilities.sort(dim=1, descending=True, stable=True)
        return cls(scores[:, :k], classes[:, :k], scores[:, k:].sum(1))

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """What :meth:`rows` has made one tensor of."""
        k = rows.shape[1] // 2
        return cls(rows[:, :k], rows[:, k : 2 * k].long(), rows[:, 2 * k])

    def rows(self) -> Tensor:
        """The same as one tensor ``(N, 2k + 1)``, float32: scores, classes, rest. So a teacher's answer travels."""
        return torch.cat([self.scores, self.classes.to(self.scores), self.rest[:, None]], dim=1)

    @classmethod
    def of_columns(cls, columns: dict[str, Tensor]) -> Self:
        """What :meth:`columns` has made columns of a transfer set of."""
        return cls(columns["answer"], columns["classes"].long(), columns["rest"])

    def columns(self) -> dict[str, Tensor]:
        """The same as columns of a transfer set: ``answer`` the scores, ``classes`` int32, ``rest``."""
        return {"answer": self.scores, "classes": self.classes.int(), "rest": self.rest}

    @property
    def top(self) -> Tensor:
        """The best class ``(N,)``."""
        return self.classes[:, 0]


def top_class(answer: Tensor, *, topk: bool = False) -> Tensor:
    """The class ``(N,)`` that answers name first: labels, distributions or, with ``topk``, rows of :class:`TopK`."""
    if topk:
        return TopK.of(answer).top
    return answer.argmax(1) if answer.ndim == 2 else answer


def spread(known: TopK, weights: Tensor) -> Tensor:
    """Distributions ``(N, K)``: what is known as it is, the rest shared out by a softmax of the others' weights.

    ``p_c = s_c`` for a class that is named, and ``p_c = r exp(w_c) / sum_u exp(w_u)`` over the classes u that are not.
    A rest of unknown mass is taken for 0. Where every class is named, a rest is of no class (other tokens than labels),
    and the scores are divided by their sum.

    Args:
        known: scores, classes and rest of N answers.
        weights: ``(K,)`` or ``(N, K)``: zeros share evenly, the logarithm of a class prior by the prior, a student's
            logits as the student does.

    Raises:
        ValueError: a class is named that is none of the K.
    """
    number, classes = len(known.rest), weights.shape[-1]
    if number and int(known.classes.max()) >= classes:
        raise ValueError(f"an answer names class {int(known.classes.max())}, but there are only {classes} classes")
    place = torch.where(known.classes < 0, classes, known.classes)  # what is not named goes to a column that is cut off
    scores = known.scores.new_zeros(number, classes + 1).scatter(1, place, known.scores)[:, :classes]
    named = torch.zeros(number, classes + 1, dtype=torch.bool, device=place.device).scatter(1, place, True)[:, :classes]
    weights = weights.to(scores).expand(number, classes)
    shares = weights.masked_fill(named, -torch.inf).softmax(1)  # NaN where every class is named
    whole, rest = named.all(1, keepdim=True), known.rest.clamp_min(0)[:, None]
    out = torch.where(named, scores, rest * shares)
    return torch.where(whole & (rest > 0), out / out.sum(1, keepdim=True), out)


def spread_as(known: TopK, logits: Tensor) -> Tensor:
    """Distributions ``(N, K)`` that know nothing of the rest: it is shared as a student shares it, by its logits.

    The divergence from such a distribution to the student is that over the classes that are named and one bin of all
    others, ``sum_c s_c log(s_c / q_c) + r log(r / q_rest)``, and so is its gradient in the logits: the terms of the
    classes that are not named are ``r q_c / q_rest log(r / q_rest)`` and add up to that of the bin. A rest of unknown
    mass is the student's own; what is left is (1 - q_rest) times the divergence among the classes that are named.

    Args:
        known: scores, classes and rest of N answers.
        logits: the student's ``(N, K)``; no gradient flows.

    Raises:
        ValueError: a class is named that is none of the K.
    """
    logits = logits.detach().to(known.scores)
    place = known.classes.clamp(0, logits.shape[1] - 1)
    own = logits.softmax(1).gather(1, place).masked_fill(known.classes < 0, 0).sum(1)  # 1 - q_rest
    open_ = known.rest < 0
    scores = torch.where(open_[:, None], known.scores * own[:, None], known.scores)
    rest = torch.where(open_, (1 - own).clamp_min(0), known.rest)
    return spread(TopK(scores, known.classes, rest), logits)
