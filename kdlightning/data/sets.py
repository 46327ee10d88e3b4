"""Sets of images that are served a batch at a time, from memory or from files."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from copy import copy
from typing import Any, Self

import lightning.pytorch as L
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import Dataset

from kdlightning.data.views import Views
from kdlightning.types import Batch

_NAMED = 20  # images that cannot be used, in one message


class ImageSet(Dataset[Batch], ABC):
    """Images of one size, served a batch at a time.

    Args:
        index: source indices ``(N,)``, int64.
        labels: class indices ``(N,)``, int64, or None where they are withheld.
    """

    views: Views | None = None  #: what a teacher is shown in place of these images; None for these

    def __init__(self, index: Tensor, labels: Tensor | None) -> None:
        self.index, self.labels = index, labels

    @abstractmethod
    def pixels(self, rows: Tensor) -> Tensor:
        """uint8 images ``(M, C, H, W)`` at these positions ``(M,)``."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Batch:
        """A batch of one."""
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        """One batch: torch's fetcher calls this with all positions at once."""
        rows = torch.as_tensor(positions)
        return Batch(self.pixels(rows), self.index[rows], None if self.labels is None else self.labels[rows])

    def take(self, rows: Tensor) -> Self:
        """The images at these positions ``(M,)``."""
        taken = copy(self)
        taken.index, taken.labels = self.index[rows], None if self.labels is None else self.labels[rows]
        return taken

    def order(self, seed: int) -> Tensor:
        """All positions ``(N,)`` in an order drawn by ``seed``, in which images are split off."""
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def withheld(self) -> Self:
        """The same images without labels."""
        bare = copy(self)
        bare.labels = None
        return bare


class ImageTensorDataset(ImageSet):
    """Images in memory, uint8 ``(N, C, H, W)``, with index and labels as :class:`ImageSet` has them.

    A ValueError if lengths differ, or the images are not uint8.
    """

    def __init__(self, images: Tensor, index: Tensor, labels: Tensor | None) -> None:
        super().__init__(index, labels)
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"expected uint8 images (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        labelled = None if labels is None else len(labels)
        if len(images) != len(index) or labelled not in (None, len(index)):
            raise ValueError(f"{len(images)} images, {len(index)} indices and {labelled} labels")
        self.images = images

    def pixels(self, rows: Tensor) -> Tensor:
        """Those in memory."""
        return self.images[rows]

    def take(self, rows: Tensor) -> Self:
        """The images at these positions ``(M,)``."""
        taken = super().take(rows)
        taken.images = self.images[rows]
        return taken


class ImageFileDataset(ImageSet):
    """Images that are decoded when they are asked for, in the loader's workers, which ``read`` travels to.

    It makes a uint8 image ``(C, H, W)``, all of one size, of a source index, or raises a ValueError; the rest as
    :class:`ImageSet` has it.

    Args:
        stamp: tells states of the files apart, so that a check of all of them is done once; None: at every start.
        names: of the files, by source index. What is split off goes by them: when one image is taken away, the others
            stay in their part, so that none that a student has learnt from becomes a test image.
    """

    def __init__(
        self,
        read: Callable[[int], Tensor],
        index: Tensor,
        labels: Tensor | None,
        stamp: Callable[[], str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(index, labels)
        self.read, self.stamp, self.names = read, stamp, names

    def order(self, seed: int) -> Tensor:
        """By ``seed``, and by the files' names where they are known."""
        if self.names is None:
            return super().order(seed)
        texts = (f"{seed}/{self.names[index]}" for index in self.index.tolist())
        drawn = [hashlib.sha256(text.encode(errors="surrogateescape")).digest() for text in texts]
        return torch.tensor(sorted(range(len(drawn)), key=drawn.__getitem__), dtype=torch.long)

    def tried(self, rows: Tensor) -> list[Tensor | str]:
        """What is at these positions ``(M,)``: each an image, or what is wrong with it."""
        tried: list[Tensor | str] = []
        for index in self.index[rows].tolist():
            try:
                tried.append(self.read(index))
            except ValueError as error:
                tried.append(str(error))
        return tried

    def pixels(self, rows: Tensor) -> Tensor:
        """Decoded, image by image; a ValueError names all of the batch that cannot be."""
        tried = self.tried(rows)
        refuse([one for one in tried if isinstance(one, str)], len(tried))
        return torch.stack([one for one in tried if isinstance(one, Tensor)])


class Tried(Dataset[list[Tensor | str]]):
    """Images of files, a chunk at a time, among them what cannot be used."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, positions: list[int]) -> list[Tensor | str]:
        rows = torch.as_tensor(positions)
        return self.images.tried(rows) if isinstance(self.images, ImageFileDataset) else list(self.images.pixels(rows))


def refuse(faults: Sequence[str], total: int) -> None:
    """Refuse, with a ValueError that names them, images that cannot be used, if there are any."""
    if faults:
        more = len(faults) - _NAMED
        said = [*faults[:_NAMED], *([f"... and {more} more"] if more > 0 else [])]
        head = [f"{len(faults)} of {total} images cannot be used:"] if len(faults) > 1 else []
        raise ValueError("\n".join([*head, *said]))


def whole_batch(batch: Any) -> Any:  # noqa: ANN401 - DataLoader believes that it collates a list
    """What a dataset with ``__getitems__`` has made is a batch already."""
    return batch


def tensor_set(images: Tensor, labels: Sequence[int] | Tensor) -> ImageTensorDataset:
    """Images in source order with their labels."""
    return ImageTensorDataset(images, torch.arange(len(images)), torch.as_tensor(labels).long())


def each_once(dataset: Sized, trainer: L.Trainer | None) -> UnrepeatedDistributedSampler | None:
    """Shares items out among a trainer's processes, every item once, none repeated; None for a single process.

    A ValueError where a process would get none: the others would wait for it for ever.
    """
    if trainer is None or trainer.world_size == 1:
        return None
    if 0 < len(dataset) < trainer.world_size:
        raise ValueError(
            f"{trainer.world_size} processes share out {len(dataset)} images, or batches of made ones: take as many "
            "processes at most (--trainer.devices), or make batches smaller (--data.source.eval_batch_size)"
        )
    return UnrepeatedDistributedSampler(dataset, trainer.world_size, trainer.global_rank, shuffle=False)


class AnsweredImages(ImageTensorDataset):
    """A source's training images joined to rows of a transfer set: sorted source indices ``(M,)``, answers ``(M, K)``.

    A ValueError if the source lacks an image that there is a row for.
    """

    def __init__(self, source: ImageTensorDataset, index: Tensor, answer: Tensor) -> None:
        position = torch.full((int(max(source.index.max(), index.max())) + 1,), -1, dtype=torch.int64)
        position[source.index] = torch.arange(len(source.index))
        rows = position[index]
        if (rows < 0).any():
            remedy = "use the datamodule, num_samples and seed that it was made with (they stand in its manifest)"
            absent = f"{int((rows < 0).sum())} images that the source does not yield"
            raise ValueError(f"the transfer set has rows for {absent}: {remedy}")
        taken = source.take(rows)
        super().__init__(taken.images, index, taken.labels)
        self.answer, self.views = answer, taken.views

    def take(self, rows: Tensor) -> Self:
        """The images at these positions ``(M,)`` with their answers."""
        taken = super().take(rows)
        taken.answer = self.answer[rows]
        return taken

    def __getitems__(self, positions: list[int]) -> Batch:
        """One batch, with the rows' answers."""
        return super().__getitems__(positions)._replace(answer=self.answer[torch.as_tensor(positions)])
