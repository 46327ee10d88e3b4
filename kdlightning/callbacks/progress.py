"""What a run shows of itself: what it makes of what, and then one line that lives."""

import logging
import math
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kdlightning.accounting.accounts import money
from kdlightning.accounting.ledger import LedgerError
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
        self.brief, self._enabled, self._begun = brief, True, False  # begun: an epoch
        self._bar: Progress | None = None

    def disable(self) -> None:
        """Lightning switches the bar off on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Switch it on."""
        self._enabled = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is trained, and open the line: a method may ask before the first batch."""
        self._open("starting", module=pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of the epoch before, whose metrics are known now."""
        if self._bar is not None:
            if self._begun:
                self._tell_epoch()
            self._begun = True
            self._bar.update(self._task, description=self._epoch(trainer.current_epoch + 1))

    def on_train_batch_end(self, trainer: L.Trainer, *hook: Any) -> None:  # noqa: ANN401
        """Look at the metrics, now and then."""
        if self._bar is not None and time.monotonic() - self._looked >= _REFRESH:
            self._look(hook[-1] + 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell of the last epoch."""
        if self._bar is not None:
            self._tell_epoch(last=True)
        self._close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what is labelled, and open the line."""
        if isinstance(pl_module, LabellingModule):
            self._open("labelling", module=pl_module)
            pl_module.on_rows = lambda: self._labelled(pl_module)
        else:
            self._open("predicting", trainer.num_predict_batches)

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Learn how much there is to label, and how much is done already."""
        if self._bar is not None and isinstance(pl_module, LabellingModule):
            self._count_rows(pl_module, self._bar.reset)

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:  # noqa: ANN401
        """Move the line."""
        if isinstance(pl_module, LabellingModule):
            self._labelled(pl_module)
        self._advance()

    def _labelled(self, module: LabellingModule) -> None:
        """Rows were written: a selection does so in its rounds, outside of any batch."""
        if self._bar is not None:
            self._count_rows(module, self._bar.update)
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

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a line that will vanish; while a training's is open it stays."""
        self._open("validating", trainer.num_val_batches)

    def _open(self, what: str, batches: Any = math.inf, module: L.LightningModule | None = None) -> None:  # noqa: ANN401
        """A line that counts batches and vanishes, or one of a module at work, introduced, that stays."""
        if not self._enabled or self._bar is not None:
            return
        console = Console(highlight=False)
        self._state = None if module is None else _State(self.trainer, module)
        for line in self._state.introduction if self._state is not None else ():
            _log.info(line)
            if not self.brief:
                console.print(line, soft_wrap=True, markup=False)
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._begun, self._looked, self._said = False, 0.0, time.monotonic()
        # the state is written anew at every refresh: a teacher is asked inside a batch too
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[state]}", style="cyan", markup=False),
            console=console, disable=not self._live, transient=module is None or self.brief,
            refresh_per_second=2, speed_estimate_period=300,
        )  # fmt: skip
        total = sum(batches) if isinstance(batches, list) else batches
        self._task = self._bar.add_task(what, total=total if math.isfinite(total) else None, state=self._state or "")
        self._bar.start()

    def _advance(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Move a line that counts batches."""
        if self._bar is not None and self._state is None:
            self._bar.advance(self._task)

    def _close(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    on_test_batch_end = on_validation_batch_end = _advance
    on_exception = teardown = _close

    def _count_rows(self, module: LabellingModule, move: Any) -> None:  # noqa: ANN401 - a method of the bar
        assert self._state is not None
        done = min(module.rows_done, module.rows_total)
        move(self._task, total=module.rows_total, completed=done)
        lacking = f", {module.rows_unanswered:,} without an answer" if module.rows_unanswered else ""
        self._state.metrics = f"{done:,} of {module.rows_total:,} images{lacking}"

    def _look(self, batch: int) -> None:
        assert self._bar is not None
        assert self._state is not None
        self._looked = time.monotonic()
        trainer, epochs = self.trainer, self.trainer.max_epochs or 0
        shares = [trainer.global_step / trainer.max_steps] if trainer.max_steps > 0 else []
        if epochs > 0 and math.isfinite(trainer.num_training_batches):
            shares.append((trainer.current_epoch + batch / max(1, int(trainer.num_training_batches))) / epochs)
        share = min(1.0, max(shares)) if shares else None  # of the training; nobody may know its end
        self._bar.update(self._task, completed=share or 0, total=None if share is None else 1)
        shown = trainer.progress_bar_metrics
        known: dict[str, Any] = {**trainer.callback_metrics, **shown}
        names = dict.fromkeys(name for name in (*_WATCHED, *shown) if name in known)
        forms = {name: ".2%" if name.endswith("accuracy") else ".4g" for name in names}
        told = [f"{name.rpartition('/')[2]} {float(known[name]):{form}}" for name, form in forms.items()]
        self._state.metrics = ", ".join(told)

    def _epoch(self, number: int) -> str:
        limit = self.trainer.max_epochs or 0
        return f"epoch {number}" + (f" of {limit}" if limit > 0 else "")

    def _tell_epoch(self, last: bool = False) -> None:
        self._look(0)
        epoch, limit = max(1, self.trainer.current_epoch), self.trainer.max_epochs or 0
        late = time.monotonic() - self._said >= _PATIENCE
        if late or (not self.brief and (last or epoch % max(1, math.ceil(limit / _LINES)) == 0)):
            self._tell(self._epoch(epoch))

    def _tell(self, what: str) -> None:
        """The live line as it is now, for the log, and for a console that cannot show it living."""
        assert self._bar is not None
        left = self._bar.tasks[0].time_remaining
        line = f"{what}: {self._state}" + (f", {timedelta(seconds=math.ceil(left))} left" if left else "")
        self._said = time.monotonic()
        _log.info(line)
        if not self._live:
            self._bar.console.print(line, soft_wrap=True, markup=False)


class _State:
    """In words: metrics, and what a module's black-box teacher, if it has one, has been asked on which terms."""

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.metrics, self.terms, self._spent = "", None, 0.0
        teacher, data = getattr(module, "teacher", None), cast(Any, trainer).datamodule
        self._teacher = teacher if isinstance(teacher, BlackBoxTeacher) else None
        if self._teacher is not None:
            self._began, self._before = time.monotonic(), self._teacher.paid.queries
            if hasattr(data, "image_size") and hasattr(data, "channels"):
                shape = (data.channels, data.image_size, data.image_size)
                self.terms = self._teacher.terms(shape, Path(trainer.default_root_dir) / "queries.meter")
        self.introduction = introduction(trainer, module, self.terms)

    def __str__(self) -> str:
        parts = [self.metrics] if self.metrics else []
        if self._teacher is not None:
            paid, budget, seconds = self._teacher.paid.queries, self._teacher.budget, time.monotonic() - self._began
            parts.append(f"{paid:,}" + (f" of {budget:,}" if budget is not None else "") + " queries")
            if paid > self._before and seconds > 1:
                parts.append(f"{(paid - self._before) / seconds:,.0f}/s")
            if self.terms is not None and (self.terms.price is None or self.terms.price.most):
                with suppress(LedgerError):  # one that is locked for long is no reason to show nothing
                    self._spent = self._teacher.cost.price
                limit = self.terms.limits.price
                parts.append(money(self._spent) + (f" of {money(limit)}" if limit else "") + " spent")
            if wait := math.ceil(self._teacher.waiting):
                parts.append(f"waiting for the rate limit, {wait} s")
            if status := self._teacher.status:
                parts.append(status)
        return ", ".join(parts)


def introduction(trainer: L.Trainer, module: L.LightningModule, terms: Terms | None) -> list[str]:
    """What is made from what, and of which data, in two lines; the datamodule is set up."""
    data: Any = getattr(trainer, "datamodule", None)
    manifest = getattr(getattr(data, "transfer_set", None), "manifest", {})
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
        most = terms.limits
        counts = [(most.queries, "queries"), (most.bytes, "bytes")]
        budget = [f"{limit:,} {unit}" for limit, unit in counts if limit is not None]
        budget += [] if most.price is None else [f"{money(most.price)} to spend"]
        facts.append(f"budget {' and '.join(budget)}" if budget else "no budget set")
    return [f"{type(module).__name__}: {source} -> {made}", *(["; ".join(facts)] if facts else [])]
