"""Images that are made, not collected: a fixed pool that a teacher is asked about once, and trained on afterwards."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from kdlightning.data.base import ImageDataModule, Options, at_least
from kdlightning.data.sets import AnsweredImages, ImageTensorDataset, each_once
from kdlightning.data.transferset import SourcedDataModule, TransferSet
from kdlightning.networks.gan import Critic, Generator
from kdlightning.networks.pretrained import fingerprint, load_network, notes
from kdlightning.types import Answers, Batch

_log = logging.getLogger(__name__)

Distribution = Literal["uniform", "normal", "scaled", "smooth"]

_BLOCK = 1000  # seeds are per block, so that a larger pool begins with a smaller one


class PoolDataModule(SourcedDataModule):
    """A pool of made images. ``predict`` yields them, to be answered; ``fit`` trains on them with their answers.

    Pixels are rounded to 1/255 before they are asked, as in an image file; the transfer set keeps them. Batch size,
    augmentation, order, validation and test images are the source's. A subclass overrides :meth:`seeds`,
    :meth:`images` and :meth:`origin`.

    Args:
        source: the task's data set: number of classes, size of the images, validation and test images.
        size: number of images, at least one, else a ValueError.
        path: the transfer set with their answers, for ``fit``.
        seed: owner of the draw.
        num_samples: train on the first so many answered images, which alone count as paid then; None for all.
    """

    generated = True

    def __init__(
        self,
        source: ImageDataModule,
        size: int = 50_000,
        path: str | None = None,
        seed: int = 0,
        num_samples: int | None = None,
    ) -> None:
        super().__init__(source)
        if size < 1:
            raise ValueError(f"size: expected at least 1 image, got {size}")
        at_least(1, num_samples=num_samples)
        self.size, self.path, self.seed, self.num_samples = size, path, seed, num_samples

    @abstractmethod
    def seeds(self, block: int, generator: torch.Generator) -> Tensor:
        """What block number ``block`` of 1,000 images is made from, one row per image; on the CPU."""

    @abstractmethod
    def images(self, seeds: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)``, float in [0, 1], from rows of :meth:`seeds`, on their device."""

    @abstractmethod
    def origin(self) -> dict[str, Any]:
        """What identifies the images besides size and seed: plain values."""

    @property
    def paid(self) -> Answers:
        """What has been paid to be able to make the images."""
        return Answers(0, 0, 0)

    def identity(self) -> dict[str, Any]:
        """What makes this pool this pool, for manifests."""
        size = {"length": self.size, "num_samples": self.size, "seed": self.seed}
        return {**self.origin(), **size, "image_size": self.source.image_size, "channels": self.source.channels}

    def setup(self, stage: str) -> None:
        """Load the source and, where a ``path`` is given and needed, the answered pool; ``fit`` needs one."""
        super().setup(stage)
        if self.path is None and stage == "fit":
            name = type(self).__name__
            own = f"a method that chooses from a pool takes UnionDataModule(source, pools=[{name}(...)])"
            raise ValueError(f"{name} trains on answered images: give TeacherAnswers' transfer set as path; {own}")
        if self.path is None or stage == "predict" or hasattr(self, "answered"):
            return
        whole = TransferSet(self.path)
        answered = self.transfer_set = whole if self.num_samples is None else whole.first(self.num_samples)
        pixels, index = answered.images(self.source), answered.column("index")
        answers = answered.answers(self.source.num_classes)
        changed = answered.manifest.get("source", {}).get("files") not in (None, self.source.identity().get("files"))
        if changed and (rows := self._are_tests(pixels)).any():
            _log.warning("%s: %s answered images are test images here and are left out", self.path, int(rows.sum()))
            pixels, index, answers = pixels[~rows], index[~rows], answers[~rows]
        self.answered = AnsweredImages(ImageTensorDataset(pixels, index, None), index, answers)

    def _are_tests(self, pixels: Tensor) -> Tensor:
        """Which images ``(N, C, H, W)`` students are tested on, ``(N,)``."""
        tested = self.source.tested
        known = (
            {image.numpy().tobytes() for image in tested.images} if isinstance(tested, ImageTensorDataset) else set()
        )
        return torch.tensor([image.numpy().tobytes() in known for image in pixels], dtype=torch.bool)

    @property
    def train_set(self) -> ImageTensorDataset:
        """The answered images; while they are not read, the source's."""
        return self.answered

    def predict_indices(self) -> Tensor:
        """Indices ``(N,)`` of the images."""
        return torch.arange(self.size)

    @torch.no_grad()
    def candidate_pool(self, limit: int | None = None) -> Batch:
        """The first ``limit`` images (None: ``size``), uint8; more than ``size`` can be had, which begin with it."""
        index = torch.arange(self.size if limit is None else limit)
        made = [self._rounded(part) for part in self._seeds(len(index), self.seed).split(_BLOCK)]
        return Batch((torch.cat(made) * 255).round().to(torch.uint8), index)

    def count_candidates(self, limit: int | None = None) -> int:
        """How many images :meth:`candidate_pool` has."""
        return self.size if limit is None else limit

    def predict_dataloader(self) -> DataLoader[Batch]:
        """What the images are made from, in order and in whole batches; they are made on the device.

        Processes share out batches, not images: one has the same rows, hence the same bits, whoever works on it.
        """
        rows = self._seeds(self.size, self.seed), self.predict_indices()
        parts = (part.split(self.source.eval_batch_size) for part in rows)
        batches: Any = [Batch(*rows) for rows in zip(*parts, strict=True)]
        return DataLoader(batches, batch_size=None, sampler=each_once(batches, self.trainer))

    def _seeds(self, number: int, seed: int) -> Tensor:
        own = (torch.Generator().manual_seed(seed * 1_000_003 + block) for block in range(-(-number // _BLOCK)))
        return torch.cat([self.seeds(block, generator) for block, generator in enumerate(own)])[:number]

    def _rounded(self, seeds: Tensor) -> Tensor:
        """Images of seeds, as they are asked."""
        return rounded(self.images(seeds))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Make the images of a ``predict`` batch on its device; else the source's conversion and augmentation."""
        if self.trainer is not None and self.trainer.predicting:
            with torch.no_grad():
                return batch._replace(image=self._rounded(batch.image))
        return super().on_after_batch_transfer(batch, dataloader_idx)


def rounded(images: Tensor) -> Tensor:
    """Pixels ``(N, C, H, W)`` in [0, 1] as an image file would hold them: float32, whole numbers of 1/255."""
    return images.float().clamp(0, 1).mul_(255).round_().div_(255)


class GeneratedDataModule(PoolDataModule):
    """Images of a trained generator, ``G(z)`` with z drawn from a standard normal distribution.

    Args:
        generator: directory of the saved generator (``network/`` of a ``MEKDGenerator`` run), or the generator; needed
            for ``predict`` only.
        options: see :class:`PoolDataModule`.
    """

    def __init__(
        self, source: ImageDataModule, generator: str | Generator | None = None, size: int = 50_000, **options: Options
    ) -> None:
        super().__init__(source, size, **options)
        self._given = generator

    @cached_property
    def generator(self) -> Generator:
        """The generator, frozen.

        A ValueError if none was given or it does not fit the source; a TypeError if the directory holds something else.
        """
        if self._given is None:
            raise ValueError("GeneratedDataModule makes images with a generator: give its directory")
        made = self._given if isinstance(self._given, Generator) else load_network(self._given)
        if not isinstance(made, Generator):
            raise TypeError(f"{self._given} holds a {type(made).__name__}, not a generator")
        check_generator(made, self.source)
        return made.requires_grad_(False).eval()

    @property
    def paid(self) -> Answers:
        """What the generator's training has paid, from its notes, or as it says itself."""
        if self._given is None or isinstance(self._given, Generator):
            return Answers(0, 0, 0) if self._given is None else self._given.paid
        told = notes(self._given)
        return Answers(*(int(told.get(name, 0)) for name in Answers._fields))

    def origin(self) -> dict[str, Any]:
        """The generator's fingerprint."""
        return {"name": "generated", "generator": fingerprint(self.generator)}

    def seeds(self, block: int, generator: torch.Generator) -> Tensor:
        """Standard normal latent vectors, with one entry a class."""
        return torch.randn(_BLOCK, self.source.num_classes, generator=generator)

    def latents(self) -> Tensor:
        """The latent vectors ``(M, K)`` that the answered images were made from, drawn again."""
        index = self.answered.index
        return self._seeds(int(index.max()) + 1, int(self.transfer_set.manifest["source"]["seed"]))[index]

    def images(self, seeds: Tensor) -> Tensor:
        """G(z)."""
        return cast(Tensor, self.generator.to(seeds.device)(seeds))


class NoiseDataModule(PoolDataModule):
    """Images of noise: the control that every pool has to beat, and where zero-shot synthesis starts.

    Args:
        distribution: of the pixels, clamped to [0, 1]: ``uniform`` over [0, 1]; ``normal`` with mean 0.5 and standard
            deviation 0.25; ``scaled``, s₁ (U + 0.2) + s₂ N with U uniform, N standard normal and s₁, s₂ uniform over
            [0, 1] for every image (the released code of [Wang2021]_); ``smooth``, b + s Z with Z a grid of standard
            normal values, enlarged (bicubic), b uniform over [0, 0.4] and s over [0.3, 0.7] for every image. A list of
            them takes turns.
        cells: the least and the most cells along a side of ``smooth``'s grid: what a cell is to the image's size, a
            stroke should be to the objects'.
        options: see :class:`PoolDataModule`.
    """

    def __init__(
        self,
        source: ImageDataModule,
        size: int = 50_000,
        distribution: Distribution | list[Distribution] = "uniform",
        cells: tuple[int, int] = (6, 10),
        **options: Options,
    ) -> None:
        super().__init__(source, size, **options)
        if not 1 <= cells[0] <= cells[1]:
            order = "the first at least 1 and not above the second"
            raise ValueError(f"cells: expected two whole numbers, {order}, got {cells}")
        self.distribution, self.cells = distribution, tuple(cells)

    def origin(self) -> dict[str, Any]:
        """The distribution."""
        smooth = {"cells": list(self.cells)} if "smooth" in self.distribution else {}
        return {"name": "noise", "distribution": self.distribution, **smooth}

    def seeds(self, block: int, generator: torch.Generator) -> Tensor:
        """The pixels themselves, uint8: a pool of noise fits in memory as its images do."""
        shape = (_BLOCK, self.source.channels, self.source.image_size, self.source.image_size)
        if self.distribution == "uniform":
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        kinds = [self.distribution] if isinstance(self.distribution, str) else self.distribution
        pixels = torch.empty(shape, dtype=torch.uint8)
        for number, kind in enumerate(kinds):
            here = pixels[number :: len(kinds)]
            here.copy_((_noise(kind, here.shape, self.cells, generator).clamp_(0, 1) * 255).round())
        return pixels

    def images(self, seeds: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        return seeds.float() / 255


def _noise(kind: str, shape: torch.Size, cells: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pixels before clamping."""
    if kind == "uniform":
        return torch.rand(shape, generator=generator)
    if kind == "normal":
        return torch.randn(shape, generator=generator).mul_(0.25).add_(0.5)
    first, second = torch.rand(2, shape[0], 1, 1, 1, generator=generator).unbind()
    if kind == "scaled":
        plain = torch.rand(shape, generator=generator) + 0.2
        return first * plain + second * torch.randn(shape, generator=generator)
    out, sides = torch.empty(shape), range(cells[0], cells[1] + 1)
    for number, side in enumerate(sides):
        rows = out[number :: len(sides)]
        grid = torch.randn(len(rows), shape[1], side, side, generator=generator)
        rows.copy_(F.interpolate(grid, shape[-2:], mode="bicubic"))
    return 0.4 * first + (0.3 + 0.4 * second) * out


def check_generator(generator: Generator, data: Any) -> None:  # noqa: ANN401 - any of the package's datamodules
    """Refuse, with a ValueError, a generator of other classes, channels or size than a datamodule's."""
    check_latent(generator, data)
    check_size(generator, data)


def check_latent(generator: Generator, data: Any) -> None:  # noqa: ANN401
    """Refuse, with a ValueError, a generator of other classes than a datamodule's."""
    latent, classes = generator.latent_dim, getattr(data, "num_classes", generator.latent_dim)
    if latent != classes:
        made, task = f"has {latent} latent dimensions, one per class", f"{data.name} has {classes} classes"
        raise ValueError(f"the generator {made}, but {task}")


def check_size(network: Generator | Critic, data: Any) -> None:  # noqa: ANN401
    """Refuse, with a ValueError, a generator or critic of images of other channels or size than a datamodule's."""
    if hasattr(data, "image_size") and hasattr(data, "channels"):  # else it is a datamodule of the user's own
        check_shape(network, (data.channels, data.image_size, data.image_size), data.name)


def check_shape(network: Generator | Critic, shape: Sequence[int], name: str) -> None:
    """Refuse, with a ValueError, a generator or critic of other images than those ``(C, H, W)`` of that name."""
    if tuple(shape) != (network.channels, network.image_size, network.image_size):
        does = "generator makes" if isinstance(network, Generator) else "critic sees"
        made = f"{network.channels} channels and {network.image_size} pixels"
        task = f"{shape[0]} channels and {' x '.join(str(side) for side in sorted(set(shape[1:])))} pixels"
        raise ValueError(f"the {does} images of {made}, but those of {name} have {task}")
