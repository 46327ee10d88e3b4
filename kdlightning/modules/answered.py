"""What every method shares that trains a student on given answers: a transfer set's, paid for once."""

from typing import Any

import torch
from torch import Tensor, nn

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.transferset import SourcedDataModule
from kdlightning.functional.divergence import centred, smoothed_labels, softened
from kdlightning.modules.base import DistillationModule
from kdlightning.types import Batch


class AnsweredModule(DistillationModule):
    """Trains on images whose answers lie in a transfer set (``TransferSetDataModule``, ``GeneratedDataModule``).

    A loader of your own may yield dicts with ``image`` and ``answer``, the probabilities ``(N, K)``.

    A subclass overrides :meth:`losses`, and narrows ``accepts`` if it cannot use both kinds of answers: ``"soft"``
    probabilities and ``"hard"`` labels (which arrive as one-hot rows). Asking nothing, it takes the access of the set
    for its own.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        confidence: probability of the label that a hard answer becomes; the other classes share the rest evenly.
        floor: least probability of an answer: an API rounds, and log 0 is not finite. It says "so much or less": where
            an answer is at the floor, a student's smaller probability is right.
        options: those of :class:`DistillationModule`.
    """

    accepts: tuple[str, ...] = ("soft", "hard")

    def __init__(self, student: nn.Module, confidence: float = 0.99, floor: float = 1e-7, **options: Options) -> None:
        super().__init__(student, **options)
        self.confidence, self.floor = confidence, floor

    def setup(self, stage: str) -> None:
        """Refuse, with a TypeError, data without a transfer set; with a ValueError, one without usable answers."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        manifest = getattr(getattr(data, "transfer_set", None), "manifest", None)
        if manifest is None:
            if stage != "fit" or not isinstance(data, (ImageDataModule, SourcedDataModule)):
                return  # batches of a user's own loader bring probabilities along, or are refused
            raise TypeError(
                f"{type(self).__name__} trains on given answers: use a TransferSetDataModule or a GeneratedDataModule "
                f"with a path, got {type(data).__name__}"
            )
        if getattr(data, "column", None) is None and "answer" not in data.transfer_set.columns:
            raise ValueError(
                f"{type(self).__name__} needs the teacher's answers, but {manifest['method']} wrote a transfer set "
                f"without them: {sorted(data.transfer_set.columns)}; make one with TeacherAnswers"
            )
        self.access = str(manifest["access"])
        if ("soft" if self.access == "white" else self.access) not in self.accepts:  # a white box's are probabilities
            raise ValueError(
                f"{type(self).__name__} needs {' or '.join(self.accepts)} answers, but those of "
                f"{manifest['method']} are {self.access}"
            )

    def answers(self, batch: Batch) -> Tensor:
        """The teacher's probabilities ``(N, K)``, one-hot rows for labels; a ValueError where the batch has none."""
        if batch.answer is None:
            name = type(self).__name__
            own = "a loader of your own has to yield {'image': ..., 'answer': ...}"
            raise ValueError(f"{name} trains on a transfer set, whose batches carry the teacher's answers; {own}")
        return batch.answer

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
        if logits.shape != answer.shape:
            own, given = logits.shape[1], answer.shape[1]
            raise ValueError(f"the student answers {own} classes, but the teacher's answers have {given}")
        return logits, answer

    def vectors(self, logits: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides as centred logits ``(N, K)``, equal where the student is the teacher.

        An API's probabilities hide the constant that centring removes, and what is below the ``floor``: where the
        teacher's are at it, the student's stop there, too. Elsewhere they do not, or nothing would pull them up.
        """
        student, teacher = softened(logits, 1.0), answer.log()
        student = torch.where(answer > self.floor, student, student.maximum(teacher))
        return centred(student), centred(teacher)
