"""What every method shares that trains a student on given answers: a transfer set's, paid for once."""

from typing import Any

from torch import Tensor

from kdlightning.methods.base import DistillationModule
from kdlightning.types import Batch


class AnsweredModule(DistillationModule):
    """Trains on images whose answers lie in a transfer set (``TransferSetDataModule``, ``GeneratedDataModule``).

    A subclass says in ``accepts`` which answers it can use: ``"soft"`` probabilities, ``"hard"`` labels (which arrive
    as one-hot rows), or both. Asking nothing, it takes the access of the set for its own.
    """

    accepts: tuple[str, ...] = ("soft",)

    def setup(self, stage: str) -> None:
        """Check that data and method fit together, before a step is made.

        Raises:
            TypeError: the datamodule has no transfer set.
            ValueError: it has no answers, or none of a kind that the method can use.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        manifest = getattr(getattr(data, "transfer_set", None), "manifest", None)
        if manifest is None:
            if stage != "fit":
                return
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
        if self.access not in self.accepts:
            raise ValueError(
                f"{type(self).__name__} needs {' or '.join(self.accepts)} answers, but those of "
                f"{manifest['method']} are {self.access}"
            )

    def answers(self, batch: Batch) -> Tensor:
        """The teacher's probabilities ``(N, K)``; one-hot rows where it answers labels only.

        Raises:
            ValueError: the batch has none.
        """
        if batch.answer is None:
            raise ValueError(
                f"{type(self).__name__} trains on a transfer set, whose batches carry the teacher's answers"
            )
        return batch.answer

    def check_classes(self, logits: Tensor, answer: Tensor) -> None:
        """Refuse a student of another number of classes.

        Raises:
            ValueError: naming both sides.
        """
        if logits.shape != answer.shape:
            raise ValueError(
                f"the student answers {logits.shape[1]} classes, but the teacher's answers have {answer.shape[1]}"
            )
