"""What a teacher is shown of images whose student sees a small version: the originals, decoded when asked for."""

import hashlib
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

TeacherSize = int | Literal["original"]
Images = Tensor | list[Tensor]  # (N, C, H, W), or images (C, H, W) that differ in size

_MEMORY = 2**27  # bytes of decoded pixels that are held at once
_SAMPLE = 32  # images that tell what a typical one is


class Views:
    """The teacher's views of a set of images, by their source index. Nothing is held: each is decoded when asked for.

    Args:
        read: makes a uint8 image ``(C, H, W)`` of a source index, or raises a ValueError.
        shape: ``(C, H, W)`` of all of them; None where each has its own size.
    """

    def __init__(self, read: Callable[[int], Tensor], shape: tuple[int, int, int] | None) -> None:
        self._read, self.shape = read, shape

    def images(self, index: Tensor) -> Images:
        """uint8 images at these source indices ``(N,)``, in their order: one tensor where all are of one size."""
        found = [self._read(one) for one in index.tolist()]
        return found if self.shape is None else torch.stack(found)

    def typical(self, index: Tensor) -> tuple[int, int, int]:
        """``(C, H, W)`` of all images, or the mean of some of them, taken evenly; these are decoded."""
        if self.shape is not None or not len(index):
            return self.shape or (1, 1, 1)
        sizes = [self._read(one).shape for one in index[:: -(-len(index) // _SAMPLE)].tolist()]
        channels, *sides = (sum(side) / len(sizes) for side in zip(*sizes, strict=True))
        return int(channels), round(sides[0]), round(sides[1])

    def at_once(self, index: Tensor) -> int:
        """How many of such images are decoded at once: what some 128 MiB hold."""
        channels, height, width = self.typical(index)
        return max(1, _MEMORY // (channels * height * width))

    def answers(self, ask: Callable[[Images], Tensor], batch: Tensor, device: torch.device | str) -> Tensor:
        """What somebody answers to the images of a batch, by their source indices ``(N,)``; a part of them at once."""
        parts = batch.split(self.at_once(batch))
        return torch.cat([ask(as_pixels(self.images(part), device)) for part in parts])


def as_pixels(images: Images, device: torch.device | str) -> Images:
    """uint8 images as pixels in [0, 1] on a device."""
    if isinstance(images, list):
        return [image.to(device).float().div(255) for image in images]
    return images.to(device).float().div(255)


def told_of(images: Images) -> dict[str, Tensor]:
    """Columns that tell which uint8 images were shown: their height and width, and a digest of their pixels."""
    digests = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest()[:8] for image in images]
    return {
        "shown_size": torch.tensor([image.shape[1:] for image in images], dtype=torch.int32),
        "shown": torch.tensor([int.from_bytes(one, "little", signed=True) for one in digests]),
    }


def sizes_told(columns: dict[str, Tensor]) -> dict[str, list[int]]:
    """The least and the most height and width of what was shown, of rows with the columns of :func:`told_of`."""
    sizes = columns["shown_size"]
    return {"least": sizes.amin(0).tolist(), "most": sizes.amax(0).tolist()}


def check_size(size: TeacherSize | None) -> None:
    """Refuse, with a ValueError, what is no size."""
    if size not in (None, "original") and (isinstance(size, (str, bool)) or size < 1):
        raise ValueError(f"teacher_size: expected an edge length of at least 1, or original, got {size!r}")


class Resized:
    """Reads images ``(C, H, W)`` in memory, by their source index, at a size; None: at their own."""

    def __init__(self, images: Tensor, index: Tensor, size: int | None) -> None:
        self._images, self._size = images, size
        self._rows = dict(zip(index.tolist(), range(len(index)), strict=True))

    def __call__(self, index: int) -> Tensor:
        """The image of a source index."""
        image = self._images[self._rows[index]]
        if self._size is None or image.shape[1:] == (self._size, self._size):
            return image
        resized: Tensor = tvf.resize(image, [self._size, self._size], antialias=True)
        return resized
