"""Real images: the embedded digits, torchvision's data sets, and any user's folder or zip of class folders."""

import gzip
import io
import shutil
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.base import (
    ImageDataModule,
    ImageFileDataset,
    ImageSet,
    ImageTensorDataset,
    Transform,
    tensor_set,
)

_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff"}


class DigitsDataModule(ImageDataModule):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, enlarged: the embedded default, nothing to download.

    397 of them, drawn by a constant seed, are the test images of everyone.
    """

    name, num_classes, channels, native_size = "digits", 10, 1, 32

    def load(self) -> tuple[ImageSet, None, ImageSet]:
        """The digits that ship with scikit-learn."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().mul(255 / 16).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1797))
        test, train = order[:397].sort().values, order[397:].sort().values
        images = self.resize(images)
        return tensor_set(images[train], labels[train]), None, tensor_set(images[test], labels[test])


class _TorchvisionDataModule(ImageDataModule):
    """A data set that torchvision can read and download."""

    reader: ClassVar[Callable[..., Any]]
    splits: ClassVar[tuple[dict[str, Any], ...]] = ({"train": True}, {"train": False})
    files: ClassVar[str]

    def prepare_data(self) -> None:
        """Download on one process, if asked to."""
        if self.download:
            for split in self.splits:
                type(self).reader(root=str(self.root), download=True, **split)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read by torchvision.

        Raises:
            FileNotFoundError: the files are not there; says which belong where.
        """
        train, test = (self._memory(self._read(split)) for split in (self.splits[0], self.splits[-1]))
        val = self._memory(self._read(self.splits[1])) if len(self.splits) == 3 else None
        return train, val, test

    def _read(self, split: dict[str, Any]) -> Any:  # noqa: ANN401 - a torchvision data set
        try:
            return type(self).reader(root=str(self.root), download=False, **split)
        except (RuntimeError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"{self.name} is not in '{self.root}': put {self.files} there, or set download: true to fetch it"
            ) from error

    def _memory(self, data: Any) -> ImageTensorDataset:  # noqa: ANN401
        """One uint8 tensor, from torchvision's array where it has one."""
        labels = getattr(data, "targets", None)
        labels = getattr(data, "labels", None) if labels is None else labels
        array = getattr(data, "data", None)
        if array is None:
            raise TypeError(f"{type(data).__name__} holds no array")
        images = torch.as_tensor(np.asarray(array))
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.permute(0, 3, 1, 2)
        return tensor_set(self.resize(images.contiguous()), torch.as_tensor(np.asarray(labels)))


class MNISTDataModule(_TorchvisionDataModule):
    """MNIST: 60,000 + 10,000 handwritten digits, 28 x 28. Packed ``.gz`` files are unpacked beside themselves."""

    name, num_classes, channels, native_size = "mnist", 10, 1, 28
    reader = datasets.MNIST
    files = "the four IDX files (packed or not) under MNIST/raw"

    def prepare_data(self) -> None:
        """Download if asked to; unpack what lies there packed."""
        super().prepare_data()
        raw = self.root / type(self).reader.__name__ / "raw"
        for packed in raw.glob("*-ubyte.gz"):
            unpacked = packed.with_suffix("")
            if not unpacked.exists():
                temporary = unpacked.with_suffix(".tmp")
                with gzip.open(packed) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target)
                temporary.replace(unpacked)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read by torchvision."""
        self.prepare_data()
        return super().load()


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28 x 28."""

    name = "fashion-mnist"
    reader = datasets.FashionMNIST
    files = "the four IDX files (packed or not) under FashionMNIST/raw"


