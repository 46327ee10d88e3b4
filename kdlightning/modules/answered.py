"""What every method shares that trains a student on given answers: a transfer set's, paid for once."""

from typing import Any

import torch
from torch import Tensor, nn

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.transferset import SourcedDataModule
from kdlightning.functional.divergence import centred, smoothed_labels, softened
from kdlightning.functional.topk import Rest, top_class
from kdlightning.modules.base import DistillationModule
from kdlightning.modules.spreading import spreading
from kdlightning.types import Batch


class AnsweredModule(DistillationModule):
    """Trains on images whose answers lie in a transfer set (``TransferSetDataModule``, ``GeneratedDataModule``).

    A loader of your own may yield dicts with ``image`` and ``answer``, the probabilities ``(N, K)``.

    A subclass overrides :meth:`losses`, and narrows ``accepts`` if it cannot use all kinds of answers: ``"soft"``
    probabilities, ``"topk"`` (those of the best classes, rows of :class:`~kdlightning.functional.topk.TopK`) and
    ``"hard"`` labels (which arrive as one-hot rows). Asking nothing, it takes the access of the set for its own.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        confidence: probability of the label that a hard answer becomes; the other classes share the rest evenly.
        floor: least probability of an answer: an API rounds, and log 0 is not finite. It says "so much or less": where
            an answer is at the floor, a student's smaller probability is right.
        rest: where answers name the best classes only, what becomes of the mass of the others: ``ignored``, one bin
            that the student fills as it likes; ``uniform``, evenly over them; ``prior``, by how often each class was
            answered so far.
        options: those of :class:`DistillationModule`.
    """

    accepts: tuple[str, ...] = ("soft", "topk", "hard")
    partial = False  #: whether the batches' answers name the best classes only

    def __init__(
        self,
        student: nn.Module,
        confidence: float = 0.99,
        floor: float = 1e-7,
        rest: Rest = "ignored",
        **options: Options,
    ) -> None:
        super().__init__(student, **options)
        self.confidence, self.floor, self.spread = confidence, floor, spreading(rest)

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
        self.partial = self.access == "topk" and getattr(data, "column", None) in (None, "answer")

    def answers(self, batch: Batch) -> Tensor:
        """What a batch holds of the teacher: probabilities ``(N, K)``, one-hot rows for labels, rows of top-k answers.

        A ValueError where it has none.
        """
        if batch.answer is None:
            name = type(self).__name__
            own = "a loader of your own has to yield {'image': ..., 'answer': ...}"
            raise ValueError(f"{name} trains on a transfer set, whose batches carry the teacher's answers; {own}")
        return batch.answer

    def probabilities(self, given: Tensor, logits: Tensor | None = None) -> Tensor:
        """What is given as probabilities ``(N, K)``, hard answers smoothed, not below ``floor``.

        Top-k answers need the student's logits ``(N, K)``: what they leave open may be shared by them.
        """
        if self.partial:
            assert logits is not None
            given = self.spread(given, logits)
        answer = smoothed_labels(given, self.confidence) if self.access == "hard" else given
        return answer.clamp_min(self.floor)

    def responses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's logits and the teacher's probabilities, both ``(N, K)``.

        Raises:
            ValueError: a batch without answers, or a student of another number of classes.
        """
        logits = self(batch.image)
        answer = self.probabilities(self.answers(batch), logits)
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

    def top_class(self, batch: Batch, answer: Tensor) -> Tensor:
        """The class ``(N,)`` that the teacher names first, whatever became of the rest in its probabilities."""
        return top_class(self.answers(batch), topk=True) if self.partial else answer.argmax(1)
