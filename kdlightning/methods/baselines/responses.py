"""What every baseline shares that compares the student's response with a given answer: how answers are read."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from kdlightning.functional.divergence import centred, centred_log_probabilities, smoothed_labels
from kdlightning.methods.answered import AnsweredModule
from kdlightning.types import Batch


class ResponseModule(AnsweredModule):
    """Trains on given answers, soft or hard. A subclass overrides :meth:`losses`.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        confidence: probability that a hard answer becomes; the other classes share the rest evenly.
        floor: least probability of an answer: an API rounds, and log 0 is not finite.
        optimizer: see :class:`DistillationModule`.
        lr_scheduler: see :class:`DistillationModule`.
    """

    accepts = ("soft", "hard")

    def __init__(
        self,
        student: nn.Module,
        confidence: float = 0.99,
        floor: float = 1e-7,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(student, optimizer, lr_scheduler)
        self.confidence, self.floor = confidence, floor

    def probabilities(self, given: Tensor) -> Tensor:
        """What is given ``(N, K)`` as probabilities, hard answers smoothed, not below ``floor``."""
        answer = smoothed_labels(given, self.confidence) if self.access == "hard" else given
        return answer.clamp_min(self.floor)

    def responses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's logits and the teacher's probabilities, both ``(N, K)``.

        Raises:
            ValueError: a batch without answers, or a student of another number of classes.
        """
        answer = self.probabilities(self.answers(batch))
        logits = self(batch.image)
        self.check_classes(logits, answer)
        return logits, answer

    def vectors(self, logits: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides as centred logits ``(N, K)``: an API's probabilities hide the constant that centring removes."""
        return centred(logits), centred_log_probabilities(answer, self.floor)
