"""Supervised: cross-entropy on labels. Trains teachers, and students as the reference that distillation must beat."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from kdlightning.modules.base import DistillationModule
from kdlightning.types import Batch


class Supervised(DistillationModule):
    """Trains a network from labels alone; no teacher, no queries.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        optimizer: see :class:`DistillationModule`.
        lr_scheduler: see :class:`DistillationModule`.
        mixup: α of mixup's Beta distribution, for the training images; 0 for none.
        label_smoothing: share of every label that is spread evenly over all classes.

    Raises:
        ValueError: a negative α, a share outside [0, 1), or mixup for a network that does not say its
            number of classes.
    """

    access = "labels"

    def __init__(
        self,
        student: nn.Module,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        mixup: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(student, optimizer, lr_scheduler)
        if mixup < 0:
            raise ValueError(f"mixup: expected alpha of a Beta distribution, or 0 for none, got {mixup}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share from 0 to below 1, got {label_smoothing}")
        classes = getattr(student, "num_classes", None)
        if mixup and not isinstance(classes, int):
            raise ValueError(f"mixup needs to know the number of classes: give {type(student).__name__} num_classes")
        self.mix = v2.MixUp(alpha=mixup, num_classes=classes) if mixup else None
        self.label_smoothing = label_smoothing

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy; a ValueError where the labels are withheld."""
        if batch.label is None:
            raise ValueError(
                "Supervised needs labels, but the batches have none; a datamodule may withhold them (unlabelled: true)"
            )
        image, target = batch.image, batch.label
        if self.mix is not None:
            image, target = self.mix(image, target)
        return {"ce": F.cross_entropy(self(image), target, label_smoothing=self.label_smoothing)}
