"""What a run shows of itself: what it makes of what, and then one line that lives."""

import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from kdlightning.accounting.terms import Terms
from kdlightning.modules.base import DistillationModule
from kdlightning.modules.generator import GeneratorModule
from kdlightning.modules.labelling import LabellingModule
from kdlightning.networks.statistics import count_parameters
from kdlightning.teachers import BlackBoxTeacher

_log = logging.getLogger(__name__)

_WATCHED = ("train/loss", "train/critic", "train/generator", "val/accuracy")
_REFRESH = 0.5  # seconds between looks at the metrics
_LINES = 20  # without a terminal, about so many lines for a quick training
_PATIENCE = 30.0  # without a terminal, seconds after which there is another line


class RunProgress(ProgressBar):
    """Shows a run on the console: a line or two of introduction, then epoch, metrics, queries, money and time left.

    Without a terminal there is at most a line for each epoch, or every 30 s while a teacher labels.

    Args:
        brief: for a stage of a recipe: no introduction, and no lines of epochs that are over quickly.
    """

    def __init__(self, brief: bool = False) -> None:
        super().__init__()
        self.brief = brief
        self._enabled = True
        self._bar: Progress | None = None
        self._metrics = ""
        self._looked = self._said = 0.0
        self._begun = False  # an epoch

    def disable(self) -> None:
        """Lightning switches the bar off on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Switch it on."""
        self._enabled = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is trained, and open the line: a method may ask before the first batch."""
        self._introduce(trainer, pl_module)
        self._open("starting", leave=True)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of the epoch before, whose metrics are known now."""
        if self._bar is None:
            return
        if self._begun:
            self._tell_epoch(trainer)
        self._begun = True
        limit = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        self._bar.update(self._task, description=f"epoch {trainer.current_epoch + 1}{limit}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Look at the metrics, now and then."""
        if self._bar is not None and time.monotonic() - self._looked >= _REFRESH:
            self._look(trainer, batch_idx + 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of the last epoch."""
        if self._bar is not None:
            self._tell_epoch(trainer, last=True)
        self._close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is labelled, and open the line."""
        if isinstance(pl_module, LabellingModule):
            self._introduce(trainer, pl_module)
            self._open("labelling", leave=True)
        else:
            self._open("predicting", trainer.num_predict_batches)

    def on_predict_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Learn how much there is to label, and how much is done already."""
        if self._bar is not None and batch_idx == 0 and isinstance(pl_module, LabellingModule):
            self._bar.reset(self._task, total=pl_module.rows_total, completed=pl_module.rows_done)
            self._metrics = f"{pl_module.rows_done:,} of {pl_module.rows_total:,} images"

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any,  # noqa: ANN401
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Move the line."""
        if not isinstance(pl_module, LabellingModule):
            self._advance()
        elif self._bar is not None:
            done = min(pl_module.rows_done, pl_module.rows_total)
            self._bar.update(self._task, completed=done)
            self._metrics = f"{done:,} of {pl_module.rows_total:,} images"
            if time.monotonic() - self._said >= _PATIENCE:
                self._tell("labelling")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell how it ended."""
        if self._bar is not None and isinstance(pl_module, LabellingModule) and not self.brief:
            self._tell("labelling")
        self._close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a line that will vanish."""
        self._open("testing", trainer.num_test_batches)

    def on_test_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """Move it."""
        self._advance()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a line that will vanish; while a training's is open it stays."""
        self._open("validating", trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Move it."""
        if trainer.state.fn == "validate":
            self._advance()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the console in order."""
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close what is open."""
        self._close()

    def _introduce(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self._enabled:
            return
        self._asked = _Asked(trainer, module)
        for line in introduction(trainer, module, self._asked.terms):
            _log.info(line)
            if not self.brief:
                Console(highlight=False).print(line, soft_wrap=True, markup=False)

    def _open(self, description: str, batches: Any = math.inf, leave: bool = False) -> None:  # noqa: ANN401 - or a list
        if not self._enabled or self._bar is not None:
            return
        console = Console(highlight=False)
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._metrics, self._begun, self._looked, self._said = "", False, 0.0, time.monotonic()
        time_left = TimeRemainingColumn(elapsed_when_finished=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), time_left, _State(self.state if leave else str),
            console=console, disable=not self._live, transient=not leave or self.brief,
            refresh_per_second=2, speed_estimate_period=300,
        )  # fmt: skip
        total = sum(batches) if isinstance(batches, list) else batches
        self._task = self._bar.add_task(description, total=total if math.isfinite(total) else None)
        self._bar.start()

    def _advance(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _look(self, trainer: L.Trainer, batch: int) -> None:
        assert self._bar is not None
        self._looked = time.monotonic()
        share = _share_done(trainer, batch)
        self._bar.update(self._task, completed=share or 0, total=None if share is None else 1)
        known: dict[str, Any] = {**trainer.callback_metrics, **trainer.progress_bar_metrics}
        names = dict.fromkeys([*(name for name in _WATCHED if name in known), *trainer.progress_bar_metrics])
        self._metrics = ", ".join(_number(name.rpartition("/")[2], float(known[name])) for name in names)

    def _tell_epoch(self, trainer: L.Trainer, last: bool = False) -> None:
        self._look(trainer, 0)
        epoch, limit = max(1, trainer.current_epoch), trainer.max_epochs or 0
        late = time.monotonic() - self._said >= _PATIENCE
        if late or (not self.brief and (last or epoch % max(1, math.ceil(limit / _LINES)) == 0)):
            self._tell(f"epoch {epoch}" + (f" of {limit}" if limit > 0 else ""))

    def _tell(self, what: str) -> None:
        """The live line as it is now, for the log, and for a console that cannot show it living."""
        assert self._bar is not None
        left = self._bar.tasks[0].time_remaining
        line = f"{what}: {self.state()}" + (f", {timedelta(seconds=math.ceil(left))} left" if left else "")
        self._said = time.monotonic()
        _log.info(line)
        if not self._live:
            self._bar.console.print(line, soft_wrap=True, markup=False)

    def state(self) -> str:
        """Metrics, queries and money, as they are now."""
        return ", ".join(part for part in (self._metrics, str(self._asked)) if part)


class _State(ProgressColumn):
    """Drawn at every refresh: a teacher is asked inside a batch too."""

    def __init__(self, tell: Callable[[], str]) -> None:
        super().__init__()
        self._tell = tell

    def render(self, task: Task) -> Text:
        return Text(self._tell(), style="cyan", no_wrap=True, overflow="ellipsis")


class _Asked:
    """What a module's black-box teacher has been asked, in words, and its terms; none without one."""

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        teacher, data = getattr(module, "teacher", None), cast(Any, trainer).datamodule
        self._teacher, self.terms = teacher if isinstance(teacher, BlackBoxTeacher) else None, None
        if self._teacher is not None:
            self._began, self._before = time.monotonic(), self._teacher.paid.queries
            if hasattr(data, "image_size"):
                shape = (data.channels, data.image_size, data.image_size)
                self.terms = self._teacher.terms(shape, Path(trainer.default_root_dir) / "queries.meter")

    def __str__(self) -> str:
        if self._teacher is None:
            return ""
        paid, budget, seconds = self._teacher.paid.queries, self._teacher.budget, time.monotonic() - self._began
        parts = [f"{paid:,}" + (f" of {budget:,}" if budget is not None else "") + " queries"]
        if paid > self._before and seconds > 1:
            parts.append(f"{(paid - self._before) / seconds:,.0f}/s")
        if self.terms is not None and self.terms.price:
            limit = self.terms.limits.price
            parts.append(f"{paid * self.terms.price:,.2f}" + (f" of {limit:,.2f}" if limit else "") + " spent")
        return ", ".join(parts)


def introduction(trainer: L.Trainer, module: L.LightningModule, terms: Terms | None) -> list[str]:
    """What is made from what, and of which data, in two lines.

    Args:
        trainer: with its datamodule set up.
        module: what will run.
        terms: of its black-box teacher, if it has one.
    """
    data: Any = getattr(trainer, "datamodule", None)
    transfer_set = getattr(data, "transfer_set", None)
    manifest = transfer_set.manifest if transfer_set else {}
    teacher = getattr(module, "teacher", None)
    who = manifest.get("teacher") or {} if teacher is None else teacher.identity
    access = who.get("access") or manifest.get("access")
    source = f"teacher {who['name']}" + (f" ({access})" if access else "") if who.get("name") else "labels"
    if isinstance(module, LabellingModule):
        made = str(module.output)
    elif isinstance(module, GeneratorModule):
        source = source if who else "images"
        made = f"generator {type(module.generator).__name__}, {count_parameters(module.generator):,} parameters"
    elif isinstance(module, DistillationModule):
        made = f"student {module.student_name}, {count_parameters(module.student):,} parameters"
    else:
        made = f"{count_parameters(module):,} parameters"
    facts = []
    if hasattr(data, "train_set"):
        facts.append(f"{getattr(data, 'name', type(data).__name__)}, {len(data.train_set):,} images")
    if manifest.get("queries"):
        facts.append(f"answers to {manifest['queries']:,} queries")
    if terms is not None:
        kinds = zip(("{:,} queries", "{:,} bytes", "{:,.2f} to spend"), terms.limits, strict=True)
        budget = [form.format(limit) for form, limit in kinds if limit is not None]
        facts.append(f"budget {' and '.join(budget)}" if budget else "no budget set")
    return [f"{type(module).__name__}: {source} -> {made}", *(["; ".join(facts)] if facts else [])]


def _share_done(trainer: L.Trainer, batch: int) -> float | None:
    """The share of a training that is over, from 0 to 1; None where nobody knows its end."""
    shares = []
    if (trainer.max_epochs or 0) > 0 and math.isfinite(trainer.num_training_batches):
        done = trainer.current_epoch + batch / max(1, int(trainer.num_training_batches))
        shares.append(done / (trainer.max_epochs or 1))
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    return min(1.0, max(shares)) if shares else None


def _number(name: str, value: float) -> str:
    return f"{name} {value:.2%}" if name.endswith("accuracy") else f"{name} {value:.4g}"
