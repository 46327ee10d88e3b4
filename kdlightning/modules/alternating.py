"""Two networks in one fit, the student and another one, each with an optimiser of its own: a game, step by step."""

from abc import abstractmethod
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kdlightning.modules.answered import AnsweredModule
from kdlightning.modules.arguments import check_makers
from kdlightning.modules.base import DistillationModule
from kdlightning.modules.steps import OwnSteps
from kdlightning.types import Batch


class TwoPlayerModule(OwnSteps, DistillationModule):
    """Trains the student beside another network. The schedule is the student's.

    A subclass sets ``_other_optimizer``, and overrides :attr:`other`, ``losses`` and ``training_step``. ``max_steps``
    counts the steps of both optimisers. Gradients are accumulated and clipped as the trainer says.
    """

    _other_optimizer: OptimizerCallable

    @property
    @abstractmethod
    def other(self) -> nn.Module:
        """The other network."""

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union
        """The student's optimiser with its schedule, then the other network's."""
        optimizer, schedules = self.student_optimizer()
        return [optimizer, self._other_optimizer(self.other.parameters())], [one["scheduler"] for one in schedules]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401 - Lightning's
        """Move the schedule; before an epoch is validated and saved, where automatic optimisation has it too."""
        if self.schedule is None or isinstance(self.schedule["scheduler"], ReduceLROnPlateau):
            return
        if self.ends_step if self.schedule["interval"] == "step" else self.trainer.is_last_batch:
            self.schedule["scheduler"].step()


class Discriminator(nn.Module):
    """Centred logits ``(N, K)`` → one logit ``(N,)``, high for the teacher's.

    Args:
        num_classes: K.
        width: units of the second hidden layer; the first has twice as many.
    """

    def __init__(self, num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Sequential(
            nn.Linear(num_classes, 2 * width), nn.LeakyReLU(0.2), nn.Linear(2 * width, width), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Centred logits ``(N, K)`` → one logit ``(N,)``."""
        logit: Tensor = self.head(self.body(vectors)).squeeze(1)
        return logit


class AdversarialModule(AnsweredModule, TwoPlayerModule):
    """Trains on given answers against a discriminator: every batch a step of the student, then one of its opponent.

    A subclass overrides :meth:`losses`, the student's terms, which calls :meth:`pair`; :meth:`discriminator_losses`;
    and, for another discriminator, ``discriminator_class``.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        num_classes: K, for a student without an attribute of that name.
        width: see :class:`Discriminator`.
        discriminator_optimizer: makes the discriminator's optimiser.
        options: those of :class:`AnsweredModule`.
    """

    accepts = ("soft", "hard")  # a discriminator of whole vectors would see the student's own in those of top-k answers
    discriminator_class: type[Discriminator] = Discriminator

    def __init__(
        self,
        student: nn.Module,
        num_classes: int | None = None,
        width: int = 256,
        discriminator_optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Any,  # noqa: ANN401 - AnsweredModule's
    ) -> None:
        super().__init__(student, **options)
        check_makers(discriminator_optimizer=discriminator_optimizer)
        self.discriminator = self.discriminator_class(known_classes(student, num_classes), width)
        self._other_optimizer = discriminator_optimizer
        self._pair: tuple[Tensor, Tensor] | None = None

    @property
    def other(self) -> nn.Module:
        """The discriminator."""
        return self.discriminator

    @abstractmethod
    def discriminator_losses(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """The discriminator's weighted terms on centred logits, both ``(N, K)`` of the same images, without a graph."""

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Centred logits of student and teacher, both ``(N, K)``; kept for the discriminator's turn."""
        student, teacher = self.vectors(*self.responses(batch))
        self._pair = student.detach(), teacher
        return student, teacher

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The student's step, then the discriminator's on the same vectors."""
        student_optimizer, discriminator_optimizer = cast(list[Any], self.optimizers())
        self.discriminator.requires_grad_(False)  # the student's step leaves nothing there
        terms = self.losses(batch)
        if self._pair is None:
            raise RuntimeError(f"{type(self).__name__}.losses has to call pair, which the discriminator learns from")
        loss = self.update(student_optimizer, terms)
        self.discriminator.requires_grad_()
        opposed = self.discriminator_losses(*self._pair)
        self.update(discriminator_optimizer, opposed)
        self._pair = None
        self._accumulate({**terms, "loss": loss, **opposed})
        return loss


def known_classes(student: nn.Module, num_classes: int | None) -> int:
    """K, by the student's ``num_classes`` or the given one; a ValueError where neither says it, or they differ."""
    own = getattr(student, "num_classes", None)
    if own is None and num_classes is None:
        raise ValueError(f"{type(student).__name__} has no attribute num_classes: give num_classes")
    if own is not None and num_classes is not None and own != num_classes:
        raise ValueError(f"num_classes is {num_classes}, but the student has {own} classes")
    return int(own if num_classes is None else num_classes)  # type: ignore[arg-type]  # one of them is a number
