"""CAN: a discriminator that also names the class of a vector: a learnt loss between student and teacher.

.. [Xu2018] Z. Xu, Y.-C. Hsu, J. Huang. Training Shallow and Thin Networks for Acceleration via Knowledge Distillation
   with Conditional Adversarial Networks. arXiv:1709.00513.
.. [Odena2017] A. Odena, C. Olah, J. Shlens. Conditional Image Synthesis with Auxiliary Classifier GANs. ICML 2017.

Access: soft or hard labels. Phases: predict TeacherAnswers → fit CAN.

Differences from the paper (P); it has released no code, and the code of MEKD has no CAN:
1. Vectors are centred logits, which a black box's probabilities give; P's are a white box's raw logits.
2. A class is the teacher's top-1 class, because the pool has no labels; P's is the ground truth.
3. The adversarial term of the student is the non-saturating one.
4. P regularises the discriminator; here that is its optimiser's ``weight_decay``.
5. L1 is a mean over elements. Weights are 1 unless given.
6. The student makes its step first.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.functional import gan
from kdlightning.modules.alternating import AdversarialModule, Discriminator
from kdlightning.types import Batch


class ConditionalDiscriminator(Discriminator):
    """A discriminator with an auxiliary classifier on the same features, as in [Odena2017]_.

    Args:
        num_classes: K.
        width: see :class:`Discriminator`.
    """

    def __init__(self, num_classes: int, width: int = 256) -> None:
        super().__init__(num_classes, width)
        self.category_head = nn.Linear(width, num_classes)

    def category(self, vectors: Tensor) -> Tensor:
        """Centred logits ``(N, K)`` → logits ``(N, K)`` of the class that they belong to."""
        logits: Tensor = self.category_head(self.body(vectors))
        return logits.float()


class CAN(AdversarialModule):
    """Conditional adversarial distillation on a ``TransferSetDataModule`` or a ``GeneratedDataModule``.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        ce_weight: weight of the student's cross-entropy with the teacher's top-1 class.
        logits_weight: weight of the L1 distance of logits.
        adversarial_weight: weight of the adversarial term.
        category_weight: weight of the auxiliary classifier's term, on both sides.
        options: those of :class:`AdversarialModule`.
    """

    discriminator: ConditionalDiscriminator
    discriminator_class = ConditionalDiscriminator

    def __init__(
        self,
        student: nn.Module,
        ce_weight: float = 1.0,
        logits_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        category_weight: float = 1.0,
        **options: Any,  # noqa: ANN401 - AdversarialModule's
    ) -> None:
        super().__init__(student, **options)
        self.ce_weight, self.logits_weight = ce_weight, logits_weight
        self.adversarial_weight, self.category_weight = adversarial_weight, category_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The student's terms: supervision, L1, and both of the discriminator's verdicts."""
        student, teacher = self.pair(batch)
        label = teacher.argmax(1)
        verdict, category = self.discriminator(student), self.discriminator.category(student)
        return {
            "ce": self.ce_weight * F.cross_entropy(student, label),  # softmax drops what centring has removed
            "logits": self.logits_weight * F.l1_loss(student, teacher),
            "adversarial": self.adversarial_weight * gan.generator_loss(verdict),
            "category": self.category_weight * F.cross_entropy(category, label),
        }

    def discriminator_losses(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy, and the class of the vectors of both sides."""
        label = teacher.argmax(1)
        categories = [F.cross_entropy(self.discriminator.category(side), label) for side in (teacher, student)]
        return {
            "discriminator": gan.critic_loss(self.discriminator(teacher), self.discriminator(student)),
            "discriminator_category": self.category_weight * torch.stack(categories).sum(),
        }
