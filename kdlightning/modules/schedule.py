"""How many images a training will see, known before it begins."""

from itertools import cycle, islice
from typing import Any, NamedTuple

import lightning.pytorch as L
from lightning.pytorch.callbacks import EarlyStopping, Timer


class Schedule(NamedTuple):
    """The batches of a training.

    Attributes:
        sizes: images of each batch of an epoch, on every process.
        batches: of the whole run, on every process.
        processes: that train.
        certain: nothing known ends the run earlier.
    """

    sizes: tuple[int, ...]
    batches: int
    processes: int
    certain: bool

    @property
    def images(self) -> int:
        """Images of the whole run, on all processes."""
        return self.images_of(self.batches)

    def images_of(self, batches: int) -> int:
        """Images of the first so many batches, on all processes."""
        epochs, rest = divmod(batches, max(1, len(self.sizes)))
        return self.processes * (epochs * sum(self.sizes) + sum(self.sizes[:rest]))

    def per_batch(self) -> list[int]:
        """Images of every batch of the run, on one process."""
        return list(islice(cycle(self.sizes), self.batches))


def schedule(trainer: L.Trainer, data: Any, images: int | None = None) -> Schedule:  # noqa: ANN401 - any datamodule
    """The batches of ``trainer.fit`` on a datamodule that is set up; a ValueError where the run has no end.

    ``images`` are those of an epoch, where a method chooses them; None for all training images.
    """
    loader = data.train_dataloader()
    number = len(loader.dataset) if images is None else images
    share = -(-number // trainer.world_size)  # a sampler lets every process have as many
    sizes = [min(loader.batch_size, share - first) for first in range(0, share, loader.batch_size)]
    limit = trainer.limit_train_batches
    sizes = sizes[: int(limit * len(sizes)) if isinstance(limit, float) else limit]
    epochs, steps = trainer.max_epochs, trainer.max_steps
    if epochs in (None, -1) and steps == -1:
        raise ValueError("nobody knows how long a run without trainer.max_epochs or trainer.max_steps will be")
    ends = [] if epochs in (None, -1) else [int(epochs or 0) * len(sizes)]
    ends += [] if steps == -1 else [steps * trainer.accumulate_grad_batches]
    may_end = any(isinstance(callback, (EarlyStopping, Timer)) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    certain = not may_end and (steps == -1 or trainer.accumulate_grad_batches == 1)
    return Schedule(tuple(sizes), min(ends), trainer.world_size, certain)


def unlimited(limit: float) -> bool:
    """Whether one of the trainer's limits of batches is none: the share 1.0, as the whole number 1 is one batch."""
    return isinstance(limit, float) and limit == 1.0


def progress(trainer: L.Trainer, epochs: int | None = None) -> float | None:
    """The share of a training that is over, in [0, 1]: of its epochs or of its steps, whichever end it first.

    After so many ``epochs``, the present one's number by default; None where nobody knows the end.
    """
    done = trainer.current_epoch if epochs is None else epochs
    ends = ((done, trainer.max_epochs), (trainer.global_step, trainer.max_steps))
    shares = [min(1.0, done / last) for done, last in ends if last not in (None, -1, 0)]
    return max(shares, default=None)
