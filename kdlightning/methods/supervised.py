"""Supervised: cross-entropy on labels. Trains teachers, and students as the reference that distillation must beat."""

from torch import Tensor
from torch.nn import functional as F

from kdlightning.methods.base import DistillationModule
from kdlightning.types import Batch


class Supervised(DistillationModule):
    """Trains a network from labels alone; no teacher, no queries."""

    access = "labels"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy.

        Raises:
            ValueError: the labels are withheld.
        """
        if batch.label is None:
            raise ValueError("Supervised needs labels, but the datamodule withholds them (unlabelled: true)")
        return {"ce": F.cross_entropy(self(batch.image), batch.label)}
