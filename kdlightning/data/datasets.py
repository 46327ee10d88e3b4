"""A data set of Python's own, any of `torch.utils.data`, as a datamodule of the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.batches import as_batch
from kdlightning.data.sets import ImageSet, ImageTensorDataset

_CHUNK = 1000  # images read at once
_SPLITS = ("train", "val", "valid", "validation", "test")  # folders within a data set's


class DatasetDataModule(ImageDataModule):
    """Any data set of ``(image, label)``, for methods that choose, label or make images of a task's own.

    Methods that only train on batches take a plain ``DataLoader`` as well. The images are read once, when this is made,
    and kept as uint8 in memory: random transforms of the data set would be drawn once for all, so give them as
    ``augmentation``.

    Args:
        train: yields what :func:`kdlightning.data.batches.as_batch` takes, one image at a time: a tensor ``(C, H, W)``
            or a Pillow image, alone or with its label.
        test: images to test on; None for none.
        val: images to validate on; None: ``num_val`` of the training images.
        num_classes: K; None: as many as ``train.classes`` has, or the labels tell.
        name: in tables and manifests; None for what :func:`name_of_set` says of ``train``.
        options: see :class:`ImageDataModule`; there is no ``root`` and no ``download``.

    Raises:
        ValueError: images that differ in size or are not square, no image at all, an unknown or too small K; see also
            :func:`kdlightning.data.batches.as_batch`.
    """

    def __init__(
        self,
        train: Dataset[Any],
        test: Dataset[Any] | None = None,
        val: Dataset[Any] | None = None,
        num_classes: int | None = None,
        name: str | None = None,
        **options: Options,
    ) -> None:
        self.name = name or name_of_set(train)
        splits = {"train": train, "val": val, "test": test}
        self._parts = {split: _read(given, split) for split, given in splits.items() if given is not None}
        images = self._parts["train"].images
        self.channels, self.native_size = images.shape[1], images.shape[2]
        names = getattr(train, "classes", None)
        told = [int(part.labels.max()) + 1 for part in self._parts.values() if part.labels is not None]
        self.num_classes = num_classes or (len(names) if names else max(told, default=0))
        if not self.num_classes or self.num_classes < max(told, default=0):
            seen = f"labels up to {max(told) - 1}" if told else "images without labels"
            raise ValueError(f"num_classes: expected the number of classes, got {num_classes} and {seen}")
        for split, part in self._parts.items():
            if part.images.shape[1:] != images.shape[1:]:
                shapes = f"{tuple(part.images.shape[1:])}, those of train {tuple(images.shape[1:])}"
                raise ValueError(f"{split}: expected images of one shape, got {shapes}")
        super().__init__("", False, **options)
        if names and len(names) == self.num_classes:
            self.class_names = [str(each) for each in names]

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """What was read."""
        return self._parts["train"], self._parts.get("val"), self._parts.get("test")


def name_of_set(dataset: object) -> str:
    """A data set's name: its ``name``, that of its folder, or else of its class; a part of one is called like it."""
    if name := getattr(dataset, "name", None):
        return str(name)
    if isinstance(dataset, Subset):
        return name_of_set(dataset.dataset)
    # what is derived from these is named by its class
    if isinstance(dataset, DatasetFolder) and type(dataset) in (ImageFolder, DatasetFolder):
        folder = Path(dataset.root).resolve()
        return folder.parent.name if folder.name in _SPLITS else folder.name
    return type(dataset).__name__


def _read(dataset: Dataset[Any], split: str) -> ImageTensorDataset:
    try:
        loader = DataLoader(dataset, batch_size=_CHUNK, collate_fn=_collated)
        batches = [as_batch(batch) for batch in loader]
        images = torch.cat([batch.image.mul(255).round().to(torch.uint8) for batch in batches])
    except RuntimeError as error:  # of torch.stack and torch.cat
        raise ValueError(
            f"{split}: expected images of one size, give it a transform such as Resize: {error}"
        ) from error
    except (TypeError, ValueError) as error:
        raise type(error)(f"{split}: {error}") from error
    if not len(images) or images.shape[2] != images.shape[3]:
        raise ValueError(
            f"{split}: expected square images, got {tuple(images.shape)}: give it a transform such as Resize"
        )
    labels = [batch.label for batch in batches if batch.label is not None]
    return ImageTensorDataset(images, torch.arange(len(images)), torch.cat(labels) if labels else None)


def _collated(items: list[Any]) -> Any:  # noqa: ANN401 - whatever the items are
    def tensors(item: Any) -> Any:  # noqa: ANN401
        if isinstance(item, Mapping):
            return {key: _tensor(value) for key, value in item.items() if value is not None}
        return [_tensor(value) for value in item] if isinstance(item, (tuple, list)) else _tensor(item)

    return default_collate([tensors(item) for item in items])


def _tensor(value: Any) -> Tensor | Any:  # noqa: ANN401
    return pil_to_tensor(value) if isinstance(value, Image.Image) else value
