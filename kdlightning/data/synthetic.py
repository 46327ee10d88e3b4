"""Tasks without a real image: what is known of the task, and the images that a synthesis has written for it."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.collected import StandInDataModule
from kdlightning.data.sets import ImageSet, ImageTensorDataset, tensor_set
from kdlightning.data.transferset import TransferSet
from kdlightning.types import Answers


class NoImagesDataModule(ImageDataModule):
    """A task's classes and image size, and not one image: the ``source`` of a method that may see none.

    Args:
        name: what the task is called in tables.
        num_classes: K, at least 2, else a ValueError.
        image_size: height and width.
        channels: 1 or 3.
        class_names: K names, else a ValueError; None for their numbers.
        held_out: share of a pool that stands in for the task (`ShaderDataModule`, `WebDataModule`) that no student is
            trained on; on it students are tested, by their agreement with the teacher.
        options: see :class:`ImageDataModule`; there is no ``root`` and no ``download``.
    """

    default_num_val = 0

    def __init__(
        self,
        name: str,
        num_classes: int,
        image_size: int,
        channels: int = 1,
        class_names: Sequence[str] | None = None,
        held_out: float = 0.0,
        **options: Options,
    ) -> None:
        names = [str(k) for k in range(num_classes)] if class_names is None else list(class_names)
        if num_classes < 2 or len(names) != num_classes:
            got = f"{num_classes} classes and {len(names)} names"
            raise ValueError(f"expected at least 2 classes and as many names, got {got}")
        self.num_classes, self.channels, self.native_size = num_classes, channels, image_size
        super().__init__("", False, image_size=image_size, **options)
        self.name, self.class_names, self.test_share = name, names, held_out

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """Nothing to train on, nothing to validate on, no test images."""
        empty = tensor_set(torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8), [])
        return empty, empty, None


class SyntheticDataModule(StandInDataModule):
    """The images of a synthesis (``ZSDB3KDImages``) as a data set: ``predict`` to label them, ``fit`` to learn them.

    Their labels are the teacher's, as far as the synthesis wrote them. Batch size, augmentation, order, validation and
    test images are the source's; its training images are never used.

    Args:
        source: the task's data set; a ``NoImagesDataModule`` where there is none to validate and test on.
        path: the transfer set, with images.
        column: which images: a synthesis with ``snapshots`` wrote ``image_after_<n>`` beside ``image``.
        unlabelled: withhold the labels.
    """

    def __init__(self, source: ImageDataModule, path: str, column: str = "image", unlabelled: bool = False) -> None:
        super().__init__(source, unlabelled=unlabelled)
        self.path, self.column = path, column

    @cached_property
    def transfer_set(self) -> TransferSet:
        """The images as they were written, read once, when they are first needed."""
        return TransferSet(self.path)

    @property
    def paid(self) -> Answers:
        """What the images have cost: it counts towards the budget of whoever labels them."""
        told = self.transfer_set.manifest
        return Answers(*(int(told.get(name, 0)) for name in ("queries_paid", "bytes_up", "bytes_down")))

    def stand_ins(self) -> ImageTensorDataset:
        """The written images; errors as :class:`TransferSet` and :meth:`TransferSet.images` raise them."""
        images = self.transfer_set.images(self, self.column)
        return ImageTensorDataset(images, torch.arange(len(images)), self.transfer_set.columns.get("label"))

    def identity(self) -> dict[str, Any]:
        """Adds what the images are, to the bit."""
        identity, images = super().identity(), self.candidate_pool().image
        return {**identity, "images": hashlib.sha256(images.numpy().tobytes()).hexdigest()}
