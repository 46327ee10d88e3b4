"""Two networks in one fit, the student and another one, each with an optimiser of its own."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kdlightning.methods.base import DistillationModule, prepare_for_two_optimizers
from kdlightning.types import Batch


class TwoPlayerModule(DistillationModule):
    """Trains the student beside another network. The schedule is the student's, stepped every epoch.

    A subclass sets ``automatic_optimization`` to False and ``_other_optimizer``, and overrides :attr:`other`,
    ``losses`` and ``training_step``. ``max_steps`` counts the steps of both optimisers.
    """

    _other_optimizer: OptimizerCallable

    @property
    @abstractmethod
    def other(self) -> nn.Module:
        """The other network."""

    def setup(self, stage: str) -> None:
        """Let DDP cope with two optimisers."""
        super().setup(stage)
        prepare_for_two_optimizers(self.trainer)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union
        """The student's optimiser, then the other network's; the student's schedule.

        Raises:
            ValueError: a schedule that follows a metric.
        """
        optimizer = self._optimizer(self.student.parameters())
        schedules = [] if self._lr_scheduler is None else [self._lr_scheduler(optimizer)]
        if any(isinstance(schedule, ReduceLROnPlateau) for schedule in schedules):
            raise ValueError(
                f"lr_scheduler: {type(self).__name__} steps its schedule every epoch and knows no metric, so not "
                "ReduceLROnPlateau; expected one such as CosineAnnealingLR"
            )
        return [optimizer, self._other_optimizer(self.other.parameters())], schedules

    def update(self, optimizer: Any, terms: Mapping[str, Tensor]) -> Tensor:  # noqa: ANN401 - Lightning's wrapper
        """One step on the sum of terms, which is returned."""
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss.detach()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401 - Lightning's
        """After an epoch's last batch, before it is validated and saved: where automatic optimisation has it too."""
        if self.trainer.is_last_batch and self._lr_scheduler is not None:
            cast(Any, self.lr_schedulers()).step()
