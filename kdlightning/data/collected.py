"""Pools: images that are not the task's own, to select from; the task's data set keeps validation and test."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.base import ImageDataModule
from kdlightning.data.generated import PoolDataModule
from kdlightning.data.sets import ImageSet, ImageTensorDataset


class StandInDataModule(ImageDataModule):
    """Images that stand in for a task's own: all but them is the source's, also validation and test images."""

    default_num_val = 0
    has_originals = False

    def __init__(self, source: ImageDataModule, root: str = "", unlabelled: bool = True, num_workers: int = 0) -> None:
        self.num_classes, self.channels, self.native_size = source.num_classes, source.channels, source.image_size
        super().__init__(
            root, False, source.batch_size, source.eval_batch_size, unlabelled=unlabelled,
            image_size=source.image_size, augmentation=source.augmentation,
            augmentation_groups=source.augmentation_groups, seed=source.seed, num_workers=num_workers,
            teacher_size=source.teacher_size,
        )  # fmt: skip
        self.name, self.class_names = source.name, list(source.class_names)
        self.source = source

    def prepare_data(self) -> None:
        """Let the source download."""
        self.source.prepare_data()

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """The images that stand in, and the source's for validation and test."""
        self.source.setup()
        self.class_names = list(self.source.class_names)
        return self.stand_ins(), self.source.val_set, self.source.test_set

    @abstractmethod
    def stand_ins(self) -> ImageTensorDataset:
        """The images, whose index is their position in what they are drawn from."""


class CollectedDataModule(StandInDataModule):
    """A pool of unlabelled images to train on; classes, sizes, augmentation, validation and test are the source's.

    A subclass overrides :meth:`collect`.

    Args:
        source: the task's data set. Its training images are never used.
        fraction: share of the collected images above 0 and up to 1 (else a ValueError), drawn by the source's seed; a
            larger share has the smaller one's.
        root: where the images come from, if from files.
        num_workers: processes that decode.
    """

    #: the task's class that an image of the pool shows ``(N,)``, or -1; None: unknown. For reports, and the reference
    #: ``selection: oracle`` of :class:`KD3`; no method is given it
    truth: Tensor | None = None

    def __init__(self, source: ImageDataModule, fraction: float = 1.0, root: str = "", num_workers: int = 0) -> None:
        super().__init__(source, root, num_workers=num_workers)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: expected a share above 0 and up to 1, got {fraction}")
        self.fraction = fraction

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """Adds test images, a share of the pool, where the source has none but a ``test_share``."""
        pool, val, test = super().load()
        if test is None and (share := getattr(self.source, "test_share", 0.0)):
            order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(self.seed + 2))
            kept, rest = (part.sort().values for part in order.tensor_split([max(1, round(share * len(pool)))]))
            pool, test = pool.take(rest), pool.take(kept)
            self.truth = None if self.truth is None else self.truth[rest]
        return pool, val, test

    @abstractmethod
    def collect(self) -> Tensor:
        """All images of the pool ``(M, C, H, W)``, uint8, of the task's channels and size; sets their ``truth``."""

    def stand_ins(self) -> ImageTensorDataset:
        """The drawn share of the pool."""
        images = self.collect()
        index = torch.arange(len(images))
        if self.fraction < 1:
            order = torch.randperm(len(images), generator=self._generator())
            index = order[: max(1, round(self.fraction * len(images)))].sort().values
            images, self.truth = images[index], None if self.truth is None else self.truth[index]
        return ImageTensorDataset(images, index, None)

    def identity(self) -> dict[str, Any]:
        """Adds which share."""
        return {**super().identity(), "fraction": self.fraction}


class UnionDataModule(CollectedDataModule):
    """The training images of other data sets, and made images (``NoiseDataModule``), together, as one unlabelled pool.

    They are resized, and made grey or repeated over three channels, to be what the source's are. KD³'s pools are
    MNIST-M and SVHN for MNIST, and ImageNet for CIFAR-10, CIFAR-100, CINIC-10 and Tiny ImageNet.

    An image whose class has the name of one of the task's classes counts as relevant in reports.

    Args:
        source: the task's data set. Its training images are never used.
        pools: other data sets, at least one (else a ValueError); of each, its training images (``num_samples`` of them,
            ``num_val`` left out); of a pool of made images, all ``size`` of them.
    """

    def __init__(
        self, source: ImageDataModule, pools: list[ImageDataModule | PoolDataModule], fraction: float = 1.0
    ) -> None:
        super().__init__(source, fraction)
        if not pools:
            raise ValueError("pools: expected at least one data set to draw images from")
        if any(getattr(pool, "teacher_size", None) is not None for pool in pools):
            raise ValueError("pools: expected images of the source's size, got a teacher_size; leave it out")
        self.pools = pools

    def prepare_data(self) -> None:
        """Let everyone download."""
        super().prepare_data()
        for pool in self.pools:
            pool.prepare_data()

    def collect(self) -> Tensor:
        """One pool after the other, each in its own order."""
        images, truth = [], []
        for pool in self.pools:
            whole = pool.candidate_pool()
            images.append(self.resize(in_channels(whole.image, self.channels)))
            if whole.label is not None:
                ours = [self.class_names.index(name) if name in self.class_names else -1 for name in pool.class_names]
                truth.append(torch.tensor(ours)[whole.label])
        self.truth = torch.cat(truth) if len(truth) == len(self.pools) else None
        return torch.cat(images)

    def identity(self) -> dict[str, Any]:
        """Adds whose images."""
        return {**super().identity(), "pools": [pool.identity() for pool in self.pools]}


def in_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 images ``(N, C, H, W)`` in grey (ITU-R BT.601) or in three channels."""
    if images.shape[1] == channels:
        return images
    if channels != 1:
        return images.expand(-1, channels, -1, -1)
    return torch.cat([tvf.rgb_to_grayscale(part) for part in images.split(1000)])
