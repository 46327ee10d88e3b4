"""DFND: learn from the images of a pool that the teacher is surest of; a learnt matrix takes up what it gets wrong.

.. [Chen2021] H. Chen, T. Guo, C. Xu, W. Li, C. Xu, C. Xu, Y. Wang. Learning Student Networks in the Wild. CVPR 2021.
Code: R, https://github.com/huawei-noah/Efficient-Computing/tree/169b484 (BSD), Data-Efficient Model Compression/DFND/
DFND-train.py; and M, https://github.com/open-mmlab/mmrazor/tree/2017c06 (Apache), DFNDLoss. Read for facts.

Access: soft or top-k labels, or a white box. Phases: fit DFND on a pool. It asks every image of the pool once, as it
is, before the first epoch; then every image of every batch, as augmented.

Differences and choices. The paper's text was not at hand: each is the code's (R), mmrazor's (M) or taken here (own).
1. Images are scored once, by the teacher's cross-entropy with its own top class (R; M takes half of every batch). It is
   computed from the other classes (own): their sum differs also where float32 says p = 1 and R's choice is open.
2. ``share`` is 0.5 (M's of a batch). R takes 600 000 of ImageNet's 1 281 167 images, 47 %.
3. Q's diagonal is fixed, the teacher's accuracy on its own task; the rest of a row is a softmax of learnt numbers that
   start at 0, all mistakes equally likely (R, M). 0.95 is M's; R has 0.9523 for CIFAR-10 and 0.7774 for CIFAR-100.
4. T is 4 and T² is carried, Q reads the student at T = 1, both weights are 1, labels are of augmented images (R, M).
5. One optimiser and schedule for the student and Q, which has no weight decay (own). R: Adam, constant 0.001, for Q.
6. Networks normalise pixels themselves. R normalises the pool by ImageNet's statistics and test images by CIFAR's.
7. The last student. R reports the best test accuracy; as released it stops at undefined names (``opt``, ``weights``).
"""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import above_zero, at_least
from kdlightning.functional.divergence import kd_divergence, log_softened
from kdlightning.functional.selection import Choice
from kdlightning.functional.topk import Rest, TopK, top_class
from kdlightning.modules.alternating import known_classes
from kdlightning.modules.journalled import JournalledModule
from kdlightning.modules.schedule import schedule
from kdlightning.modules.selecting import SelectingModule
from kdlightning.modules.spreading import spreading
from kdlightning.teachers import BlackBoxTeacher, SoftLabelTeacher, TopKTeacher, WhiteBoxTeacher, as_teacher
from kdlightning.teachers.outcomes import answered
from kdlightning.types import Batch, Estimate