class CIFAR10DataModule(_TorchvisionDataModule):
    """CIFAR-10: 50,000 + 10,000 colour pictures, 32 x 32."""

    name, num_classes, channels, native_size = "cifar10", 10, 3, 32
    reader = datasets.CIFAR10
    files = "the folder cifar-10-batches-py"


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: 50,000 + 10,000 colour pictures, 32 x 32."""

    name, num_classes = "cifar100", 100
    reader = datasets.CIFAR100
    files = "the folder cifar-100-python"


class SVHNDataModule(_TorchvisionDataModule):
    """SVHN: 73,257 + 26,032 house-number digits, 32 x 32."""

    name, num_classes, channels, native_size = "svhn", 10, 3, 32
    reader = datasets.SVHN
    splits = ({"split": "train"}, {"split": "test"})
    files = "train_32x32.mat and test_32x32.mat"

    def _memory(self, data: Any) -> ImageTensorDataset:  # noqa: ANN401
        images = torch.as_tensor(data.data)
        return tensor_set(self.resize(images), torch.as_tensor(np.asarray(data.labels)))


class Flowers102DataModule(_TorchvisionDataModule):
    """Flowers102: 1,020 + 1,020 + 6,149 photographs, resized and centre-cropped to 64 px by default."""

    name, num_classes, channels, native_size = "flowers102", 102, 3, 64
    reader = datasets.Flowers102
    splits = ({"split": "train"}, {"split": "val"}, {"split": "test"})
    files = "the folder flowers-102"

    def _memory(self, data: Any) -> ImageTensorDataset:  # noqa: ANN401
        images = torch.stack([_square(path.read_bytes(), str(path), self.image_size, 3) for path in data._image_files])
        return tensor_set(images, data._labels)


class ImageFolderDataModule(ImageDataModule):
    """Any folder of class folders, or a zip of one, such as ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.

    Images are resized at the short side and cropped at the centre.

    Args:
        root: the folder, or a ``.zip`` file.
        image_size: height and width.
        train: folder of the training images below the root.
        val: of the validation images; None to take them from the training part.
        test: of the test images; None if there are none.
        name: of the data set in tables; by default the folder's or the file's.
        channels: 3 for colour, 1 for grey.
        in_memory: hold all images as one tensor; None does so up to 1 GiB.
        batch_size: see :class:`ImageDataModule`, like all that follow.
        eval_batch_size: see there.
        num_samples: see there.
        num_val: see there.
        unlabelled: see there.
        augmentation: see there.
        augmentation_groups: see there.
        seed: see there.
        num_workers: see there.
    """

    native_size = 64

    def __init__(
        self,
        root: str,
        image_size: int,
        train: str = "train",
        val: str | None = None,
        test: str | None = "test",
        name: str | None = None,
        channels: int = 3,
        in_memory: bool | None = None,
        batch_size: int = 256,
        eval_batch_size: int = 1000,
        num_samples: int | None = None,
        num_val: int | float = 0.1,
        unlabelled: bool = False,
        augmentation: Transform | None = None,
        augmentation_groups: int = 16,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            root, False, batch_size, eval_batch_size, num_samples, num_val, unlabelled, image_size, augmentation,
            augmentation_groups, seed, num_workers,
        )  # fmt: skip
        self.folders = {"train": train, "val": val, "test": test}
        self.name, self.channels, self.in_memory = name or Path(root).stem, channels, in_memory
        self.files = _Files(self.root)
        self.class_names = self.files.classes(train)
        self.num_classes = len(self.class_names)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """List the files; decode them when they are wanted."""
        train, val, test = (self._split(self.folders[part]) for part in ("train", "val", "test"))
        assert train is not None
        return train, val, test

    def setup(self, stage: str | None = None) -> None:
        """Split the list of files, then decode what was drawn, if it fits into memory."""
        if self._ready:
            return
        super().setup(stage)
        for part in ("train_set", "val_set", "test_set"):
            images = getattr(self, part)
            if isinstance(images, ImageFileDataset) and self._fits(len(images)):
                decoded = torch.stack([images.read(int(index)) for index in images.index]) if len(images) else None
                if decoded is not None:
                    setattr(self, part, ImageTensorDataset(decoded, images.index, images.labels))

    def _fits(self, number: int) -> bool:
        size = number * self.channels * self.image_size**2
        return size <= 2**30 if self.in_memory is None else self.in_memory

    def _split(self, folder: str | None) -> ImageFileDataset | None:
        if folder is None:
            return None
        listed = self.files.images(folder, self.class_names)
        names = [name for name, _ in listed]
        labels = torch.tensor([label for _, label in listed], dtype=torch.int64)
        read = partial(_read_named, self.files, names, self.image_size, self.channels)
        return ImageFileDataset(read, torch.arange(len(names)), labels)


class TinyImageNetDataModule(ImageFolderDataModule):
    """Tiny ImageNet as it is distributed: ``train/<wnid>/images``, ``val/images`` with ``val_annotations.txt``.

    Its labelled validation images are the test images.
    """

    def __init__(self, root: str, image_size: int = 64, **options: Any) -> None:  # noqa: ANN401 - the base's
        super().__init__(root, image_size, "train", None, "val", "tiny-imagenet", **options)


class CINIC10DataModule(ImageFolderDataModule):
    """CINIC-10: ``train``, ``valid`` and ``test``, 90,000 images each, 32 x 32."""

    def __init__(self, root: str, image_size: int = 32, **options: Any) -> None:  # noqa: ANN401
        super().__init__(root, image_size, "train", "valid", "test", "cinic10", **options)


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet-1K as class folders under ``train`` and ``val``; the latter are the test images."""

    def __init__(self, root: str, image_size: int = 224, **options: Any) -> None:  # noqa: ANN401
        super().__init__(root, image_size, "train", None, "val", "imagenet", **options)


