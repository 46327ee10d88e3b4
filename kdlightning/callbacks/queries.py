"""The teacher's count in the logger, and one count for all processes."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.modules import LabellingModule
from kdlightning.remote import RemoteTeacherError
from kdlightning.teachers import BlackBoxTeacher

STOPPED = "stopped.ckpt"


class QueryLogger(Callback):
    """Logs ``teacher/queries``, ``teacher/bytes_up`` and ``teacher/bytes_down`` every epoch.

    The count lives in ``<default_root_dir>/queries.meter``: every process of the run adds to it and spends the one
    budget, and it survives a kill.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Share the count before any process asks."""
        if teacher := self._teacher(pl_module):
            teacher.share(Path(trainer.default_root_dir) / "queries.meter")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the count so far."""
        if teacher := self._teacher(pl_module):
            paid: dict[str, Any] = {f"teacher/{name}": float(value) for name, value in teacher.paid._asdict().items()}
            pl_module.log_dict(paid, rank_zero_only=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keep the state where the teacher's answers end, in ``checkpoints/stopped.ckpt``.

        ``last.ckpt`` stays as it is: a run that goes on from an epoch's end equals one that was never stopped.
        """
        over = isinstance(exception, (QueryBudgetExceededError, RemoteTeacherError))
        # with several processes, the others do not know, and would be waited for
        if over and trainer.training and trainer.world_size == 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / STOPPED)

    @staticmethod
    def _teacher(pl_module: L.LightningModule) -> BlackBoxTeacher | None:
        # one that labels counts in its transfer set
        teacher = None if isinstance(pl_module, LabellingModule) else getattr(pl_module, "teacher", None)
        return teacher if isinstance(teacher, BlackBoxTeacher) else None
