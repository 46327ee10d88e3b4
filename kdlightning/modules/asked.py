"""A generator's training that asks a teacher about some of its images: so many in all, spread evenly over the steps."""

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from kdlightning.data.generated import rounded
from kdlightning.modules.generator import GeneratorModule, grouped
from kdlightning.modules.journalled import JournalledModule
from kdlightning.modules.schedule import schedule
from kdlightning.networks.gan import Critic, Generator
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Estimate

_ALL = 2**62


class AskingGeneratorModule(JournalledModule, GeneratorModule):
    """Trains a generator with a black box's answers about its images; a subclass calls :meth:`ask` in its ``terms``.

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
        self._plan: list[int] = []
        self._turn, self._left = -1, 0  # the step whose images are asked, and how many more

    @property
    def journals(self) -> bool:
        """Also in a dry run: it leaves what a killed run has paid."""
        return self.teacher is not None

    def resume_count(self, trainer: L.Trainer, shape: tuple[int, ...] = ()) -> None:
        """Of the generator's images."""
        size = self.generator.image_size
        super().resume_count(trainer, shape or (self.generator.channels, size, size))

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a teacher of other classes; count where a kill does not reach, as with answers."""
        if self.teacher is not None:
            self.teacher.share(Path(self.trainer.default_root_dir) / "queries.meter")
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
        kept = before + self.journalled(trainer, done // max(1, len(plan.sizes)))
        return Estimate(asked if plan.certain and trainer.max_steps == -1 else kept, asked, kept)

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
        return self.ask_once(rounded(fake[:number].detach())) if self.teacher is not None and number else None

    def on_fit_end(self) -> None:
        """The generator knows what it has cost, wherever it is used."""
        super().on_fit_end()
        self.generator.paid = self.paid


def share_of(queries: int, rank: int, processes: int) -> int:
    """How many of the queries are a process's; the first ones take the remainder."""
    return queries // processes + (rank < queries % processes)


def spread(queries: int, sizes: list[int]) -> list[int]:
    """Queries, not more than there are images, for steps of so many images each: in proportion, and in all as given."""
    made = [0, *accumulate(sizes)]
    asked = [images * queries // max(1, made[-1]) for images in made]
    return [after - before for before, after in pairwise(asked)]