class _Files:
    """Names and bytes of a folder or of a zip file; a zip is opened once per process and thread."""

    def __init__(self, root: Path) -> None:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist: expected a folder of class folders, or a zip of one")
        self.root, self.zipped = root, root.is_file()
        if self.zipped and not zipfile.is_zipfile(root):
            raise ValueError(f"{root} is a file but no zip: expected a folder of class folders, or a zip of one")
        self._open = threading.local()
        if self.zipped:
            with zipfile.ZipFile(root) as archive:
                names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        else:
            names = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()]
        self.names = sorted(names)

    def classes(self, folder: str) -> list[str]:
        """Class folders of a split, sorted: their position is the class index."""
        found = sorted({name.split("/")[1] for name in self._below(folder) if name.count("/") >= 2})
        if not found:
            raise FileNotFoundError(f"{self.root} has no class folders with images under '{folder}'")
        return found

    def images(self, folder: str, classes: list[str]) -> list[tuple[str, int]]:
        """(name, class index) of every image of a split, sorted by name."""
        position = {name: number for number, name in enumerate(classes)}
        annotations = f"{folder}/val_annotations.txt"
        if annotations in self.names:
            rows = [line.split("\t") for line in self.read(annotations).decode().splitlines() if line]
            return sorted((f"{folder}/images/{row[0]}", position[row[1]]) for row in rows)
        listed = [(name, name.split("/")[1]) for name in self._below(folder)]
        unknown = {label for _, label in listed} - set(position)
        if unknown:
            raise ValueError(f"{self.root}/{folder} has classes that the training images lack: {sorted(unknown)[:5]}")
        return [(name, position[label]) for name, label in listed]

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        if not self.zipped:
            return (self.root / name).read_bytes()
        archive = getattr(self._open, "archive", None)
        if archive is None:
            archive = self._open.archive = zipfile.ZipFile(self.root)
        content: bytes = archive.read(name)
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = threading.local()

    def _below(self, folder: str) -> list[str]:
        return [name for name in self.names if name.startswith(f"{folder}/") and Path(name).suffix.lower() in _SUFFIXES]


def _read_named(files: _Files, names: list[str], size: int, channels: int, index: int) -> Tensor:
    return _square(files.read(names[index]), f"{files.root}/{names[index]}", size, channels)


def _square(content: bytes, name: str, size: int, channels: int) -> Tensor:
    """Decode to uint8 ``(C, size, size)``: short side resized, centre cropped."""
    try:
        picture = Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name} cannot be decoded as an image ({error}); repair or remove it") from error
    image = torch.from_numpy(np.array(picture)).view(picture.height, picture.width, channels).permute(2, 0, 1)
    if image.shape[1:] != (size, size):
        image = tvf.center_crop(tvf.resize(image, [size], antialias=True), [size, size])
    return image.contiguous()
