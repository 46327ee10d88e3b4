"""DKD: the divergence in two parts, target class against the rest and the rest among themselves, weighted apart.

.. [Zhao2022] B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang. Decoupled Knowledge Distillation. CVPR 2022, arXiv:2203.08679.
Reference code: https://github.com/megvii-research/mdistiller (MIT). Compared in C, the code of MEKD:
https://github.com/HAIV-Lab/MEKD/tree/72881bc (MIT), project/DKD.py.

Access: soft, top-k or hard labels. Phases: predict TeacherAnswers → fit DKD.

Differences from the paper and its code (P) and the code of MEKD (C):
1. The target is the teacher's top-1 class, because the pool has no labels (C); P's is the ground truth.
2. No cross-entropy with labels, for the same reason (C).
3. Both parts carry T² (P); C multiplies by T.
4. P raises the weight over 20 epochs; C does not: ``warmup_epochs`` is 0.
5. α = 1, β = 8, T = 5 are C's on every data set. P has T = 4, and a β by data set and teacher.
6. Hard answers become a label of probability ``confidence``: NCKD then asks for an even rest, which is no knowledge.
"""

from typing import Any

from torch import Tensor, nn

from kdlightning.data.base import above_zero
from kdlightning.functional.divergence import decoupled_divergence, softened
from kdlightning.modules.answered import AnsweredModule
from kdlightning.types import Batch


class DKD(AnsweredModule):
    """Decoupled distillation on a ``TransferSetDataModule`` or a ``GeneratedDataModule``.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        alpha: α, weight of the target part.
        beta: β, weight of the part of the other classes.
        temperature: T, of both sides.
        warmup_epochs: epochs in which the weight of both grows linearly to its value; 0 for none.
        options: those of :class:`AnsweredModule`.
    """

    def __init__(
        self,
        student: nn.Module,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 5.0,
        warmup_epochs: int = 0,
        **options: Any,  # noqa: ANN401 - AnsweredModule's
    ) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature)
        self.alpha, self.beta, self.temperature, self.warmup_epochs = alpha, beta, temperature, warmup_epochs

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """α TCKD + β NCKD, Sec. 3.3 of [Zhao2022]_."""
        student, teacher = self.vectors(*self.responses(batch))
        target = softened(teacher, self.temperature)
        tckd, nckd = decoupled_divergence(student, target, self.top_class(batch, teacher), self.temperature)
        scale = self.warmup(self.current_epoch) * self.temperature**2
        return {"target": self.alpha * scale * tckd.mean(), "others": self.beta * scale * nckd.mean()}

    def warmup(self, epoch: int) -> float:
        """Share of the weights in an epoch, counted from 0."""
        return min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