class DFND(JournalledModule, SelectingModule):
    """Data-free noisy distillation, on any pool: :class:`WebDataModule`, ``UnionDataModule``.

    Args:
        teacher: answers ``(N, K)`` probabilities, or is a white box: both teach the same; or those of the best classes.
        student: pixels in [0, 1] to logits ``(N, K)``.
        share: of the pool, to train on; or
        number: of images of the pool, to train on, with ``share=None``.
        teacher_accuracy: the diagonal of Q: how often the teacher is right on its own task.
        adaptation_weight: weight of the cross-entropy with the noisy label.
        temperature: T of the divergence, of both sides.
        num_classes: K, for a student without an attribute of that name.
        rest: of a teacher that names the best classes only, what becomes of the others' mass, see
            :class:`~kdlightning.modules.AnsweredModule`.
        options: those of :class:`DistillationModule`; the optimiser is also Q's.

    Raises:
        ValueError: not exactly one of ``share`` and ``number``, a value outside its range, or an unknown K.
    """

    access = "soft"
    every_epoch = False
    teacher: SoftLabelTeacher | TopKTeacher | WhiteBoxTeacher

    def __init__(
        self,
        teacher: SoftLabelTeacher | TopKTeacher | WhiteBoxTeacher,
        student: nn.Module,
        share: float | None = 0.5,
        number: int | None = None,
        teacher_accuracy: float = 0.95,
        adaptation_weight: float = 1.0,
        temperature: float = 4.0,
        num_classes: int | None = None,
        rest: Rest = "ignored",
        **options: Any,  # noqa: ANN401 - DistillationModule's
    ) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature)
        if (share is None) == (number is None):
            raise ValueError(f"expected share or number, and the other None, got share={share} and number={number}")
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"share: expected a share above 0 and up to 1, got {share}")
        at_least(1, number=number)
        if not 0 < teacher_accuracy < 1:
            raise ValueError(f"teacher_accuracy: expected a share between 0 and 1, got {teacher_accuracy}")
        self.teacher = as_teacher(teacher, SoftLabelTeacher, TopKTeacher, WhiteBoxTeacher)
        self.access, self.adaptation_weight = self.teacher.access, adaptation_weight
        self.partial, self.spread = self.access == "topk", spreading(rest)
        self.share, self.number, self.temperature, self.teacher_accuracy = share, number, temperature, teacher_accuracy
        self.mistakes = nn.Parameter(torch.zeros(2 * (known_classes(student, num_classes),)))

    @property
    def adaptation(self) -> Tensor:
        """Q ``(K, K)``, rows sum to 1: how often an image of class i (row) is given the label j (column)."""
        own = torch.eye(len(self.mistakes), dtype=torch.bool, device=self.mistakes.device)
        others = self.mistakes.masked_fill(own, -torch.inf).softmax(1)
        return torch.where(own, self.teacher_accuracy, (1 - self.teacher_accuracy) * others)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """T² KL from the teacher, and the cross-entropy of its top class with Q's view of the student."""
        answer, logits = self.answers(batch.image), self(batch.image)
        if not (kept := answered(answer)).all():
            if not kept.any():
                return {"kd": 0 * logits.sum(), "adaptation": 0 * self.mistakes.sum()}
            answer, logits = answer[kept], logits[kept]
        label = top_class(answer, topk=self.partial)
        if self.partial:
            answer = self.spread(answer, logits)
        divergence = kd_divergence(logits, log_softened(answer, self.temperature), self.temperature)
        noisy = noisy_cross_entropy(logits, label, self.adaptation)
        return {"kd": self.temperature**2 * divergence, "adaptation": self.adaptation_weight * noisy}

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:
        """The teacher's probabilities ``(N, K)``, or its rows of top-k answers; negative where it gives no answer.

        A ValueError where the student has other classes.
        """
        teacher, classes = self.teacher, len(self.mistakes)
        answer = self.ask_once(images) if isinstance(teacher, BlackBoxTeacher) else teacher(images).float().softmax(1)
        if answer.shape[1] != classes and not self.partial:
            raise ValueError(f"the student answers {classes} classes, but the teacher's answers have {answer.shape[1]}")
        return answer

    def scores(self, images: Tensor, first: int) -> Tensor:
        """The teacher's cross-entropy with its top class, and that class."""
        answer = self.answers(images)
        label = top_class(answer, topk=self.partial)[:, None]
        if self.partial:
            known = TopK.of(answer)
            others = known.scores[:, 1:].sum(1, keepdim=True) + known.rest.clamp_min(0)[:, None]
        else:
            others = answer.scatter(1, label, 0).sum(1, keepdim=True)
        entropy = -torch.log1p(-others)  # -log(1 - others) = -log max p
        entropy[~answered(answer)] = torch.inf  # no answer: chosen last
        return torch.cat([entropy, label.float()], 1)

    def choose(self, scores: Tensor) -> Choice:
        """The images of the lowest cross-entropy; a ValueError where the pool has fewer."""
        number = self.wanted(len(scores))
        if number > len(scores):
            raise ValueError(f"number: expected at most the {len(scores)} images of the pool, got {number}")
        cross_entropy, label = scores.unbind(1)
        surest = cross_entropy.argsort(stable=True)[:number]
        mask = torch.zeros_like(label, dtype=torch.bool).index_fill(0, surest, True)
        return Choice(mask, label.long(), (-cross_entropy).exp())

    def wanted(self, pool: int) -> int:
        """How many images of a pool of this size to train on."""
        return self.number or max(1, round((self.share or 0) * pool))

    def estimate(self, trainer: L.Trainer, data: Any, done: int = 0) -> Estimate:  # noqa: ANN401 - a datamodule
        """The pool once, then every image of every batch."""
        if not isinstance(self.teacher, BlackBoxTeacher):
            return Estimate(0, 0)
        pool = len(data.train_set)
        plan = schedule(trainer, data, self.wanted(pool))
        before, asked = pool + plan.images_of(done) if done else 0, pool + plan.images
        kept = before + self.journalled(trainer, done // max(1, len(plan.sizes)))
        least = asked if plan.certain else max(kept, pool)
        return Estimate(least, asked, kept, (pool, pool if data.augmentation is None else asked))

    def trained(self) -> list[dict[str, Any]]:
        """The student, and Q, which does not decay."""
        return [{"params": self.student.parameters()}, {"params": self.mistakes, "weight_decay": 0.0}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the choice: a resumed run does not ask for it again."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["chosen"] = getattr(self, "_chosen", None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the choice."""
        super().on_load_checkpoint(checkpoint)
        self._chosen = checkpoint["chosen"]


def noisy_cross_entropy(logits: Tensor, label: Tensor, adaptation: Tensor) -> Tensor:
    """Mean of ``-log Σ_i p_i Q_ij``: p of logits ``(N, K)``, noisy labels j ``(N,)``, rows of Q ``(K, K)`` sum to 1."""
    return -(F.log_softmax(logits.float(), 1) + adaptation.log().T[label]).logsumexp(1).mean()
