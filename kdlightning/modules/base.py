"""What every method that trains shares: one training step, one set of metrics, honest checkpoints."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from kdlightning.data.batches import as_batch
from kdlightning.data.views import Views
from kdlightning.modules.arguments import check_makers, check_networks, keep_plain_hyperparameters
from kdlightning.modules.finite import check_losses, check_terms, check_weights
from kdlightning.modules.rates import follow_metric, make_schedule
from kdlightning.modules.rehearsal import check_classes, check_first, check_precision, check_student, check_teacher
from kdlightning.modules.resuming import Resumption
from kdlightning.modules.viewing import views_of
from kdlightning.networks.pretrained import name_of
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Answers, Batch, Estimate


def run_seed(*parts: int) -> int:
    """A seed that depends on the run's seed (``seed_everything``) and on ``parts``, such as epoch and rank."""
    text = ":".join(str(part) for part in (os.environ.get("PL_GLOBAL_SEED", "0"), *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def check_launcher(trainer: L.Trainer) -> None:
    """Refuse, with a ValueError, a strategy that runs in copies of this process: what they count is lost with them."""
    if isinstance(getattr(trainer.strategy, "launcher", None), _MultiProcessingLauncher):
        raise ValueError(
            "trainer.strategy ddp_fork, ddp_notebook and ddp_spawn run in copies of this process, from which neither "
            "queries nor records come back: give strategy='ddp' in a script, or devices=1, which a notebook needs"
        )


def prepare_for_two_optimizers(trainer: L.Trainer) -> None:
    """Let DDP cope with two optimisers: each backward pass reaches a part of the parameters only."""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


class TaughtModule(L.LightningModule, ABC):
    """Trains something, perhaps with a teacher's help: what students and generators share.

    Means of the logged terms over ``log_every_n_steps`` steps; the teacher's count in the checkpoint and its weights
    not. The random state is set anew from (seed, epoch, rank) at every epoch, so that a run resumed at an epoch's end
    equals an uninterrupted one.
    """

    access: str | None = None
    asks_as_is: bool = False  #: whether it asks about the data's images as they are: a teacher may see larger ones
    views: Views | None = None  #: what the teacher is shown in place of the batch's images; None for these

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self.watched: dict[str, Tensor] = {}  # of the last batch: losses() fills it with what is logged, not minimised
        self.image_shape: tuple[int, ...] = ()  #: (C, H, W) of the images seen last

    @property
    def teacher_identity(self) -> dict[str, str] | None:
        """Who teaches, for reports; None without a teacher."""
        teacher = getattr(self, "teacher", None)
        return None if teacher is None else dict(teacher.identity)

    @property
    def paid(self) -> Answers:
        """What the teacher's answers have cost this run."""
        teacher = getattr(self, "teacher", None)
        return teacher.paid if isinstance(teacher, BlackBoxTeacher) else Answers(0, 0, 0)

    def estimate(self, trainer: L.Trainer, data: Any, done: int = 0) -> Estimate | None:  # noqa: ANN401 - a datamodule
        """What ``trainer.fit`` will ask a black-box teacher; asks nothing. A method that asks overrides it.

        Args:
            trainer: not yet running.
            data: the datamodule, set up.
            done: batches that every process has trained on already, by the checkpoint to go on with.

        Returns:
            None where nobody knows.
        """
        return None if isinstance(getattr(self, "teacher", None), BlackBoxTeacher) else Estimate(0, 0)

    def configure_callbacks(self) -> list[Callback]:
        """What every run watches: that it goes on as it was begun."""
        return [Resumption()]

    def setup(self, stage: str) -> None:
        """Refuse what does not fit, before anything is asked.

        A ValueError for a precision, a teacher or processes that cannot be used; a RuntimeError for several counts.
        """
        check_launcher(self.trainer)
        check_precision(self.trainer)
        teacher = getattr(self, "teacher", None)
        self.views = views_of(self, getattr(self.trainer, "datamodule", None))
        check_teacher(teacher, self.trainer, self.views)
        if isinstance(teacher, BlackBoxTeacher) and self.trainer.world_size > 1 and not teacher.shared:
            raise RuntimeError(
                f"{self.trainer.world_size} processes would each count their own queries: add the callback "
                "kdlightning.callbacks.QueryLogger, which lets them share one count and one budget"
            )

    def _apply_batch_transfer_handler(self, batch: Any, *place: Any, **told: Any) -> Batch:  # noqa: ANN401
        # every loader's batches come through here; there is no public hook after those of a user's own datamodule
        made = as_batch(super()._apply_batch_transfer_handler(batch, *place, **told))
        if made.image.shape[1:] != self.image_shape:
            self.image_shape = tuple(made.image.shape[1:])
            self.check_images(made)
        return made

    def check_images(self, batch: Batch) -> None:
        """Refuse, with a ValueError, what does not fit the first images; here, those of a loader of the user's own."""
        check_first(batch, getattr(self, "teacher", None), getattr(self, "student", None), self.trainer)

    def on_train_epoch_start(self) -> None:
        """Draws of an epoch depend on (seed, epoch, rank) alone."""
        torch.manual_seed(run_seed(self.current_epoch, self.global_rank))

    def on_train_epoch_end(self) -> None:
        """Log what is left of the running means; a NotFiniteError, before anything is saved, for weights of NaN."""
        self._flush()
        check_weights(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the teacher's count."""
        teacher = getattr(self, "teacher", None)
        if isinstance(teacher, BlackBoxTeacher):
            checkpoint["teacher"] = teacher.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        teacher = getattr(self, "teacher", None)
        if isinstance(teacher, BlackBoxTeacher) and "teacher" in checkpoint:
            teacher.load_state_dict(checkpoint["teacher"])

    def description(self, name: str) -> dict[str, Any]:
        """How a network of this module is built again, as ``class_path`` and ``init_args``; empty if it remembers."""
        return self.hparams.get(name) or {}

    def _accumulate(self, terms: Mapping[str, Tensor]) -> None:
        # Each self.log costs about 0.3 ms, as much as a small network's step: means are kept on the device
        for name, term in terms.items():
            value = term.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1  # a generator's terms are not in every step
        self._steps += 1
        if self._steps >= self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._flush()

    def _flush(self) -> None:
        if self._steps:
            check_losses(self, {name: total for name, total in self._sums.items() if name not in self.watched})
            self.log_dict({f"train/{name}": total / self._counts[name] for name, total in self._sums.items()})
        self._sums, self._counts, self._steps = {}, {}, 0


class DistillationModule(TaughtModule):
    """Trains a student. A method overrides :meth:`losses` and, for its own hyper-parameters, ``__init__``.

    Logs ``train/loss`` and ``train/<term>`` (means over ``log_every_n_steps`` steps), ``val/accuracy``,
    ``val/loss`` and ``test/accuracy``. Only the student is optimised.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        optimizer: makes the optimiser of the student's parameters.
        lr_scheduler: makes its schedule; None for a constant learning rate. ``OneCycleLR`` and ``WarmupCosineLR`` move
            every step and know the run's length; ``ReduceLROnPlateau`` follows its ``monitor``, without one
            ``val/accuracy`` if its ``mode`` is ``max``, else ``train/loss``; all others move every epoch.
    """

    schedule: dict[str, Any] | None = None  #: of the learning rate, while it is trained
    lr: float | None = None  #: takes the place of the optimiser's own; Lightning's ``LearningRateFinder`` sets it

    def __init__(
        self,
        student: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        check_networks(student=student)
        check_makers(optimizer=optimizer, lr_scheduler=lr_scheduler)
        keep_plain_hyperparameters(self)
        self.student = student
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._correct: dict[str, MulticlassAccuracy] = {}
        self._labels: dict[str, Tensor] = {}  # the least and the highest

    @property
    def student_name(self) -> str:
        """The student's network, in tables."""
        return name_of(self.student)

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The named loss terms of one batch, already weighted; their sum is minimised.

        Args:
            batch: see :class:`kdlightning.types.Batch`; pixels are float in [0, 1] and on the module's device.
        """

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a student that does not fit the data, before anything is asked."""
        super().setup(stage)
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.student.parameters()):
            frozen = "a network that is a teacher is frozen: give the student its own, such as copy.deepcopy(network)"
            raise ValueError(f"the student {self.student_name} has no weight to train; {frozen} before that")
        check_student(self.student, self.trainer)

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits ``(N, K)``, in float32 whatever precision it computes in."""
        logits: Tensor = self.student(images)
        return logits.float()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the loss terms."""
        try:
            terms = self.losses(batch)
        except IndexError:  # what cross-entropy says on a CPU
            if batch.label is not None and isinstance(classes := getattr(self.student, "num_classes", None), int):
                check_classes(batch.label, classes)
            raise
        check_terms(self, terms)
        loss = torch.stack(list(terms.values())).sum()
        self._accumulate({**terms, **self.watched, "loss": loss})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy on labelled images."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Accuracy on labelled images; callbacks get the logits ``(N, K)``."""
        return {"logits": self._evaluate("test", batch)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The student's probabilities ``(N, K)`` with the images' source indices ``(N,)``."""
        return {"index": batch.index, "probabilities": self(batch.image).softmax(1)}

    def trained(self) -> Any:  # noqa: ANN401 - parameters, or groups of them
        """What is optimised: the student, and nothing else."""
        return self.student.parameters()

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union
        """One optimiser of :meth:`trained`, and its schedule."""
        optimizer, schedules = self.student_optimizer()
        return [optimizer], schedules

    def student_optimizer(self) -> tuple[Any, list[dict[str, Any]]]:
        """The optimiser of :meth:`trained`, and its schedule, if there is one, as Lightning's configuration."""
        optimizer = self._optimizer(self.trained())
        for group in optimizer.param_groups if self.lr else ():
            group["lr"] = self.lr
        self.schedule = None if self._lr_scheduler is None else make_schedule(self, self._lr_scheduler, optimizer)
        return optimizer, [] if self.schedule is None else [self.schedule]

    def on_train_epoch_end(self) -> None:
        """Log what is left of the running means, and move a schedule that follows a metric."""
        super().on_train_epoch_end()
        follow_metric(self, self.schedule)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy``."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/accuracy``."""
        self._log_accuracy("test")

    def _evaluate(self, split: str, batch: Batch) -> Tensor:
        logits: Tensor = self(batch.image)
        if batch.label is None:
            measured = any(getattr(one, "without_labels", False) for one in self.trainer.callbacks)  # type: ignore[attr-defined]
            if split == "test" and not measured:
                raise ValueError("test images need labels, or an Agreement callback, which measures without")
            return logits
        if split not in self._correct:
            self._correct[split] = MulticlassAccuracy(
                logits.shape[1],
                average="micro",
                validate_args=False,  # which would wait for the device in every batch
            ).to(logits.device)
        self._correct[split].update(logits, batch.label)
        seen = torch.cat([self._labels.get(split, batch.label[:0]), batch.label])
        self._labels[split] = torch.stack(torch.aminmax(seen))
        return logits

    def _log_accuracy(self, split: str) -> None:
        metric = self._correct.pop(split, None)
        if metric is not None:
            check_classes(self._labels.pop(split), cast(int, metric.num_classes))  # once, not of every batch
            self.log(f"{split}/accuracy", metric.compute(), prog_bar=True, rank_zero_only=True, sync_dist=False)
