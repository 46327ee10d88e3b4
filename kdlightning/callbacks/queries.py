"""The teacher's count in the logger, and one count for all processes."""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.modules import LabellingModule
from kdlightning.remote import RemoteTeacherError
from kdlightning.teachers import BlackBoxTeacher

STOPPED = "stopped.ckpt"


class QueryLogger(Callback):
    """Logs ``teacher/queries``, ``teacher/bytes_up`` and ``teacher/bytes_down`` every epoch and with every validation.

    While a teacher labels, they are logged with ``label/rows``.

    The count lives in ``<default_root_dir>/queries.meter``: every process of the run adds to it and spends the one
    budget, and it survives a kill.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Share the count before any process asks."""
        if teacher := self._teacher(pl_module):
            teacher.share(Path(trainer.default_root_dir) / "queries.meter")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the count beside the accuracy that it has bought: a logger's row has both."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the count so far."""
        if teacher := self._teacher(pl_module):
            paid: dict[str, Any] = {f"teacher/{name}": float(value) for name, value in teacher.paid._asdict().items()}
            pl_module.log_dict(paid, rank_zero_only=True)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Log what is labelled and its cost, every ``log_every_n_steps`` batches: ``predict`` has no log of its own."""
        if (batch_idx + 1) % cast(Any, trainer).log_every_n_steps == 0:
            self._log_rows(trainer, pl_module)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log all of it."""
        self._log_rows(trainer, pl_module)
        for logger in trainer.loggers:
            logger.save()

    def _log_rows(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, LabellingModule):
            paid = {f"teacher/{name}": float(value) for name, value in pl_module.paid._asdict().items()}
            for logger in trainer.loggers:
                logger.log_metrics({"label/rows": float(pl_module.rows_done), **paid}, step=pl_module.rows_done)

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
