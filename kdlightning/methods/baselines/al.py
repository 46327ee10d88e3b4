"""AL: a teaching assistant tells the student's vectors from the teacher's, and the student learns to deceive it.

.. [Wang2018] Y. Wang, C. Xu, C. Xu, D. Tao. Adversarial Learning of Portable Student Networks. AAAI 2018.
Compared in C, the code of MEKD: https://github.com/HAIV-Lab/MEKD/tree/72881bc (MIT), project/AL.py.

Access: soft or hard labels. Phases: predict TeacherAnswers → fit AL.

Differences from the paper (P) and the code of MEKD (C):
1. The discriminator sees centred logits, which a black box's probabilities give. P's sees features of a white box, C's
   raw logits.
2. An honest adversary: the discriminator minimises the binary cross-entropy, the student's term is that of *wrong*
   answers about it. In C both descend the same sum, so the student helps the discriminator to tell it from the teacher.
3. The student's term is the non-saturating one.
4. The divergence with the teacher's answers in place of P's cross-entropy with labels (C): a pool has no labels. It
   carries T²; C multiplies by T.
5. Weights and temperature are C's: 0.5, 0.15, 2; the discriminator's hidden layers too. C trains it with Adam at 1e-2.
6. The student makes its step first.
"""

from typing import Any

from torch import Tensor, nn

from kdlightning.data.base import above_zero
from kdlightning.functional import gan
from kdlightning.functional.divergence import kd_divergence, softened
from kdlightning.modules.alternating import AdversarialModule
from kdlightning.types import Batch


class AL(AdversarialModule):
    """Adversarial distillation on a ``TransferSetDataModule`` or a ``GeneratedDataModule``.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        temperature: T of the divergence.
        kd_weight: weight of the divergence.
        adversarial_weight: weight of the adversarial term.
        options: those of :class:`AdversarialModule`.
    """

    def __init__(
        self,
        student: nn.Module,
        temperature: float = 2.0,
        kd_weight: float = 0.5,
        adversarial_weight: float = 0.15,
        **options: Any,  # noqa: ANN401 - AdversarialModule's
    ) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature)
        self.temperature, self.kd_weight, self.adversarial_weight = temperature, kd_weight, adversarial_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The student's terms: the divergence, and what deceives the discriminator."""
        student, teacher = self.pair(batch)
        # softmax drops the constant that centring has removed
        divergence = kd_divergence(student, softened(teacher, self.temperature), self.temperature)
        return {
            "kd": self.kd_weight * self.temperature**2 * divergence,
            "adversarial": self.adversarial_weight * gan.generator_loss(self.discriminator(student)),
        }

    def discriminator_losses(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy: the teacher's vectors are the real ones."""
        return {"discriminator": gan.critic_loss(self.discriminator(teacher), self.discriminator(student))}
