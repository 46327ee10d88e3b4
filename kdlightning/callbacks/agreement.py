"""How often the student says what the teacher says, measured with a teacher of its own."""

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kdlightning.teachers import HardLabelTeacher
from kdlightning.types import Batch


class Agreement(Callback):
    """Logs ``test/agreement``: the share of test images on which student and teacher give the same class.

    Args:
        teacher: asked for evaluation only; give it no budget. It is another object than the method's teacher, so that
            evaluation never touches the method's count.
    """

    def __init__(self, teacher: HardLabelTeacher) -> None:
        self.teacher = teacher
        self._same = self._seen = torch.zeros(())

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._same = torch.zeros((), device=pl_module.device)
        self._seen = torch.zeros((), device=pl_module.device)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch,  # noqa: ANN401
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Ask both."""
        same = self.teacher.query(batch.image) == pl_module(batch.image).argmax(1)
        self._same += same.sum()
        self._seen += len(same)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the share, over all processes."""
        both = trainer.strategy.reduce(torch.stack([self._same, self._seen]), reduce_op="sum")
        assert isinstance(both, Tensor)
        pl_module.log("test/agreement", both[0] / both[1])
