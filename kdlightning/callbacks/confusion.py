"""Which classes a student takes for which, counted while it is tested."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torchmetrics.classification import MulticlassConfusionMatrix

from kdlightning.callbacks.own import OwnFiles
from kdlightning.data.cached import write_text
from kdlightning.modules.base import DistillationModule
from kdlightning.types import Batch

MOST_CLASSES = 200  # beyond, the file is large and nobody reads the matrix


class ConfusionMatrix(OwnFiles):
    """Writes ``confusion.json`` beside ``result.json`` when a run that was fitted in this process has been tested.

    It holds the K ``class_names`` and the ``counts`` of the test images: K rows (class by the label) of K columns
    (class by the student). With more than 200 classes nothing is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: MulticlassConfusionMatrix | None = None

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._counts = None

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Count a batch, from the logits that the accuracy is of."""
        tested = self._fitted is not None and isinstance(pl_module, DistillationModule) and isinstance(outputs, Mapping)
        if tested and (logits := outputs["logits"]).shape[1] <= MOST_CLASSES and batch.label is not None:
            self._counts = self._counts or MulticlassConfusionMatrix(logits.shape[1]).to(logits.device)
            self._counts.update(logits, batch.label)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what all processes have counted."""
        counts = [] if self._counts is None else self._counts.compute().tolist()
        if counts and trainer.is_global_zero and self.owns(trainer, pl_module):
            names = getattr(getattr(trainer, "datamodule", None), "class_names", [])
            names = names if len(names) == len(counts) else [str(k) for k in range(len(counts))]
            content = {"schema": 1, "class_names": names, "counts": counts}
            write_text(Path(trainer.default_root_dir) / "confusion.json", json.dumps(content) + "\n")
