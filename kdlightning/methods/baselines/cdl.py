"""CDL: the student mimics the teacher's vectors, which lie densely around their class and far from the next one.

.. [Kim2017] S. W. Kim, H.-E. Kim. Transferring Knowledge to Smaller Network with Class-Distance Loss. ICLR 2017
   workshop, https://openreview.net/forum?id=ByXrfaGFe.

Access: soft or hard labels. Phases: predict TeacherAnswers → fit CDL.

Differences from the paper (P), whose terms are known here from its abstract and a published summary, not from its text;
no code is released, neither P's nor that of MEKD's arXiv version, which compares CDL:
1. P retrains the *teacher* with the class-distance loss, so that its vectors are easy to mimic. A black box cannot be
   retrained: here the same loss draws the student's vectors to the teacher's class means.
2. Vectors are centred logits, the student's and the teacher's, in place of P's last features, which no API answers.
3. A class is the teacher's top-1 class, because the pool has no labels. Class means are those of all given answers.
4. The other class, from whose mean a vector is pushed away, is the nearest other one.
5. P limits the push by a constant φ. Logits have no fixed scale, so φ is relative: ``margin`` times the distance
   between the two class means.
6. Distances are squared, as a mean over elements; the default λ is a choice of this package.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import Options
from kdlightning.functional.divergence import centred_log_probabilities
from kdlightning.modules.answered import AnsweredModule
from kdlightning.types import Batch


class CDL(AnsweredModule):
    """Class-distance loss on a ``TransferSetDataModule`` or a ``GeneratedDataModule``.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        class_weight: λ, weight of the class-distance loss; 0 leaves the regression on logits.
        margin: φ, relative to the distance of two class means, see difference 5.
        options: those of :class:`AnsweredModule`.

    Attributes:
        class_means: centred logits ``(K, K)``, one row per class, NaN for a class that no answer has; set when a fit
            starts, from all answers of the datamodule.
    """

    accepts = ("soft", "hard")  # a mean of classes that were not named is none

    def __init__(self, student: nn.Module, class_weight: float = 0.1, margin: float = 1.0, **options: Options) -> None:
        super().__init__(student, **options)
        self.class_weight, self.margin = class_weight, margin
        self.class_means: Tensor | None = None

    def on_fit_start(self) -> None:
        """Take the class means of all given answers."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.set_class_means(data.answered.answer.to(self.device))

    def set_class_means(self, given: Tensor) -> None:
        """Take the class means of answers ``(M, K)``; a ValueError where all have the same top-1 class."""
        answer = self.probabilities(given)
        self.class_means = class_means(centred_log_probabilities(answer, self.floor), answer.argmax(1))
        if self.class_means[:, 0].isfinite().sum() < 2:
            raise ValueError(f"CDL needs answers of two classes or more; all {len(given)} are of the same class")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Mimicry and λ times the class-distance loss of [Kim2017]_; a ValueError where no class means are set."""
        logits, answer = self.responses(batch)
        student, teacher = self.vectors(logits, answer)
        terms = {"logits": F.mse_loss(student, teacher)}
        if self.class_weight:
            if self.class_means is None:
                raise ValueError("CDL needs the class means of the answers: fit takes them, or call set_class_means")
            distance = class_distance(student, self.class_means, answer.argmax(1), self.margin)
            terms["class_distance"] = self.class_weight * distance.mean()
        return terms


def class_means(vectors: Tensor, label: Tensor) -> Tensor:
    """Mean ``(K, K)`` of vectors ``(M, K)``: a row for every class of ``label`` ``(M,)``, NaN for one without any."""
    member = F.one_hot(label, vectors.shape[1]).to(vectors)
    return (member.T @ vectors) / member.sum(0)[:, None]


def class_distance(vectors: Tensor, means: Tensor, label: Tensor, margin: float) -> Tensor:
    """``d(v, C_y) - min(d(v, C_n), margin * d(C_y, C_n))`` with C_n the mean of the nearest other class.

    Args:
        vectors: ``(N, K)``.
        means: ``(K, K)`` of :func:`class_means`; at least two rows are finite, and those of ``label`` among them.
        label: class indices ``(N,)``.
        margin: how far from the other mean is far enough, relative to the distance of the two means.

    Returns:
        ``(N,)``; d is the mean squared difference of elements.
    """
    absent, means = means[:, 0].isnan(), means.nan_to_num(0.0).to(vectors)
    apart = _distance(vectors, means)
    own = apart.gather(1, label[:, None]).squeeze(1)
    others = apart.masked_fill(F.one_hot(label, len(means)).bool() | absent, torch.inf)
    distance, nearest = others.min(1)
    return own - torch.minimum(distance, margin * _distance(means, means)[label, nearest])


def _distance(one: Tensor, other: Tensor) -> Tensor:
    exact = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    return exact.square() / one.shape[1]
