"""What methods share that train on a part of a pool and choose it anew: score every image, choose, train, log."""

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from kdlightning.data.transferset import SourcedDataModule
from kdlightning.functional.selection import Choice
from kdlightning.modules.base import DistillationModule
from kdlightning.types import Batch


class SelectingModule(DistillationModule):
    """Before every epoch, scores the whole pool and chooses the images of that epoch.

    The pool is the datamodule's training images, as they are (no augmentation), in eval mode, in the trainer's
    precision. Processes share the batches out and put all scores together before anyone chooses, so that the choice is
    the same on all of them, and for any number of them. It follows from the weights alone: a run resumed at an epoch's
    end chooses what it would have chosen.

    Logs ``pool/selected``, ``pool/share``, ``pool/class_entropy`` (1 where all predicted classes are chosen equally
    often) and, where the data know what their images show, ``pool/precision`` (share of the chosen images that show one
    of the task's classes), ``pool/recall`` and ``pool/label_accuracy`` (share of the relevant chosen images whose
    predicted class is right). The same and the class histogram are written to ``selection.jsonl`` in the run's
    directory, a line per epoch.
    """

    every_epoch = True
    facts: dict[str, Any]

    @abstractmethod
    def scores(self, images: Tensor, first: int) -> Tensor:
        """What choosing needs to know of images.

        Args:
            images: pixels ``(N, C, H, W)`` in [0, 1], on the device.
            first: the first one's position in the pool; a batch always has the same one.

        Returns:
            float32 ``(N, F)``.
        """

    @abstractmethod
    def choose(self, scores: Tensor) -> Choice:
        """Which images of the pool to train on, and the predicted classes that this rests on.

        Args:
            scores: of all images ``(M, F)``, on the device.
        """

    def setup(self, stage: str) -> None:
        """Have the data ask which images to yield."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage != "fit":
            return
        if data is None or not hasattr(data, "shared_loader"):
            raise ValueError(
                f"{type(self).__name__} chooses from a pool: give it a datamodule such as WebDataModule, "
                "UnionDataModule, or DatasetDataModule(dataset) of a data set of your own"
            )
        if isinstance(data, SourcedDataModule):
            name = type(data).__name__
            raise ValueError(
                f"{type(self).__name__} chooses from a pool and asks its teacher itself, but {name} has images with "
                f"answers: put what makes the images into UnionDataModule(source, pools=[{name}(...)])"
            )
        self._chosen: Tensor | None = None
        self.facts = {}
        data.selector = self.selected
        if self.every_epoch:
            self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def selected(self) -> Dataset[Batch]:
        """The images of this epoch."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return Subset(data.train_set, self.select().tolist())

    def select(self) -> Tensor:
        """Positions ``(M,)`` in the pool to train on in this epoch; a RuntimeError where not one is chosen."""
        if not self.every_epoch and self._chosen is not None:
            return self._chosen
        scores = self._score_pool()
        choice = self.choose(scores)
        choice = choice._replace(mask=choice.mask.cpu(), label=choice.label.cpu())
        if not choice.mask.any():
            raise RuntimeError(
                f"{type(self).__name__} chose none of {len(choice.mask)} images of the pool: lower the threshold, or "
                "look at what the teacher says of them"
            )
        self.facts = self.describe(choice)
        self._chosen = choice.mask.nonzero()[:, 0]
        return self._chosen

    def on_train_epoch_start(self) -> None:
        """Log what was chosen."""
        super().on_train_epoch_start()
        if not self.facts:
            return
        values = {f"pool/{name}": float(value) for name, value in self.facts.items() if name != "histogram"}
        self.log_dict(values, rank_zero_only=True, sync_dist=False)
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            file = Path(self.trainer.default_root_dir) / "selection.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = file.read_text().splitlines() if file.exists() else []
            kept = [line for line in lines if json.loads(line)["epoch"] < self.current_epoch]  # of a resumed run
            line = json.dumps({"epoch": self.current_epoch, **self.facts})
            file.write_text("\n".join([*kept, line]) + "\n")
        self.facts = {}

    @torch.no_grad()
    def _score_pool(self) -> Tensor:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        modes = {module: module.training for module in self.modules()}
        self.eval()
        found = []
        with self.trainer.precision_plugin.forward_context():
            for batch in data.shared_loader():
                position = int(torch.searchsorted(data.train_set.index, batch.index[0]))
                images = batch.image.to(self.device).float().div_(255)
                found.append((position, self.scores(images, position).float()))
        for module, training in modes.items():
            module.training = training
        width = found[0][1].shape[1] if found else 0
        width = int(self.trainer.strategy.reduce(torch.tensor(width, device=self.device), reduce_op="max"))
        everything = torch.zeros(len(data.train_set), width, device=self.device)
        for position, rows in found:
            everything[position : position + len(rows)] = rows
        if self.trainer.world_size > 1:  # others' rows are 0 here
            everything = self.trainer.strategy.reduce(everything, reduce_op="sum")
        return everything

    def describe(self, choice: Choice) -> dict[str, Any]:
        """What is logged of a choice, and written to ``selection.jsonl``."""
        mask, label, *_ = choice
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        histogram = torch.bincount(label[mask], minlength=data.num_classes)
        p = histogram / histogram.sum()
        entropy = torch.special.entr(p).sum() / torch.tensor(float(data.num_classes)).log()
        facts: dict[str, Any] = {
            "selected": int(mask.sum()),
            "share": round(float(mask.float().mean()), 6),
            "class_entropy": round(float(entropy), 6),
            "histogram": histogram.tolist(),
        }
        if getattr(data, "truth", None) is not None:
            relevant = data.truth >= 0
            both = relevant & mask
            facts["precision"] = round(float(both.sum() / mask.sum()), 6)
            facts["recall"] = round(float(both.sum() / relevant.sum().clamp(min=1)), 6)
            facts["label_accuracy"] = round(float((data.truth == label)[both].float().mean().nan_to_num()), 6)
        return facts
