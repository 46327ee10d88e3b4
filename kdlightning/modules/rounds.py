"""What selections share: which images are asked next depends on the answers so far, under an exact number of queries.

Phases: predict, a subclass of RoundsModule → fit, any method that trains on answers, with the transfer set as the
``path`` of a ``GeneratedDataModule``.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import ImageDataModule, at_least
from kdlightning.data.cached import write_tensors
from kdlightning.data.transferset import read_shard
from kdlightning.functional.topk import TopK, spread_as
from kdlightning.modules.arguments import check_makers
from kdlightning.modules.asking import TeacherAnswers
from kdlightning.modules.labelling import Predict
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.teachers.outcomes import answered_rows
from kdlightning.types import Batch

_STATE = "selection.safetensors"


class RoundsModule(TeacherAnswers):
    """A ``predict`` that asks ``queries`` images in rounds, each chosen with what the answers before it have taught.

    The pool is what the datamodule's ``predict`` yields, whatever that is: collected, generated or noise images. The
    transfer set has the columns ``index``, ``answer``, ``queries``, ``image`` (uint8, exactly as it was asked) and
    what :meth:`choose` says of every image.

    A round is chosen, written down, asked and learnt from. Choice, answers and the student's weights are on disk
    before they are used; so after a kill the same command asks nothing twice and ends with the same set. One process
    only, because every round needs all answers of the one before it.

    Args:
        teacher: who answers.
        output: directory of the transfer set.
        queries: images asked in all.
        student: a stand-in that is trained along the way and then thrown away; None where the choice needs none. Of
            answers that name the best classes only it learns those, and one bin of all others.
        epochs: passes over all answers so far, in every round.
        batch_size: images per call of the teacher and per step of the student.
        optimizer: makes the optimiser of its parameters, anew in every round.
        seed: owner of all draws.
        options: those of :class:`TeacherAnswers`.

    Raises:
        ValueError: a number below 1.
    """

    columns: tuple[str, ...] = ("answer", "image")
    asks_as_is = False  # they are kept as they were asked, and students learn from these
    in_jobs = False

    def __init__(
        self,
        teacher: BlackBoxTeacher,
        output: str,
        queries: int,
        student: nn.Module | None = None,
        epochs: int = 1,
        batch_size: int = 128,
        optimizer: OptimizerCallable = torch.optim.Adam,
        seed: int = 0,
        **options: Any,  # noqa: ANN401 - TeacherAnswers's
    ) -> None:
        super().__init__(teacher, output, **options)
        check_makers(optimizer=optimizer)
        at_least(1, queries=queries, epochs=epochs, batch_size=batch_size)
        self.queries, self.student, self._optimizer = queries, student, optimizer
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.state: dict[str, Tensor] = {}
        self._collected: list[Batch] = []
        self._chosen: dict[str, Tensor] = {}

    @abstractmethod
    def begin(self) -> dict[str, Tensor]:
        """What is needed besides the student and changes from round to round; becomes :attr:`state`.

        Called once, before anything is asked: the place to refuse a pool that does not suffice.
        """

    @abstractmethod
    def choose(self, number: int, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The images to ask next.

        Args:
            number: of the round, from 0.
            rows: columns of all that is asked, sorted by ``index``; empty before the first round. Of an image without
                an answer the row is negative.

        Returns:
            ``index``, unique in the transfer set, and further columns of that length, enough for :meth:`pixels`; at
            most as many as ``queries`` leaves.
        """

    @abstractmethod
    def pixels(self, chosen: dict[str, Tensor]) -> Tensor:
        """Images ``(M, C, H, W)``, uint8, of rows of :meth:`choose`."""

    def learn(self, number: int, chosen: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        """What a round teaches by what was ``chosen`` in it and all answered ``rows``; not called after the last."""
        self.train_student(number, rows)

    def settings(self) -> dict[str, Any]:
        """All arguments but ``at_budget``: a set that a budget stopped can be finished either way."""
        student = None if self.student is None else type(self.student).__name__
        hidden = ("teacher", "output", "at_budget", "_instantiator")
        return {"student": student, **{key: value for key, value in self.hparams.items() if key not in hidden}}

    def setup(self, stage: str) -> None:
        """Refuse, with a RuntimeError, several processes; with a ValueError, a teacher of other classes."""
        super().setup(stage)
        if self.trainer.world_size > 1:
            raise RuntimeError(
                f"{type(self).__name__} chooses each round by all answers of the one before it, which "
                f"{self.trainer.world_size} processes would not share: run it with trainer.devices=1"
            )

    def questions(self, data: Any, rows: int) -> tuple[int, int]:  # noqa: ANN401 - a datamodule
        """As many as ``queries`` says, of however many rows the pool has."""
        return super().questions(data, self.queries)

    def prepare(self, data: ImageDataModule) -> None:
        """Remember what rows need; their images are kept."""
        super().prepare(data)
        self.keeps_images = True
        self.rows_total = self.queries
        self._collected = []

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the pool."""
        label = None if batch.label is None else batch.label.cpu()
        self._collected.append(Batch((batch.image * 255).round().to(torch.uint8).cpu(), batch.index.cpu(), label))

    def on_predict_epoch_end(self) -> None:
        """Select and ask, while the progress is shown."""
        if self.whole:  # a rehearsal has not seen the pool, so it asks nothing
            # Lightning predicts in inference mode, where nothing can be trained
            with torch.inference_mode(mode=False), torch.enable_grad():
                self.select()

    def on_predict_end(self) -> None:
        """Write the manifest."""
        super().on_predict_end()
        if self.finished is not None and not self.finished.manifest["stopped_by_budget"]:
            for file in (self.output / _STATE, *self.output.glob("choice-*.safetensors")):
                file.unlink(missing_ok=True)

    def select(self) -> None:
        """Round after round, until ``queries`` images are answered or the budget is spent.

        Raises:
            ValueError: the student has another number of classes than the data set, or the pool does not suffice.
            QueryBudgetExceededError: with ``at_budget="error"``; everything is kept.
        """
        images, index, labels, _ = zip(*self._collected, strict=True)
        known = None if labels[0] is None else torch.cat(labels)
        self.pool = Batch(torch.cat(images), torch.cat(index), known)
        if self.student is not None:
            classes = self.student_logits(self.pool.image[:1]).shape[1]
            if classes != self.num_classes:
                raise ValueError(f"the student answers {classes} classes, but the data set has {self.num_classes}")
        number = self._restore()
        while True:
            file = self.output / f"choice-{number}.safetensors"
            if not file.exists():
                write_tensors(file, self.choose(number, self._rows()))
            self._chosen = read_shard(file)
            self._ask()
            rows = self._rows()
            whole = bool(rows) and bool(torch.isin(self._chosen["index"], rows["index"]).all())
            if not whole or len(rows["index"]) >= self.queries:  # cut short: the budget is spent, at_budget=finish
                return
            rows = answered_rows(rows)
            taught = torch.isin(self._chosen["index"], rows["index"])
            if taught.any():
                self.learn(number, {name: column[taught] for name, column in self._chosen.items()}, rows)
            number += 1
            self._keep(number)

    def label(self, batch: Batch, predict: Predict) -> dict[str, Tensor]:
        """The teacher's answer to each image, and what the choice says of it."""
        here = torch.isin(self._chosen["index"], batch.index.cpu())
        columns = {name: column[here] for name, column in self._chosen.items() if name != "index"}
        return {**super().label(batch, predict), **columns}

    def train_student(self, number: int, rows: dict[str, Tensor]) -> None:
        """Cross-entropy with all answers so far, from where the last round ended."""
        assert self.student is not None
        self.student.train()
        optimizer, told = self._optimizer(self.student.parameters()), {"answer", "classes", "rest"} & rows.keys()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.round_seed(number))
            for _ in range(self.epochs):
                for part in torch.randperm(len(rows["index"])).split(self.batch_size):
                    if len(part) < 2:  # batch normalisation needs two
                        continue
                    logits = self.student(self.scaled(rows["image"][part])).float()
                    loss = F.cross_entropy(logits, self._taught({name: rows[name][part] for name in told}, logits))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        self.student.eval()

    def _taught(self, answers: dict[str, Tensor], logits: Tensor) -> Tensor:
        """What the student learns of answers: labels, or distributions in which it shares an open rest itself."""
        answers = {name: column.to(self.device) for name, column in answers.items()}
        return spread_as(TopK.of_columns(answers), logits) if self.partial else answers["answer"]

    @torch.no_grad()
    def student_logits(self, images: Tensor) -> Tensor:
        """The student's logits ``(N, K)`` of uint8 images, on the CPU."""
        assert self.student is not None
        self.student.eval()
        return torch.cat([self.student(self.scaled(part)).float().cpu() for part in images.split(self.batch_size)])

    def scaled(self, images: Tensor) -> Tensor:
        """uint8 images as pixels in [0, 1] on the device."""
        return images.to(self.device).float().div(255)

    def positions(self, index: Tensor) -> Tensor:
        """Where source indices stand in the pool."""
        ordered, order = self.pool.index.sort()
        return order[torch.searchsorted(ordered, index)]

    def round_seed(self, number: int) -> int:
        """Seed of a round's draws."""
        return self.seed * 1_000_003 + number

    def expected(self, data: ImageDataModule) -> Tensor:
        """What is written: :meth:`select` has counted it."""
        return self.writer.done()

    def _ask(self) -> None:
        done = self.writer.done()
        for part in torch.arange(len(self._chosen["index"])).split(self.batch_size):
            todo = part[~torch.isin(self._chosen["index"][part], done)]
            if len(todo):
                images = self.pixels({name: column[todo] for name, column in self._chosen.items()})
                self.write(Batch(self.scaled(images), self._chosen["index"][todo]))

    def _rows(self) -> dict[str, Tensor]:
        rows = self.writer.rows()
        order = rows["index"].argsort() if rows else None
        return {name: column[order] for name, column in rows.items()}

    def _restore(self) -> int:
        """The number of the round to go on with."""
        file = self.output / _STATE
        if not file.exists():
            self.state = self.begin()
            self._keep(0)
            return 0
        kept = read_shard(file)
        self.state = _below("state.", kept)
        if self.student is not None:
            self.student.load_state_dict(_below("student.", kept))
        return int(kept["number"])

    def _keep(self, number: int) -> None:
        weights = {} if self.student is None else self.student.state_dict()
        tensors = {"number": torch.tensor(number)}
        tensors |= {f"state.{name}": value for name, value in self.state.items()}
        tensors |= {f"student.{name}": value for name, value in weights.items()}
        write_tensors(self.output / _STATE, tensors)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
