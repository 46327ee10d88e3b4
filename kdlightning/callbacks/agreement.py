"""How often the student says what the teacher says, measured with a teacher of its own."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from torchmetrics import MeanMetric

from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Batch


class Agreement(Callback):
    """Logs ``test/agreement``: the share of test images on which student and teacher give the same class.

    Args:
        teacher: asked for evaluation only; give it no budget. Of probabilities the top class counts. It is another
            object than the method's teacher, so that evaluation never touches the method's count.
    """

    without_labels = True  # students may be tested on images that have none

    def __init__(self, teacher: BlackBoxTeacher) -> None:
        self.teacher = teacher
        self._share = MeanMetric()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._share = MeanMetric().to(pl_module.device)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Ask both."""
        answer = self.teacher.query(batch.image)
        answer = answer.argmax(1) if answer.ndim == 2 else answer
        self._share.update(answer == pl_module(batch.image).argmax(1))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the share, over all processes."""
        pl_module.log("test/agreement", self._share.compute())
