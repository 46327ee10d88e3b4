"""Whose files lie in a run's directory: those of the weights that were trained there, and of no others."""

import hashlib
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn


def keeps(trainer: L.Trainer) -> bool:
    """Whether a run leaves anything: not a ``fast_dev_run``, which only shows that all of it works."""
    return not trainer.fast_dev_run  # type: ignore[attr-defined]


class OwnFiles(Callback):
    """Tells the test of what this process has fitted in the same directory from any other."""

    def __init__(self) -> None:
        self._fitted: tuple[Path, str] | None = None  # where, and which weights

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What was fitted before is not fitted any more."""
        self._fitted = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember what was fitted."""
        self._fitted = (_place(trainer), _weights(pl_module)) if keeps(trainer) else None

    def owns(self, trainer: L.Trainer, module: L.LightningModule) -> bool:
        """Whether a test is of the weights that were fitted here."""
        return keeps(trainer) and self._fitted == (_place(trainer), _weights(module))


def _place(trainer: L.Trainer) -> Path:
    return Path(trainer.default_root_dir).resolve()


def _weights(module: L.LightningModule) -> str:
    """Identifies what a module trains: buffers may count what they see."""
    trained = getattr(module, "student", getattr(module, "generator", module))
    mark = hashlib.sha256()
    for parameter in trained.parameters() if isinstance(trained, nn.Module) else ():
        mark.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return mark.hexdigest()
