"""Steps written out: accumulation and clipping for modules with two optimisers, where Lightning has none."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from kdlightning.modules.base import TaughtModule, prepare_for_two_optimizers


class OwnSteps(TaughtModule):
    """A module whose ``training_step`` steps its optimisers itself.

    It obeys ``accumulate_grad_batches``, ``gradient_clip_val`` and ``gradient_clip_algorithm`` of the trainer: the
    gradients of a group of batches are added up, as a mean, before each optimiser clips its own and steps.
    """

    batches_a_step = 1  #: how many batches are one step
    _clip: tuple[float | None, str | None] = None, None

    @property
    def automatic_optimization(self) -> bool:
        """False."""
        return False

    @automatic_optimization.setter
    def automatic_optimization(self, value: bool) -> None:
        """As it is."""

    def configure_callbacks(self) -> list[Callback]:
        """Take over what Lightning refuses for such modules: it asks for callbacks just before it looks."""
        trainer = self.trainer
        if trainer.state.fn == TrainerFn.FITTING:
            self.batches_a_step = trainer.accumulate_grad_batches
            self._clip = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            trainer.accumulate_grad_batches, trainer.gradient_clip_val = 1, None
        return super().configure_callbacks()

    def teardown(self, stage: str) -> None:
        """Give the trainer its settings back."""
        if stage == "fit":
            self.trainer.accumulate_grad_batches, self.trainer.gradient_clip_val = self.batches_a_step, self._clip[0]
        super().teardown(stage)

    def setup(self, stage: str) -> None:
        """Let DDP cope with two optimisers."""
        super().setup(stage)
        prepare_for_two_optimizers(self.trainer)

    @property
    def begins_step(self) -> bool:
        """Whether the present batch is the first of a step."""
        return self.trainer.fit_loop.batch_idx % self.batches_a_step == 0

    @property
    def ends_step(self) -> bool:
        """Whether it is the last one; an epoch's last step may have fewer."""
        return (self.trainer.fit_loop.batch_idx + 1) % self.batches_a_step == 0 or self.trainer.is_last_batch

    def update(self, optimizer: Any, terms: Mapping[str, Tensor]) -> Tensor:  # noqa: ANN401 - Lightning's wrapper
        """The present batch's part of a step on the sum of terms, which is returned; the step itself with the last."""
        loss = torch.stack(list(terms.values())).sum()
        if self.begins_step:
            optimizer.zero_grad()
        self.manual_backward(loss if self.batches_a_step == 1 else loss / self.batches_a_step)
        if self.ends_step:
            self.clipped_step(optimizer)
        return loss.detach()

    def clipped_step(self, optimizer: Any) -> None:  # noqa: ANN401 - Lightning's wrapper
        """Clip the gradients as the trainer says, and step."""
        value, algorithm = self._clip
        if value:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # its gradients are so many times as large
            scaled = float(value) if scaler is None else float(value) * scaler.get_scale()
            self.clip_gradients(optimizer.optimizer, scaled, algorithm or "norm")
        optimizer.step()
