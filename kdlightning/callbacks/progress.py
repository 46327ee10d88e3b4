"""A bar for labelling: rows done, queries spent, how fast, how long."""

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import ProgressColumn as _Column
from rich.text import Text

from kdlightning.modules.labelling import LabellingModule


class _Queries(_Column):
    """Queries spent so far; read from the meter at every refresh, so it moves inside a batch too."""

    def __init__(self, module: LabellingModule) -> None:
        super().__init__()
        self._module = module
        self._start = module.paid.queries

    def render(self, task: Task) -> Text:
        paid = self._module.paid.queries
        rate = (paid - self._start) / task.elapsed if task.elapsed else 0.0
        budget = getattr(self._module.teacher, "budget", None)
        limit = f" of {budget:,}" if budget is not None else ""
        return Text(f"{paid:,}{limit} queries, {rate:,.0f}/s", style="cyan")


class LabellingProgress(ProgressBar):
    """Shows a labelling ``predict``: images done, queries spent (of the budget), queries per second, time left."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._enabled = True

    def disable(self) -> None:
        """Lightning switches the bar off on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Switch it on."""
        self._enabled = True

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Open the bar when the module knows how much there is."""
        if self._progress is None and self._enabled and isinstance(pl_module, LabellingModule):
            columns = (
                TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), _Queries(pl_module),
            )  # fmt: skip
            self._progress = Progress(*columns, refresh_per_second=2)
            self._task = self._progress.add_task("labelling", total=pl_module.rows_total, completed=pl_module.rows_done)
            self._progress.start()

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,  # noqa: ANN401
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Move it."""
        if self._progress is not None and isinstance(pl_module, LabellingModule):
            self._progress.update(self._task, completed=min(pl_module.rows_done, pl_module.rows_total))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close it, also after an error."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
