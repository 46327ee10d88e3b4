"""KD: the student matches the teacher's softened probabilities. The smallest method, and the one to copy.

.. [Hinton2015] G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. arXiv:1503.02531.

Access: soft or top-k labels; on given answers also hard ones. Phases: fit; or predict TeacherAnswers → fit AnsweredKD.

Differences from the paper:
1. The teacher is a black box that answers probabilities; ``log p`` equals its logits up to a constant that softmax
   drops, so the softened target is the paper's exactly.
2. Every image is asked again each epoch, because augmentation changes it. ``query_once`` keeps the first answer per
   image instead: as many queries as images, for training without augmentation. ``AnsweredKD`` asks nothing: it trains
   on a transfer set.
"""

from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import Options, above_zero
from kdlightning.functional.divergence import kd_divergence, log_softened, softened
from kdlightning.functional.topk import Rest
from kdlightning.modules.answered import AnsweredModule
from kdlightning.modules.base import DistillationModule
from kdlightning.modules.journalled import JournalledModule
from kdlightning.modules.schedule import schedule
from kdlightning.modules.spreading import spreading
from kdlightning.teachers import SoftLabelTeacher, TopKTeacher, as_teacher
from kdlightning.teachers.outcomes import answered
from kdlightning.types import Batch, Estimate


class KD(JournalledModule, DistillationModule):
    """Hinton's distillation from a teacher that answers probabilities.

    Args:
        teacher: answers ``(N, K)`` probabilities, or those of the best classes.
        student: pixels in [0, 1] to logits ``(N, K)``.
        temperature: T, of both sides.
        kd_weight: weight of the distillation term, which carries T².
        ce_weight: weight of the cross-entropy with ground-truth labels; without labels there is no such term.
        query_once: keep the first answer for every image; only without augmentation, unless the data's
            ``teacher_size`` shows the teacher the image itself, which needs it.
        rest: of a teacher that names the best classes only, what becomes of the others' mass, see
            :class:`~kdlightning.modules.AnsweredModule`.
        options: those of :class:`DistillationModule`.
    """

    access = "soft"
    asks_as_is = True

    def __init__(
        self,
        teacher: SoftLabelTeacher | TopKTeacher,
        student: nn.Module,
        temperature: float = 4.0,
        kd_weight: float = 1.0,
        ce_weight: float = 1.0,
        query_once: bool = False,
        rest: Rest = "ignored",
        **options: Options,
    ) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature)
        self.teacher: SoftLabelTeacher | TopKTeacher = as_teacher(teacher, SoftLabelTeacher, TopKTeacher)
        self.access, self.spread = self.teacher.access, spreading(rest)
        self.temperature, self.kd_weight, self.ce_weight = temperature, kd_weight, ce_weight
        self.query_once = query_once
        self._answers: dict[int, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, to ask anew about images that never change for the teacher."""
        super().setup(stage)
        if self.views is not None and not self.query_once:
            raise ValueError("with teacher_size the teacher sees the same image in every epoch: give query_once=True")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Distillation term and, with labels, cross-entropy: Sec. 2 of [Hinton2015]_."""
        answer, logits = self.answers(batch), self(batch.image)
        kept = answered(answer)  # an image without an answer has no part in this term
        divergence = self.divergence(answer[kept], logits[kept]) if kept.any() else 0 * logits.sum()
        terms = {"kd": self.kd_weight * self.temperature**2 * divergence}
        if batch.label is not None and self.ce_weight > 0:
            terms["ce"] = self.ce_weight * F.cross_entropy(logits, batch.label)
        return terms

    def divergence(self, answer: Tensor, logits: Tensor) -> Tensor:
        """KL from the teacher's answers to the student's logits, at the temperature."""
        if self.access == "topk":
            answer = self.spread(answer, logits)
        return kd_divergence(logits, log_softened(answer, self.temperature), self.temperature)

    def answers(self, batch: Batch) -> Tensor:
        """What the teacher answers, asked for, or remembered with ``query_once``.

        Negative where the teacher gives no answer. A ValueError where answers are to be remembered of images whose
        index the loader does not give.
        """
        if not self.query_once:
            return self.ask_once(batch.image)
        index = batch.index.tolist()
        if min(index) < 0:
            told = "remembers an answer by its image's index, which this loader does not give"
            raise ValueError(f"query_once {told}: yield dicts with 'index', or give query_once=False")
        new = [position for position, image in enumerate(index) if image not in self._answers]
        if new:
            for position, answer in zip(new, self._first(batch, new), strict=True):
                self._answers[index[position]] = answer
        return torch.stack([self._answers[image] for image in index])

    def _first(self, batch: Batch, new: list[int]) -> Tensor:
        if self.views is None:
            return self.ask_once(batch.image[new])
        return self.views.answers(self.ask_once, batch.index.cpu()[new], batch.image.device)

    def estimate(self, trainer: L.Trainer, data: Any, done: int = 0) -> Estimate:  # noqa: ANN401 - a datamodule
        """Every image of every batch; with ``query_once`` every image once, and once more after a resume."""
        plan, number = schedule(trainer, data), len(data.train_dataloader().dataset)
        before, after = plan.images_of(done), plan.images - plan.images_of(done)
        least = after
        if self.query_once:  # every process remembers its own
            before, after = (min(images, number * plan.processes) for images in (before, after))
            least = min(after, plan.processes * sum(plan.sizes))
        least = before + (least if plan.certain else 0)
        kept = before + self.journalled(trainer, done // max(1, len(plan.sizes)))
        varied = getattr(data, "augmentation", None) is not None
        distinct = (min(least, number), before + after if varied else min(before + after, number))
        return Estimate(max(least, kept), before + after, kept, distinct)


class AnsweredKD(AnsweredModule):
    """The distillation term alone, on the answers of a transfer set: what most other methods are compared with.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        temperature: T, of both sides.
        options: those of :class:`AnsweredModule`.
    """

    def __init__(self, student: nn.Module, temperature: float = 1.0, **options: Options) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature)
        self.temperature = temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """T² KL, Sec. 2 of [Hinton2015]_."""
        student, teacher = self.vectors(*self.responses(batch))
        divergence = kd_divergence(student, softened(teacher, self.temperature), self.temperature)
        return {"kd": self.temperature**2 * divergence}
