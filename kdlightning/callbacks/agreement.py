"""How often the student says what the teacher says, and how good the teacher is, wherever asking it is free."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics import MeanMetric

from kdlightning.data.base import ImageDataModule
from kdlightning.data.classes import told_at_chance
from kdlightning.data.sets import ImageSet
from kdlightning.data.transferset import SourcedDataModule
from kdlightning.functional.topk import top_class
from kdlightning.modules.base import DistillationModule
from kdlightning.networks.statistics import count_parameters
from kdlightning.teachers import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher, as_teacher
from kdlightning.teachers.outcomes import answered
from kdlightning.types import Batch

_log = logging.getLogger(__name__)

Judge = Callable[[Any], Tensor]


class Agreement(Callback):
    """Logs ``test/agreement``: the share of test images on which student and teacher give the same class.

    Where the images have labels it also logs ``test/teacher_accuracy``. Without a ``teacher`` it takes the run's own,
    or the one that a transfer set was asked of, if its network is on this machine, apart from the run's count: that
    costs nothing. A teacher behind a connection is asked only if it is given. Where images have no labels and no
    teacher is free, a tenth of the answered images is kept from training, and the student is compared with the answers
    to them.

    Args:
        teacher: asked for evaluation only; give it no budget. Of probabilities the top class counts. It is another
            object than the method's teacher, so that evaluation never touches the method's count. A network, or the
            directory of one, will do; a TypeError for anything else.
    """

    without_labels = True  # students may be tested on images that have none

    def __init__(self, teacher: BlackBoxTeacher | None = None) -> None:
        self.teacher: BlackBoxTeacher | None = None
        if teacher is not None:
            self.teacher = as_teacher(teacher, SoftLabelTeacher, BlackBoxTeacher)
        self.parameters: int | None = None  #: the teacher's, where they are known
        self._judge: Judge | None = None
        self._odd = self._topk = False  # whether it may give no answer, and whether it names the best classes only
        self._agreed, self._right = MeanMetric(), MeanMetric()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the teacher, and images to test on, before anything is trained."""
        data: Any = getattr(trainer, "datamodule", None)
        if stage not in ("fit", "test") or not isinstance(pl_module, DistillationModule):
            return
        if self._judge is None:
            self._judge = self._find(pl_module, data)
        if isinstance(data, (ImageDataModule, SourcedDataModule)):
            if isinstance(data, SourcedDataModule) and not self._measures(data.tested):
                data.hold_out()
            told = self._told(data)
            if told:
                _log.warning(told)

    def _measures(self, images: ImageSet | None) -> bool:
        """Whether these images tell how good a student is."""
        return images is not None and (images.labels is not None or self._judge is not None)

    def _told(self, data: ImageDataModule | SourcedDataModule) -> str:
        """What a user has to know of the images that the student will be tested on."""
        if data.tested_on == "held out":
            return (
                f"{data.name} has no test images that tell how good the student is: {len(data.tested or ()):,} of the "
                f"answered images are kept from training, and it is compared with the teacher's answers to them"
            )
        if data.tested is None:
            return f"nothing will say how good the student is: {data.name} has neither test nor validation images"
        if not self._measures(data.tested):
            return (
                f"nothing will say how good the student is: the test images of {data.name} have no labels, and to ask "
                "this teacher about them may cost. If it shall be asked, give it to the callback Agreement"
            )
        if data.tested_on == "validation":
            return f"{data.name} has no test images: the student is tested on its validation images"
        return ""

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._agreed, self._right = MeanMetric().to(pl_module.device), MeanMetric().to(pl_module.device)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Ask both."""
        given = batch.answer if self._judge is None else self._asked(trainer, batch, self._judge)
        if given is None:
            return
        topk = bool(getattr(pl_module, "partial", False)) if self._judge is None else self._topk
        said = top_class(given, topk=topk)
        kept = answered(given) if self._odd else torch.ones_like(said, dtype=torch.bool)  # the others are not judged
        self._agreed.update((said == pl_module(batch.image).argmax(1))[kept])
        if batch.label is not None:
            self._right.update((said == batch.label)[kept])

    def _asked(self, trainer: L.Trainer, batch: Batch, judge: Judge) -> Tensor:
        """What the teacher says of a batch, as it sees these images."""
        data: Any = getattr(trainer, "datamodule", None)
        views = getattr(getattr(data, "tested", None), "views", None)
        return judge(batch.image) if views is None else views.answers(judge, batch.index.cpu(), batch.image.device)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the shares, over all processes."""
        for name, metric in (("agreement", self._agreed), ("teacher_accuracy", self._right)):
            if trainer.strategy.reduce_boolean_decision(metric.update_called, all=False):
                share, seen = metric.compute(), int(metric.weight)
                pl_module.log(f"test/{name}", share)
                data: Any = getattr(trainer, "datamodule", None)
                if name == "teacher_accuracy" and hasattr(data, "num_classes"):
                    told = told_at_chance(float(share) * seen, seen, data.num_classes, data.name)
                    if told:
                        _log.warning(told)

    def _find(self, module: DistillationModule, data: Any) -> Judge | None:  # noqa: ANN401 - a datamodule
        """Who tells what the teacher says: a given one, or one that costs nothing; None if there is none."""
        teacher = self.teacher or getattr(module, "teacher", None) or _of_answers(data)
        if isinstance(teacher, BlackBoxTeacher):
            self.parameters = teacher.size
            twin = teacher if teacher is self.teacher else teacher.apart()
            self._odd, self._topk = teacher.odd_answers, teacher.access == "topk"
            return None if twin is None else twin.ask
        if isinstance(teacher, WhiteBoxTeacher):
            self.parameters = count_parameters(teacher.network)
            return torch.no_grad()(teacher)
        return None


def _of_answers(data: Any) -> BlackBoxTeacher | None:  # noqa: ANN401 - a datamodule
    """The teacher whose answers a transfer set holds, where the same network still lies on this machine."""
    told = getattr(getattr(data, "transfer_set", None), "manifest", {}).get("teacher_identity") or {}
    place = Path(str(told.get("network")))
    if not (place / "config.json").is_file():
        return None
    with suppress(ImportError, OSError, RuntimeError, TypeError, ValueError):  # it was moved, changed or damaged since
        teacher = HardLabelTeacher(place)
        return teacher if teacher.identity["fingerprint"] == told.get("fingerprint") else None
    return None
