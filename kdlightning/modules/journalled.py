"""Answers that are asked while something is trained, written down epoch by epoch: a stopped run pays none twice."""

from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from kdlightning.accounting import AnswerJournal
from kdlightning.accounting.journal import recorded_answers
from kdlightning.modules.base import TaughtModule
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Answers


class JournalledModule(TaughtModule):
    """Trains with a black box's answers; a subclass asks by :meth:`ask_once`.

    The questions of an epoch depend on (seed, epoch, rank) alone: a run that goes on from its last checkpoint asks
    those since then again, and finds the answers in ``journal/``, where the count is in a file as well (the callback
    ``QueryLogger``). What a checkpoint has made superfluous is deleted.
    """

    teacher: Any
    _journal: AnswerJournal | None = None
    _saved = 0  # the epoch of the last checkpoint
    _choosing = "choice-"  # before an epoch's first batch: what is asked to choose its images

    def setup(self, stage: str) -> None:
        """Count what a kill has cut off once."""
        super().setup(stage)
        if stage == "fit" and self.journals:
            self.resume_count(self.trainer)

    @property
    def journals(self) -> bool:
        """Whether answers are written down: those of a black box whose count outlives a kill, in no dry run."""
        black = isinstance(self.teacher, BlackBoxTeacher) and self.teacher.shared
        return black and not self.trainer.fast_dev_run  # type: ignore[attr-defined]

    def resume_count(self, trainer: L.Trainer, shape: tuple[int, ...] = ()) -> None:
        """Let the teacher count what the journals hold, of images of a shape ``(C, H, W)``, where that is known."""
        first = trainer.is_global_zero
        self.teacher.resume(self.journalled(trainer, 0) if first else None, Answers(0, 0, 0), shape or (0,))
        trainer.strategy.barrier("journals")

    def journalled(self, trainer: L.Trainer, epoch: int) -> int:
        """Answers of an interrupted run that will be found from that epoch on."""
        files = (Path(trainer.default_root_dir) / "journal").glob(f"{self._prefix}*")
        return sum(recorded_answers(file) for file in files if self._epoch_of(file) >= epoch)

    def ask_once(self, images: Tensor | list[Tensor]) -> Tensor:
        """The teacher's answers, see :meth:`~kdlightning.teachers.blackbox.BlackBoxTeacher.ask`."""
        if self._journal is None and self.journals:
            self._open()
        answers: Tensor = self.teacher.ask(images) if self._journal is None else self._journal(images)
        return answers

    def on_train_epoch_start(self) -> None:
        """One journal for every epoch: a resume begins at an epoch's start."""
        super().on_train_epoch_start()
        self._close("")
        if not isinstance(self.teacher, BlackBoxTeacher) or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for file in self._journals.glob(f"{self._prefix}*-rank-{self.global_rank}"):
            if self._epoch_of(file) < self._saved:
                file.unlink()

    def on_train_epoch_end(self) -> None:
        """Close the epoch's journal."""
        super().on_train_epoch_end()
        self._close("choice-")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what needs no journal any more, once the file is written."""
        super().on_save_checkpoint(checkpoint)
        self._saved = self.current_epoch

    def on_fit_end(self) -> None:
        """The answers have done their work; nothing was kept that a dry run has asked for."""
        super().on_fit_end()
        if self.trainer.fast_dev_run or not isinstance(self.teacher, BlackBoxTeacher):  # type: ignore[attr-defined]
            return
        for file in self._journals.glob(f"*-epoch-*-rank-{self.global_rank}"):
            file.unlink()

    def _open(self) -> None:
        # another teacher's answers are not this one's
        name = f"{self._prefix}{self.current_epoch}-{self._choosing}rank-{self.global_rank}"
        self._journal = AnswerJournal(self._journals / name, self.teacher.ask, self.teacher.settle)

    def _close(self, choosing: str) -> None:
        if self._journal is not None:
            self._journal.close()
        self._journal, self._choosing = None, choosing

    @cached_property
    def _prefix(self) -> str:
        return f"{self.teacher.identity['fingerprint'][:8]}-{self.teacher.access}-epoch-"

    def _epoch_of(self, file: Path) -> int:
        return int(file.name.removeprefix(self._prefix).split("-")[0])

    @property
    def _journals(self) -> Path:
        return Path(self.trainer.default_root_dir) / "journal"
