"""One question per image: what an API is usually asked. The phase before every method that trains on given answers.

Access: soft, top-k or hard labels. Phases: predict TeacherAnswers → fit, with a method that trains on a transfer set.
"""

import logging
import math
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.accounting.meter import WAY_ON
from kdlightning.data.base import ImageDataModule
from kdlightning.data.classes import told_at_chance
from kdlightning.data.views import Images, as_pixels, sizes_told, told_of
from kdlightning.functional.topk import TopK, top_class
from kdlightning.modules.labelling import LabellingModule, Predict
from kdlightning.teachers import BlackBoxTeacher, SoftLabelTeacher, as_teacher
from kdlightning.teachers.outcomes import answered, answered_rows, counted, outcomes
from kdlightning.types import Answers, Batch

_log = logging.getLogger(__name__)


class TeacherAnswers(LabellingModule):
    """Asks the teacher about every image of a datamodule once.

    Columns of the transfer set: ``answer`` (probabilities ``(N, K)`` float32, or class indices ``(N,)`` int64) and
    ``queries``. Of top-k answers: ``answer`` (probabilities ``(N, k)`` of the best classes), ``classes`` (their
    indices, int32) and ``rest`` (the mass ``(N,)`` of all others), see :class:`~kdlightning.functional.topk.TopK`. Of
    images that are made rather than collected (``GeneratedDataModule``, ``NoiseDataModule``) also ``image``, uint8,
    exactly as it was asked. Of a teacher who may give no answer also ``outcome``, uint8, an
    :class:`~kdlightning.teachers.outcomes.Outcome`: a row without an answer was paid for and asked once. It is negative
    throughout, counts in the manifest, and nobody trains on it.

    Where the data have a ``teacher_size``, the teacher sees each image at that size, and the student its own. Two more
    columns say what was asked: ``shown_size`` (height and width, int32) and ``shown`` (the first 8 bytes of the SHA-256
    of the uint8 pixels, int64); the manifest has both sizes.

    The cost of an earlier phase (a generator's training) counts towards the teacher's budget.

    Args:
        teacher: who answers.
        output: directory of the transfer set.
        at_budget: when the budget is spent before all images are answered, either stop with an ``error`` (everything
            is kept, a larger budget goes on), or ``finish`` the set with the images that are answered.
    """

    columns: tuple[str, ...] = ("answer",)
    needs_every_answer = False
    asks_as_is = True
    in_jobs = True  #: whether all questions are known before the first answer, so that batch jobs will do
    teacher: BlackBoxTeacher
    _right = _labelled = 0  # answers that are the label, of those to labelled images
    _told = False

    def __init__(self, teacher: BlackBoxTeacher, output: str, at_budget: Literal["error", "finish"] = "error") -> None:
        super().__init__(as_teacher(teacher, SoftLabelTeacher, BlackBoxTeacher, jobs=self.in_jobs), output)
        self.at_budget = at_budget

    def settings(self) -> dict[str, Any]:
        """None: a set that a budget stopped can be finished either way."""
        return {}

    def questions(self, data: Any, rows: int) -> tuple[int, int]:  # noqa: ANN401 - a datamodule
        """One for each row, as far as the budget goes where a set may be finished without the rest."""
        if self.at_budget == "finish" and self.teacher.budget is not None:
            earlier: Answers = getattr(data, "paid", Answers(0, 0, 0))
            rows = min(rows, max(0, self.teacher.budget - earlier.queries))
        return rows, rows

    def prepare(self, data: ImageDataModule) -> None:
        """Remember what rows of this data set need."""
        self.num_classes: int = data.num_classes
        self.stopped = False  # by what the budget does not allow any more
        self.keeps_images = bool(getattr(data, "generated", False))

    def on_predict_start(self) -> None:
        """A teacher that answers in batch jobs is asked about all images first, and waited for."""
        super().on_predict_start()
        with self._launch.undivided():
            self.teacher.ahead(self._images, self.on_rows)

    def _images(self) -> Iterator[Images]:
        """The images that have no row yet, batch by batch, as they will be asked."""
        limit = self.trainer.num_predict_batches[0]
        loader = self.trainer.datamodule.predict_dataloader()  # type: ignore[attr-defined]
        for batch in islice(loader, None if math.isinf(limit) else int(limit)):
            todo = ~torch.isin(batch.index, self._done)
            if todo.any():
                image = self.trainer.strategy.batch_to_device(batch).image
                yield self._asked(Batch(image[todo.to(image.device)], batch.index[todo], None))[0]

    def _asked(self, batch: Batch) -> tuple[Images, Images | None]:
        """The pixels that the teacher is asked about, and the uint8 images that it is shown in the batch's place."""
        seen = None if self.views is None else self.views.images(batch.index)
        return batch.image if seen is None else as_pixels(seen, batch.image.device), seen

    def label(self, batch: Batch, predict: Predict) -> dict[str, Tensor]:
        """The teacher's answer to each image."""
        asked, seen = self._asked(batch)
        answer = predict(asked)
        self._compare(answer, batch.label)
        columns = TopK.of(answer).columns() if self.partial else {"answer": answer}
        rows = {**columns, "queries": torch.ones(len(answer), dtype=torch.int64)}
        if seen is not None:
            rows |= told_of(seen)
        if self.teacher.odd_answers:
            rows["outcome"] = outcomes(answer).to(torch.uint8)
        if self.keeps_images:
            rows["image"] = (batch.image * 255).round().to(torch.uint8)
        return rows

    @property
    def partial(self) -> bool:
        """Whether the answers name the best classes only."""
        return self.teacher.access == "topk"

    def _compare(self, answer: Tensor, label: Tensor | None) -> None:
        """Say once, when enough images with labels are answered, if the answers are no better than guesses."""
        if label is None or self._told:
            return
        if self.teacher.odd_answers:
            kept = answered(answer)
            answer, label = answer[kept], label[kept.to(label.device)]
        said = top_class(answer, topk=self.partial)
        self._right += int((said == label.to(said.device)).sum())
        self._labelled += len(label)
        name = self.trainer.datamodule.name  # type: ignore[attr-defined]
        if told := told_at_chance(self._right, self._labelled, self.num_classes, name):
            _log.warning(told)
            self._told = True

    def write(self, batch: Batch) -> None:
        """Ask as many as the budget allows; then, with ``at_budget="error"``, raise a QueryBudgetExceededError."""
        if not self.stopped and len(batch.index) and (refusal := self._write(batch)):
            budget = self.teacher.budget
            spent = budget is not None and self.teacher.paid.queries >= budget
            self._stop(f"the budget of {budget:,} queries is spent" if spent else str(refusal).removesuffix(WAY_ON))

    def _write(self, batch: Batch) -> QueryBudgetExceededError | None:
        """Ask part by part what cannot be asked at once: what a ledger has of it costs nothing. A refusal, if any."""
        number, left = self._recorded(batch) or len(batch.index), self._allowed()
        if left < number and not (self._recorded(batch) or self.teacher.remembers):  # all of it has to be paid
            if not left:
                return QueryBudgetExceededError("the budget is spent")
            number = left
        first, rest = _split(batch, number)
        refusals = []
        try:
            super().write(first)
        except QueryBudgetExceededError as refusal:  # or it is bytes or price that end, or another process was faster
            self._recorded(first)  # nothing: its journal goes
            left = self._allowed()
            halves = _split(first, left if 0 < left < number else number // 2) if number > 1 else ()
            refusals += [self._write(part) for part in halves] or [refusal]
        if len(rest.index):
            refusals.append(self._write(rest))
        return next(filter(None, refusals), None)

    def _allowed(self) -> int:
        """Images that the budget still allows."""
        budget = self.teacher.budget
        return sys.maxsize if budget is None else max(0, budget - self.teacher.paid.queries)

    def _recorded(self, batch: Batch) -> int:
        """Answers that an interrupted run has paid for and not written; a journal without any is deleted."""
        journal = self.journalled(self.journal_name(batch))
        journal.close(delete=not journal.pending)
        return journal.pending

    def _stop(self, reason: str) -> None:
        self.stopped = True
        if self.at_budget == "error":
            raise QueryBudgetExceededError(
                f"{reason}; {len(self.writer.done()):,} of {self.rows_total:,} images are answered and kept in "
                f"{self.output}. Raise the budget and run the same command to go on, or give at_budget=finish to use "
                "what there is."
            )

    def journal_name(self, batch: Batch) -> str:
        """The first image's index: a budget may have let only the first images of a batch through."""
        return str(int(batch.index[0]))

    def on_predict_end(self) -> None:
        """Where a budget has stopped one process, the set is finished without its rows."""
        self.stopped = self.trainer.strategy.reduce_boolean_decision(self.stopped, all=False)
        super().on_predict_end()

    def expected(self, data: ImageDataModule) -> Tensor:
        """All images, or those that the budget of all processes allowed."""
        spent = self.teacher.budget is not None and self.teacher.paid.queries >= self.teacher.budget
        return self.writer.done() if (spent or self.stopped) and self.at_budget == "finish" else data.predict_indices()

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """Class histogram and confidence of the answers, and how many images got none."""
        number = len(rows["answer"])
        known: dict[str, Any] = {"outcomes": counted(rows["answer"])} if "outcome" in rows else {}
        if "shown" in rows:
            known["shown_size"] = sizes_told(rows)
        rows = answered_rows(rows)
        answer = rows["answer"]
        label = rows["classes"][:, 0] if self.partial else top_class(answer)
        return {
            "num_classes": self.num_classes,
            "class_histogram": torch.bincount(label, minlength=self.num_classes).tolist(),
            "mean_top_probability": round(float(answer.amax(1).mean()), 4) if answer.ndim == 2 else None,
            "stopped_by_budget": number < self.rows_total,
            **known,
        }


def _split(batch: Batch, number: int) -> tuple[Batch, Batch]:
    labels = (None, None) if batch.label is None else (batch.label[:number], batch.label[number:])
    first, rest = (batch.image[:number], batch.index[:number]), (batch.image[number:], batch.index[number:])
    return Batch(*first, labels[0]), Batch(*rest, labels[1])
