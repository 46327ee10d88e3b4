"""Which classes a student takes for which, counted while it is tested."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kdlightning.modules.base import DistillationModule
from kdlightning.types import Batch

MOST_CLASSES = 200  # beyond, the file is large and nobody reads the matrix


class ConfusionMatrix(Callback):
    """Writes ``confusion.json`` beside ``result.json`` when a run that was fitted in this process has been tested.

    It holds the K ``class_names`` and the ``counts`` of the test images: K rows (class by the label) of K columns
    (class by the student). With more than 200 classes nothing is written.
    """

    def __init__(self) -> None:
        self._fitted = False
        self._counts: Tensor | None = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only a run's own test counts, not one of a checkpoint that somebody gives."""
        self._fitted = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._counts = None

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch,  # noqa: ANN401
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count a batch, from the logits that the accuracy is of."""
        if not self._fitted or not isinstance(pl_module, DistillationModule) or not isinstance(outputs, Mapping):
            return
        logits, label = outputs["logits"], batch.label
        assert label is not None
        classes = logits.shape[1]
        if classes > MOST_CLASSES:
            return
        counts = torch.bincount(label * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)
        self._counts = counts if self._counts is None else self._counts + counts

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up what all processes have counted."""
        if self._counts is not None:
            total = trainer.strategy.reduce(self._counts, reduce_op="sum")
            assert isinstance(total, Tensor)
            self._counts = total

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the counts."""
        if self._counts is None or not trainer.is_global_zero:
            return
        data: Any = getattr(trainer, "datamodule", None)
        names = getattr(data, "class_names", [])
        if len(names) != len(self._counts):
            names = [str(k) for k in range(len(self._counts))]
        content = {"schema": 1, "class_names": names, "counts": self._counts.tolist()}
        (Path(trainer.default_root_dir) / "confusion.json").write_text(json.dumps(content) + "\n")
