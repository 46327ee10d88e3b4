"""What every set of images shares: fixed splits, batches without a loop over images, pixels in [0, 1] on the device."""

import hashlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.cached import passed_once
from kdlightning.data.sets import ImageFileDataset, ImageSet, ImageTensorDataset, Tried, each_once, refuse, whole_batch
from kdlightning.data.views import Resized, TeacherSize, Views, check_size
from kdlightning.types import Batch

Transform = torch.nn.Module | Callable[[Tensor], Tensor]
Options = Any  # of a base class, passed on by keyword

_MEMORY = 2**30  # bytes of decoded pixels that are held without being asked to
_CHUNK = 1000  # images decoded or resized at once: bounds the float copies that resizing makes


def at_least(minimum: int, **settings: int | None) -> None:
    """Refuse, with a ValueError, settings that are given and below a minimum."""
    for setting, value in settings.items():
        if value is not None and value < minimum:
            raise ValueError(f"{setting}: expected at least {minimum}, got {value}")


def above_zero(**settings: float) -> None:
    """Refuse, with a ValueError, settings such as a temperature that are not finite numbers above 0."""
    for setting, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{setting}: expected a number above 0, got {value}")


class ImageDataModule(L.LightningDataModule, ABC):
    """A data set of labelled images. Splits depend on ``seed`` alone, batches carry source indices.

    ``predict`` yields the training images in order, without augmentation: what a labelling phase asks the teacher.
    A subclass sets the first four attributes and overrides :meth:`load`; images leave the loaders as uint8 and become
    float32 in [0, 1] on the device. A size or a number below 1 is a ValueError.

    Args:
        root: where the files are, or go to.
        download: fetch them if absent.
        batch_size: of training, in images per process.
        eval_batch_size: of validation, test and predict, in images per process.
        num_samples: exactly this many local training images, drawn by ``seed``, the same for every method; None: all.
        num_val: validation images taken from the training part, disjoint from it: a number, or a share if below 1;
            None for the data set's own default. Unused where the data set has official validation images.
        unlabelled: withhold the training labels: ``Batch.label`` is None in training and predict, not in validation
            and test.
        image_size: resize to this many pixels (bilinear, antialiased); None for the native size.
        augmentation: a transform of float batches ``(N, C, H, W)`` in [0, 1], such as ``torchvision.transforms.v2``'s,
            for training; what it returns is clamped to [0, 1].
        augmentation_groups: a v2 transform draws once per call, so a batch is augmented in this many groups, each with
            a draw of its own: more are more diverse and slower. :class:`CropFlipCutout` draws for each image.
        seed: owner of the split, the subset and the order.
        num_workers: of the loaders, and of decoding files into memory; images in memory need none.
        teacher_size: what a teacher sees of an image, decoded anew when it is asked: an edge length, at which it is
            resized and cropped as the student's is, or ``original``, the whole image at its own size. None shows it
            what the student sees.
    """

    name: str  #: of the data set, in tables and manifests
    num_classes: int  #: K
    channels: int  #: 1 or 3
    native_size: int  #: height and width without ``image_size``
    class_names: list[str]  #: K of them; complete after :meth:`setup`
    default_num_val: int | float = 0.1
    downloadable: bool = True
    in_memory: bool | None = None  # of sets that are files: None holds up to 1 GiB of decoded pixels
    has_originals: bool = True  #: whether its images have a size of their own, not only that at which they are made
    train_set: ImageSet  #: the drawn training images, after :meth:`setup`
    least_batch: int = 1  #: fewest images in a training batch: a last one of fewer is left out of its epoch
    #: makes what an epoch trains on, set by methods that select: they have Lightning ask for the loader every epoch
    selector: Callable[[], Dataset[Batch]] | None = None

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 256,
        eval_batch_size: int = 1000,
        num_samples: int | None = None,
        num_val: int | float | None = None,
        unlabelled: bool = False,
        image_size: int | None = None,
        augmentation: Transform | None = None,
        augmentation_groups: int = 16,
        seed: int = 0,
        num_workers: int = 0,
        teacher_size: TeacherSize | None = None,
    ) -> None:
        super().__init__()
        check_size(teacher_size)
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size, num_samples=num_samples)
        at_least(1, image_size=image_size, augmentation_groups=augmentation_groups)
        self.root, self.download = Path(root).expanduser(), download
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_samples, self.unlabelled = num_samples, unlabelled
        self.num_val = self.default_num_val if num_val is None else num_val
        self.image_size = self.native_size if image_size is None else image_size
        self.augmentation, self.augmentation_groups = augmentation, augmentation_groups
        self.seed, self.num_workers, self.teacher_size = seed, num_workers, teacher_size
        self.class_names = [str(k) for k in range(getattr(self, "num_classes", 0))]
        self._ready = False
        self._seen: list[ImageSet] = []  # files that were looked at

    def prepare_data(self) -> None:
        """Refuse, with a ValueError, to download what nobody may."""
        if self.download and not self.downloadable:
            raise ValueError(f"{self.name} cannot be downloaded: put its files into '{self.root}', set download: false")

    @abstractmethod
    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """The source at its native size.

        Returns:
            All training images in file order, whose index is their position; the official validation images and the
            official test images, each None where there are none.
        """

    def setup(self, stage: str | None = None) -> None:
        """Load and split, once; before training, and before files are labelled, look at those to test on, too.

        A ValueError where more images are asked for than there are, or some cannot be used.
        """
        if not self._ready:
            self._split_up()
        files = isinstance(self._val, ImageFileDataset) or isinstance(self._test, ImageFileDataset)
        for images in (self.val_set, self.test_set) if stage == "fit" or (stage == "predict" and files) else ():
            self._look_before(images)

    def _split_up(self) -> None:
        train, val, test = self.load()
        self.source_length = len(train)
        order = train.order(self.seed)
        number = 0 if val is not None else self._count(self.num_val, len(train), "num_val")
        held_out, rest = order[:number], order[number:]
        wanted = len(rest) if self.num_samples is None else self.num_samples
        if wanted > len(rest):
            there = f"{self.name} has {len(train)} training images, {number} of them for validation"
            raise ValueError(f"num_samples={wanted} but {there}: at most {len(rest)}")
        self._val = val if val is not None else train.take(held_out)
        self._test = test
        chosen = self._held(train if wanted == len(train) else train.take(rest[:wanted].sort().values))
        self.train_set = chosen.withheld() if self.unlabelled else chosen
        self._ready = True

    @cached_property
    def val_set(self) -> ImageSet:
        """Validation images with labels, made ready when first used."""
        self.setup()
        return self._held(self._val)

    @cached_property
    def test_set(self) -> ImageSet | None:
        """Official test images with labels, made ready when first used; None if there are none."""
        self.setup()
        return None if self._test is None else self._held(self._test)

    @property
    def tested(self) -> ImageSet | None:
        """What students are tested on: the test images, else the validation images; None where there are neither."""
        return self.test_set or self.val_set or None

    @property
    def tested_on(self) -> str | None:
        """Which split these are of: ``test`` or ``validation``."""
        return "test" if self.test_set else "validation" if self.val_set else None

    def identity(self) -> dict[str, Any]:
        """What makes this source this source, for manifests: plain values."""
        self.setup()
        drawn = {"num_samples": len(self.train_set), "num_val": self.num_val, "image_size": self.image_size}
        source = {"name": self.name, "length": self.source_length, "seed": self.seed}
        shown = {} if self.teacher_size is None else {"teacher_size": self.teacher_size}
        return {**source, **drawn, "unlabelled": self.unlabelled, **shown}

    def candidate_pool(self, limit: int | None = None) -> Batch:
        """The training images, or ``limit`` of them drawn by seed, as one batch: uint8 pixels."""
        self.setup()
        positions = torch.arange(len(self.train_set))
        if limit is not None and limit < len(positions):
            generator = torch.Generator().manual_seed(self.seed + 1)
            positions = torch.randperm(len(positions), generator=generator)[:limit].sort().values
        return self.train_set.__getitems__(positions.tolist())

    def count_candidates(self, limit: int | None = None) -> int:
        """How many images :meth:`candidate_pool` has."""
        self.setup()
        return len(self.train_set) if limit is None else min(limit, len(self.train_set))

    def predict_indices(self) -> Tensor:
        """Source indices ``(N,)`` of what ``predict`` yields."""
        self.setup()
        return self.train_set.index

    def shuffled_loader(self, dataset: Dataset[Batch]) -> DataLoader[Batch]:
        """Batches in an order that depends on (seed, epoch) alone, also over processes: Lightning sets the epoch."""
        world, rank = self._place()
        sampler: DistributedSampler[Batch] = DistributedSampler(dataset, world, rank, seed=self.seed)
        # Lightning starts a resumed run's workers before it sets the epoch
        sampler.set_epoch(self.trainer.current_epoch if self.trainer else 0)
        if min(len(sampler), self.batch_size) < self.least_batch:
            got = f"{len(sampler)} in all, batch_size {self.batch_size}"
            raise ValueError(f"{self.name}: the network's batch normalisation needs two images in a batch, got {got}")
        options = {"drop_last": len(sampler) % self.batch_size == 1 < self.least_batch}
        kept = self.num_workers > 0
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler, persistent_workers=kept, **options)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training images, or those that the ``selector`` chooses."""
        self._look_before(self.train_set)
        return self.shuffled_loader(self.train_set if self.selector is None else self.selector())

    def shared_loader(self) -> DataLoader[Batch]:
        """Training images in order, in batches that processes share out: the same batches for any number of them."""
        self._look_before(self.train_set)
        world, rank = self._place()
        batches = torch.arange(len(self.train_set)).split(self.eval_batch_size)[rank::world]
        return self._loader(self.train_set, batch_sampler=[batch.tolist() for batch in batches])

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation images, labelled."""
        return self.ordered_loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Batch]:
        """What students are tested on; a ValueError where the data set has neither test nor validation images."""
        if self.tested is None:
            raise ValueError(f"{self.name} has no test images, and no validation images to test on instead")
        return self.ordered_loader(self.tested)

    def ordered_loader(self, dataset: Dataset[Batch], most: int | None = None) -> DataLoader[Batch]:
        """Batches in order, of ``most`` images; without augmentation; processes share the images out, each once."""
        sampler = each_once(cast(Sized, dataset), self.trainer)
        return self._loader(dataset, batch_size=min(self.eval_batch_size, most or sys.maxsize), sampler=sampler)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Training images in order, without augmentation; of larger ones for the teacher as many as memory holds."""
        self._look_before(self.train_set)
        views = self.train_set.views
        return self.ordered_loader(self.train_set, None if views is None else views.at_once(self.train_set.index))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Pixels to float32 in [0, 1], on the device; augmentation while training."""
        image = batch.image.float().div_(255) if batch.image.dtype == torch.uint8 else batch.image
        if self.augmentation is not None and self.trainer is not None and self.trainer.training:
            by_itself = getattr(self.augmentation, "per_image", False)
            groups = image.chunk(1 if by_itself else min(self.augmentation_groups, len(image)))
            image = torch.cat([self.augmentation(group) for group in groups]).clamp_(0, 1)
        return batch._replace(image=image)

    def resize(self, images: Tensor) -> Tensor:
        """uint8 images ``(N, C, H, W)`` at ``image_size``."""
        size = (self.image_size, self.image_size)
        if images.shape[-2:] == size:
            return images
        out = images.new_empty(*images.shape[:2], *size)
        for source, target in zip(images.split(_CHUNK), out.split(_CHUNK), strict=True):
            if len(source):
                target.copy_(tvf.resize(source, list(size), antialias=True))
        return out

    def _held(self, images: ImageSet) -> ImageSet:
        """The images at ``image_size``, in memory unless they are files and too many."""
        if isinstance(images, ImageTensorDataset):
            held = ImageTensorDataset(self.resize(images.images), images.index, images.labels)
            held.views = images.views or self._views_of(images)
            return held
        size = (len(images), self.channels, self.image_size, self.image_size)
        if not (math.prod(size) <= _MEMORY if self.in_memory is None else self.in_memory):
            return images
        pixels = torch.empty(size, dtype=torch.uint8)
        self._look_at(images, pixels)
        held = ImageTensorDataset(pixels, images.index, images.labels)
        held.views = images.views
        return held

    def _of_files(
        self, reader: Callable[[int | None], Callable[[int], Tensor]], *given: Any, **more: Any  # noqa: ANN401
    ) -> ImageFileDataset:  # fmt: skip
        """Images of files, which a ``reader`` decodes at a size, or at their own (None); with what a teacher sees."""
        found = ImageFileDataset(reader(self.image_size), *given, **more)
        size = self._shown_size
        if self.teacher_size is not None:
            found.views = Views(reader(size), None if size is None else (self.channels, size, size))
        return found

    def _views_of(self, images: ImageTensorDataset) -> Views | None:
        """What a teacher sees of images that are in memory at their native size."""
        if self.teacher_size is None or not self.has_originals:
            return None
        channels, *own = images.images.shape[1:]
        height, width = own if self._shown_size is None else 2 * (self._shown_size,)
        return Views(Resized(images.images, images.index, self._shown_size), (channels, height, width))

    @property
    def _shown_size(self) -> int | None:
        return None if self.teacher_size in (None, "original") else int(self.teacher_size)

    def _look_at(self, images: ImageSet, pixels: Tensor | None = None) -> None:
        """Decode all images, into ``pixels`` if they are kept; a ValueError names all that cannot be used."""
        faults, position = [], 0
        tried: Any = Tried(images)
        for chunk in self._loader(tried, batch_size=_CHUNK):
            for found in chunk:
                if isinstance(found, str):
                    faults.append(found)
                elif pixels is not None:
                    pixels[position].copy_(found)
                position += 1
        refuse(faults, len(images))

    def _look_before(self, images: ImageSet | None) -> None:
        """Find what cannot be used before anything is trained or paid for, not when it is reached."""
        if not isinstance(images, ImageFileDataset) or any(images is one for one in self._seen):
            return  # others were looked at when they were made
        if self.trainer is not None and self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if images.stamp is None:
            self._look_at(images)
        else:
            rows = hashlib.sha256(images.index.numpy().tobytes()).hexdigest()[:16]
            passed_once(f"{images.stamp()}-{rows}", partial(self._look_at, images))
        self._seen.append(images)

    def _place(self) -> tuple[int, int]:
        """Number of processes, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _loader(self, dataset: Dataset[Batch], **options: Any) -> DataLoader[Batch]:  # noqa: ANN401 - DataLoader's
        shared: dict[str, Any] = {"collate_fn": whole_batch, "num_workers": self.num_workers}
        return DataLoader(dataset, generator=self._generator(), **shared, **options)

    def _generator(self) -> torch.Generator:
        """One of its own, so that splitting and starting a loader leave the random state of the training alone."""
        return torch.Generator().manual_seed(self.seed)

    @staticmethod
    def _count(wanted: float, length: int, setting: str) -> int:
        number = round(wanted * length) if 0 < wanted < 1 else wanted
        if number != int(number):
            raise ValueError(f"{setting}={wanted}: expected a whole number of images, or a share below 1")
        if not 0 <= number < max(length, 1):
            raise ValueError(f"{setting}={wanted} of {length} training images leaves none to train on")
        return int(number)
