"""A generator's training that asks a teacher about some of its images: so many in all, spread evenly over the steps."""

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from kdlightning.accounting import AnswerJournal
from kdlightning.accounting.journal import recorded_answers
from kdlightning.data.generated import rounded
from kdlightning.modules.generator import GeneratorModule, grouped
from kdlightning.modules.schedule import schedule
from kdlightning.networks.gan import Critic, Generator
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Answers, Estimate

_ALL = 2**62


class AskingGeneratorModule(GeneratorModule):
    """Trains a generator with a black box's answers about its images; a subclass calls :meth:`ask` in its ``terms``.

    Answers are journalled: a run that goes on from its last checkpoint asks nothing twice.

    Args:
        generator: latent vectors ``(N, K)`` to pixels; one dimension per class.
        critic: pixels to one logit.
        teacher: who is asked; None for nobody.
        queries: images asked in the whole phase, spread evenly over the generator's steps; None asks about every one.
        options: those of :class:`GeneratorModule`.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        teacher: BlackBoxTeacher | None = None,
        queries: int | None = None,
        **options: Any,  # noqa: ANN401 - GeneratorModule's
    ) -> None:
        super().__init__(generator, critic, **options)
        self.teacher, self.access = teacher, None if teacher is None else teacher.access
        if queries is not None and queries < 0:
            raise ValueError(f"queries: expected 0 or more images, or None for every generated one, got {queries}")
        self.queries = queries
        self._journal: AnswerJournal | None = None
        self._plan: list[int] = []
        self._turn, self._left = -1, 0  # the step whose images are asked, and how many more

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a teacher of other classes; count where a kill does not reach, as with answers."""
        if self.teacher is not None:
            self._who = self.teacher.identity["fingerprint"][:8]
            self.teacher.share(Path(self.trainer.default_root_dir) / "queries.meter")
            first = self.trainer.is_global_zero
            kept = self._journalled(self.trainer, 0) if first else None
            channels, size = self.generator.channels, self.generator.image_size
            self.teacher.resume(kept, Answers(0, 0, 0), (channels, size, size))
            self.trainer.strategy.barrier("journals")
        super().setup(stage)
        known = None if self.teacher is None else self.teacher.num_classes
        if known is not None and known != self.generator.latent_dim:
            latent = self.generator.latent_dim
            raise ValueError(f"the teacher has {known} classes, but the generator {latent} dimensions")

    def on_train_start(self) -> None:
        """Refuse, with a ValueError, more queries than the steps make images."""
        self._turn = -1
        if self.teacher is not None and self.queries is not None:
            share, made = share_of(self.queries, self.global_rank, self.trainer.world_size), self.images_per_step()
            if share > sum(made):
                raise ValueError(
                    f"queries={self.queries}, but the {self.generator_steps} steps of the generator make {sum(made)} "
                    "images per process: train longer, or ask less"
                )
            self._plan = spread(share, made)

    def estimate(self, trainer: L.Trainer, data: Any, done: int = 0) -> Estimate:  # noqa: ANN401 - a datamodule
        """The ``queries`` or, without, every generated image."""
        if self.teacher is None:
            return Estimate(0, 0)
        plan, group = schedule(trainer, data), trainer.accumulate_grad_batches
        sizes, (epochs, rest) = grouped(plan.sizes, group), divmod(plan.batches, max(1, len(plan.sizes)))
        made = self.made_of([*epochs * sizes, *grouped(plan.sizes[:rest], group)])
        before, begun = divmod(done, max(1, len(plan.sizes)))
        steps = (before * len(sizes) + begun // group) // self.critic_steps
        asked, before = plan.processes * sum(made), plan.processes * sum(made[:steps])
        if self.queries is not None:
            shares = [share_of(self.queries, rank, plan.processes) for rank in range(plan.processes)]
            asked, before = self.queries, sum(sum(spread(share, made)[:steps]) for share in shares)
        kept = before + self._journalled(trainer, done // max(1, len(plan.sizes)))
        return Estimate(asked if plan.certain and trainer.max_steps == -1 else kept, asked, kept)

    def _journalled(self, trainer: L.Trainer, epoch: int) -> int:
        """Answers of an interrupted run that those epochs find which are still to come."""
        assert self.teacher is not None
        who = f"{self.teacher.identity['fingerprint'][:8]}-{self.teacher.access}-epoch-"
        files = (Path(trainer.default_root_dir) / "journal").glob(f"{who}*")
        return sum(recorded_answers(file) for file in files if int(file.name.removeprefix(who).split("-")[0]) >= epoch)

    def on_train_epoch_start(self) -> None:
        """One journal for every epoch: a resume begins at an epoch's start."""
        super().on_train_epoch_start()
        if self.teacher is not None:
            # another teacher's answers are not this one's
            name = f"{self._who}-{self.access}-epoch-{self.current_epoch}-rank-{self.global_rank}"
            self._journal = AnswerJournal(self._journals / name, self.teacher.ask, self.teacher.settle)

    def ask(self, fake: Tensor, step: int) -> Tensor | None:
        """The answers about the first images of a step that are asked at it; None where there is none.

        A row without an answer is negative, see :meth:`~kdlightning.teachers.blackbox.BlackBoxTeacher.ask`.

        Args:
            fake: generated pixels ``(N, C, H, W)``; they are asked as an image file would hold them.
            step: number of the generator's step in the run, from 0.
        """
        if self._turn != step:
            self._turn, self._left = step, _ALL if self.queries is None else self._plan[step] if self._plan else 0
        number = min(len(fake), self._left)
        self._left -= number
        return self._journal(rounded(fake[:number].detach())) if self._journal is not None and number else None

    def on_train_epoch_end(self) -> None:
        """Close the epoch's journal."""
        super().on_train_epoch_end()
        if self._journal is not None:
            self._journal.close()

    def on_fit_end(self) -> None:
        """The answers have done their work; the generator knows what it has cost, wherever it is used."""
        self.generator.paid = self.paid
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # nothing is kept that they were asked for
            return
        for file in self._journals.glob(f"*-epoch-*-rank-{self.global_rank}"):
            file.unlink()

    @property
    def _journals(self) -> Path:
        return Path(self.trainer.default_root_dir) / "journal"


def share_of(queries: int, rank: int, processes: int) -> int:
    """How many of the queries are a process's; the first ones take the remainder."""
    return queries // processes + (rank < queries % processes)


def spread(queries: int, sizes: list[int]) -> list[int]:
    """Queries, not more than there are images, for steps of so many images each: in proportion, and in all as given."""
    made = [0, *accumulate(sizes)]
    asked = [images * queries // max(1, made[-1]) for images in made]
    return [after - before for before, after in pairwise(asked)]
