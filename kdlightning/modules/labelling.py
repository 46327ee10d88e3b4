"""What every method that labels or synthesises shares: rows into a transfer set, nothing paid for twice."""

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kdlightning.accounting import AnswerJournal, estimates
from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.journal import recorded_answers
from kdlightning.data.base import ImageDataModule
from kdlightning.data.cached import sweep, write_tensors
from kdlightning.data.transferset import TransferSet, TransferSetWriter, read_header, read_shard
from kdlightning.data.views import Views
from kdlightning.modules.arguments import keep_plain_hyperparameters
from kdlightning.modules.base import check_launcher
from kdlightning.modules.launch import Launch
from kdlightning.modules.rehearsal import check_precision, check_teacher
from kdlightning.modules.schedule import unlimited
from kdlightning.modules.viewing import shape_asked, views_of
from kdlightning.teachers import BlackBoxTeacher, WhiteBoxTeacher
from kdlightning.types import Answers, Batch, Estimate

Predict = Callable[[Any], Tensor]


class LabellingModule(L.LightningModule, ABC):
    """A ``predict`` that writes a transfer set.

    Rows that are written already are skipped; the answers to the batch in flight are journalled, so that after a kill
    the same command goes on, asks nothing twice and ends with the same set. Processes write shards side by side and
    share one budget; the directory is locked for them (see :class:`Launch`). SIGTERM and SIGINT stop it before the next
    question. A subclass overrides :meth:`label`, and :meth:`facts` for what the manifest should say.

    Args:
        teacher: who answers; a white box, which is not asked but opened, has no count and no journal: a subclass that
            takes one overrides :meth:`write`.
        output: directory of the transfer set.
    """

    columns: tuple[str, ...] = ()  #: of the transfer set, as far as the class alone tells; () for unknown
    needs_every_answer: bool = True  #: a search would not know what an image without an answer means
    asks_as_is: bool = False  #: whether it asks about the data's images as they are: a teacher may see larger ones
    views: Views | None = None  #: what the teacher is shown in place of the batch's images; None for these
    renumbers: bool = False  #: whether its rows count by themselves, not by the datamodule's indices
    teacher: BlackBoxTeacher | WhiteBoxTeacher

    def __init__(self, teacher: BlackBoxTeacher | WhiteBoxTeacher, output: str) -> None:
        super().__init__()
        keep_plain_hyperparameters(self)
        self.teacher, self.output = teacher, Path(output).expanduser()
        self.finished: TransferSet | None = None
        self._pools: list[Path] = []
        self.rows_done = self.rows_total = self.rows_unanswered = 0
        self.on_rows: Callable[[], object] = lambda: None  #: called when rows are written: a line that shows how many
        self._launch = Launch(self.output, teacher.interrupt if isinstance(teacher, BlackBoxTeacher) else None)

    @abstractmethod
    def label(self, batch: Batch, predict: Predict) -> dict[str, Tensor]:
        """The rows of a batch.

        Args:
            batch: pixels ``(N, C, H, W)`` in [0, 1]; only images that have no row yet.
            predict: pixels ``(M, C, H, W)`` to class indices ``(M,)``; the only way to ask the teacher.

        Returns:
            Columns of length N, among them ``queries``: the images asked for each row, int64.
        """

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """Plain statistics of the finished rows for the manifest."""
        return {}

    @property
    def paid(self) -> Answers:
        """What the teacher's answers have cost so far."""
        return self.teacher.paid if isinstance(self.teacher, BlackBoxTeacher) else Answers(0, 0, 0)

    def settings(self) -> dict[str, Any]:
        """What identifies the set besides its source and teacher: plain values, compared on resume."""
        return {key: value for key, value in self.hparams.items() if key not in ("teacher", "output", "_instantiator")}

    def setup(self, stage: str) -> None:
        """Refuse, with a TypeError, data that cannot be labelled; with a ValueError, other classes than the data's."""
        check_launcher(self.trainer)
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "predict_indices"):
            got = "a loader" if data is None else f"a {type(data).__name__}"
            raise TypeError(
                f"{type(self).__name__} labels a datamodule of kdlightning.data, and of a data set of your own "
                f"DatasetDataModule(dataset) makes one; got {got}: trainer.predict(module, datamodule=...)"
            )
        check_precision(self.trainer)
        self.views = views_of(self, data)
        check_teacher(self.teacher, self.trainer, self.views)
        known = self.hparams.get("num_classes")
        if known is not None and known != data.num_classes:
            raise ValueError(f"num_classes is {known}, but the data set {data.name} has {data.num_classes}")

    @property
    def interruption(self) -> BaseException | None:
        """The end that a signal has asked for; None where none has come."""
        return self._launch.stopped

    def configure_callbacks(self) -> list[Callback]:
        """The lock and the stop."""
        return [self._launch]

    def on_predict_start(self) -> None:
        """Open or resume the transfer set.

        Raises:
            FileExistsError: it is finished already, or was begun with other settings.
            DirectoryInUseError: another launch writes it.
            DamagedFileError: a file of it is not what was written.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        identity = self.teacher.identity
        begun = {
            "method": type(self).__name__,
            "access": self.teacher.access,
            "teacher": {key: identity[key] for key in ("name", "fingerprint")},
            "source": data.identity(),
            "settings": self.settings(),
        }
        if self.global_rank == 0:
            self._read_anew(begun)
        self.trainer.strategy.barrier("read anew")
        self.writer = TransferSetWriter(self.output, begun)
        # what an earlier phase has paid counts towards the same budget
        self.earlier: Answers = getattr(data, "paid", Answers(0, 0, 0))
        first, asked = self.trainer.is_global_zero, None
        if first:
            sweep(self.output)
            asked = sum(self._left_behind(tidy=True)[1:])
        if isinstance(self.teacher, BlackBoxTeacher):
            self.teacher.share(self.output / "queries.meter")
            shape = shape_asked(data, self.views)
            self.teacher.resume(asked, self.earlier, shape)
        self.trainer.strategy.barrier("what is left behind")
        written = self.writer.rows()
        self._done, self.rows_unanswered = self.writer.done().sort().values, _unanswered(written)
        self._began = time.monotonic()
        self.rows_done = len(self._done)
        self.rows_total = int(data.identity()["num_samples"])
        self.prepare(data)

    def _read_anew(self, begun: dict[str, Any]) -> None:
        """Clear an unfinished set whose replies were read otherwise: the ledger has them, and they are read again."""
        header = self.output / "header.json"
        if not header.exists() or (self.output / "manifest.json").exists():
            return
        there, same = read_header(header), json.loads(json.dumps(begun))
        if isinstance(self.teacher, BlackBoxTeacher) and there != {**there, **same}:
            who = there.get("teacher", {}).get("fingerprint", "")
            if there == {**there, **same, "teacher": there.get("teacher")} and self.teacher.read_otherwise(who):
                for file in (*self.output.glob("*.safetensors"), *self.output.glob("journal-*"), header):
                    file.unlink()

    def questions(self, data: Any, rows: int) -> tuple[int, int] | None:  # noqa: ANN401 - a datamodule
        """The fewest and the most images asked for so many rows and :meth:`prepare`; None where nobody knows.

        ``rows`` are all of the datamodule, which is set up, or those that an interrupted run has left. Asks nothing.
        """
        return None

    def estimate(self, trainer: L.Trainer, data: Any, done: int = 0) -> Estimate | None:  # noqa: ANN401 - a datamodule
        """What ``trainer.predict`` will ask, by :meth:`questions`, and what an interrupted run has kept of it."""
        if (self.output / "manifest.json").exists():
            told = TransferSet(self.output).manifest
            asked = int(told["queries"]) - int(told.get("queries_before", 0))
            return Estimate(asked, asked, asked)
        total = len(data.predict_indices())
        written, answered, pending = self._left_behind()
        whole, rest = self.questions(data, total), self.questions(data, total - written)
        if whole is None or rest is None:
            return None
        kept = answered + pending
        least = max(kept, whole[0]) if unlimited(trainer.limit_predict_batches) else kept
        return Estimate(least, max(kept, min(whole[1], answered + rest[1])), kept)

    def _left_behind(self, *, tidy: bool = False) -> tuple[int, int, int]:
        """Rows that an interrupted run has written, what was asked for them and the pool, answers not yet written.

        ``tidy`` deletes journals whose answers have a file of their own: a kill may come before that is done.
        """
        shards = [read_shard(file) for file in self.output.glob("shard-*.safetensors")]
        asked = sum(int(shard["queries"].sum()) for shard in shards)
        for file in self.output.glob("*.safetensors"):
            if (columns := read_shard(file)).keys() == {"label"}:  # of label_pool
                asked += len(columns["label"])
        written = {file.stem.removeprefix("shard-") for file in self.output.glob("*.safetensors")}
        written.update(str(index) for shard in shards for index in shard["index"].tolist())
        pending = 0
        for file in self.output.glob("journal-*"):
            if file.name.removeprefix("journal-") not in written:
                pending += recorded_answers(file)
            elif tidy:
                file.unlink()
        return sum(len(shard["index"]) for shard in shards), asked, pending

    def prepare(self, data: ImageDataModule) -> None:
        """What has to happen once before the first batch; called on every process."""

    def journalled(self, name: str, *, every: bool = True) -> AnswerJournal:
        """A ``predict`` whose answers are on disk before they are used; a TypeError for a white box.

        ``every``: each image has to get an answer; else rows without one are as :meth:`BlackBoxTeacher.ask` has them.
        """
        if not isinstance(self.teacher, BlackBoxTeacher):
            raise TypeError(f"{type(self).__name__} asks a black-box teacher, got a {type(self.teacher).__name__}")
        file, teacher = self.output / f"journal-{name}", self.teacher
        ask = teacher.query if every else teacher.ask
        return AnswerJournal(file, ask, teacher.settle, self._launch.undivided)

    def label_pool(self, images: Tensor, batch_size: int, name: str = "pool") -> Tensor:
        """The teacher's class indices ``(S,)`` of images ``(S, C, H, W)``: each asked once, in all processes together.

        Kept in the transfer set's directory, chunk by chunk, until the set is finished; every process must call this.
        """
        rank, world = self.global_rank, self.trainer.world_size
        chunks = images.split(batch_size)
        files = [self.output / f"{name}-{number}.safetensors" for number in range(len(chunks))]
        for number in range(rank, len(chunks), world):
            if not files[number].exists():
                journal = self.journalled(f"{name}-{number}")
                write_tensors(files[number], {"label": journal(chunks[number])})
                journal.close(delete=True)
        self.trainer.strategy.barrier(name)
        self._pools += files
        return torch.cat([read_shard(file)["label"] for file in files]).to(self.device)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Label what is not labelled yet."""
        todo = ~torch.isin(batch.index.cpu(), self._done)
        if not todo.any():
            return
        here = todo.to(batch.index.device)
        label = None if batch.label is None else batch.label[here]
        self.write(Batch(batch.image[here], batch.index[here], label))

    def write(self, batch: Batch) -> None:
        """Label images that have no row yet, journalled, and write their rows."""
        journal = self.journalled(self.journal_name(batch), every=self.needs_every_answer)
        rows = self.label(batch, journal)
        self.writer.write({"index": batch.index, **rows})
        journal.close(delete=True)
        self.rows_done += len(batch.index) * self.trainer.world_size
        self.rows_unanswered += _unanswered(rows) * self.trainer.world_size
        self.on_rows()

    def journal_name(self, batch: Batch) -> str:
        """Under which name the answers to a batch are journalled: the same in a run that goes on."""
        return hashlib.sha256(batch.index.cpu().numpy().tobytes()).hexdigest()[:16]

    def on_predict_end(self) -> None:
        """Once every process is done, the first one writes the manifest."""
        self.trainer.strategy.barrier("transfer set")
        if self.trainer.is_global_zero and self.whole:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            rows = self.writer.rows()
            if not rows:
                raise RuntimeError(f"{self.output} has no row yet: raise the teacher's budget and run the same command")
            cost = self.teacher.cost if isinstance(self.teacher, BlackBoxTeacher) else Cost(0)
            facts = {
                "dataset": data.name,
                "class_names": list(data.class_names),
                "queries": int(rows["queries"].sum()) + self.preparation_queries() + self.earlier.queries,
                "queries_paid": self.paid.queries,
                "bytes_up": self.paid.bytes_up,
                "bytes_down": self.paid.bytes_down,
                "queries_before": self.earlier.queries,
                **estimates.outcome(self.output, cost),
                **({"unanswered": _unanswered(rows)} if "outcome" in rows else {}),
                "teacher_identity": self.teacher.identity,
                "seconds": round(time.monotonic() - self._began, 3),
            }
            self.finished = self.writer.finish(self.expected(data), {**facts, **self.facts(rows)})
            for file in (*self._pools, self.output / estimates.FILE):
                file.unlink(missing_ok=True)
        self.trainer.strategy.barrier("manifest")

    @property
    def whole(self) -> bool:
        """Whether this run sees all images: not with ``limit_predict_batches`` or ``fast_dev_run``."""
        return unlimited(self.trainer.limit_predict_batches)

    def expected(self, data: ImageDataModule) -> Tensor:
        """Source indices ``(N,)`` of the rows without which the set is not finished."""
        return data.predict_indices()

    def preparation_queries(self) -> int:
        """Queries of :meth:`prepare`, by all processes."""
        return 0


def _unanswered(rows: dict[str, Tensor]) -> int:
    """How many rows have no answer, of those that say it."""
    return int((rows["outcome"] > 0).sum()) if "outcome" in rows else 0
