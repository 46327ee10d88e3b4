"""Real images: the embedded digits, torchvision's data sets, and any user's folder or zip of class folders."""

import gzip
import io
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.base import (
    ImageDataModule,
    ImageFileDataset,
    ImageSet,
    Transform,
    tensor_set,
)

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff")


class DigitsDataModule(ImageDataModule):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, enlarged: the embedded default, nothing to download.

    397 of them, drawn by a constant seed, are the test images of everyone; the other 1,400 are the training part.
    """

    name, num_classes, channels, native_size = "digits", 10, 1, 32
    default_num_val = 100

    def load(self) -> tuple[ImageSet, None, ImageSet]:
        """The digits that ship with scikit-learn."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().mul(255 / 16).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).long()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1797))
        test, train = order[:397].sort().values, order[397:].sort().values
        return tensor_set(images[train], labels[train]), None, tensor_set(images[test], labels[test])


class _TorchvisionDataModule(ImageDataModule):
    """A data set that torchvision can read and download."""

    reader: ClassVar[Callable[..., Any]]
    reader_options: ClassVar[dict[str, Any]] = {}
    splits: ClassVar[tuple[dict[str, Any], ...]] = ({"train": True}, {"train": False})
    files: ClassVar[str]

    def prepare_data(self) -> None:
        """Download on one process, if asked to."""
        if self.download:
            for split in self.splits:
                type(self).reader(root=str(self.root), download=True, **split, **self.reader_options)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read by torchvision.

        Raises:
            FileNotFoundError: the files are not there, or damaged; says which belong where.
        """
        if self.download and self.trainer is None:  # nobody else calls it
            self.prepare_data()
        return self._load(self.root)

    def _load(self, root: Path) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        parts = []
        for split in self.splits:
            try:
                parts.append(type(self).reader(root=str(root), download=False, **split, **self.reader_options))
            except (RuntimeError, FileNotFoundError) as error:
                raise FileNotFoundError(
                    f"{self.name} is not in '{self.root}', or is damaged ({error}): put {self.files} there, or set "
                    "download: true to fetch it"
                ) from error
        # torchvision writes MNIST's names as "0 - zero"
        self.class_names = [str(name).partition(" - ")[0] for name in getattr(parts[0], "classes", self.class_names)]
        train, *val, test = (self._images(part) for part in parts)
        return train, val[0] if val else None, test

    def _images(self, data: Any) -> ImageSet:  # noqa: ANN401 - a torchvision data set
        """One uint8 tensor of torchvision's array ``(N, H, W)`` or ``(N, H, W, C)``."""
        images = torch.as_tensor(data.data)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return tensor_set(images.contiguous(), torch.as_tensor(data.targets))


class MNISTDataModule(_TorchvisionDataModule):
    """MNIST: 60,000 + 10,000 handwritten digits, 28 x 28.

    Packed ``.gz`` files are unpacked beside themselves, or for the time of reading in a temporary folder where theirs
    is read-only.
    """

    name, num_classes, channels, native_size = "mnist", 10, 1, 28
    reader = datasets.MNIST
    files = "the four IDX files (packed or not) under MNIST/raw"

    def prepare_data(self) -> None:
        """Download if asked to; unpack what lies there packed, if that may be written beside it."""
        super().prepare_data()
        raw = self._raw(self.root)
        if raw.is_dir() and _may_write(raw):
            _unpack(raw, raw)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read by torchvision.

        Raises:
            FileNotFoundError: the files are not there; says which belong where.
            ValueError: a packed file is damaged.
        """
        raw = self._raw(self.root)
        if _may_write(raw) or all(packed.with_suffix("").exists() for packed in raw.glob("*-ubyte.gz")):
            _unpack(raw, raw)
            return super().load()
        with tempfile.TemporaryDirectory() as folder:
            _unpack(raw, self._raw(Path(folder)))
            return self._load(Path(folder))

    def _raw(self, root: Path) -> Path:
        return root.joinpath(type(self).reader.__name__, "raw")


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

    def _images(self, data: Any) -> ImageSet:  # noqa: ANN401 - a torchvision data set
        return tensor_set(torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels))


class Flowers102DataModule(_TorchvisionDataModule):
    """Flowers102 with its official splits: 1,020 for training, 1,020 for validation, 6,149 for test.

    The photographs are some 500 x 700 pixels; they are resized at the short side and cropped at the centre, to 64
    pixels by default: enough to tell flowers apart, and 8,189 of them are 100 MB.
    """

    name, num_classes, channels, native_size = "flowers102", 102, 3, 64
    reader = datasets.Flowers102
    reader_options: ClassVar[dict[str, Any]] = {"loader": Path}  # paths, not pictures: decoded when drawn
    splits = ({"split": "train"}, {"split": "val"}, {"split": "test"})
    files = "the folder flowers-102"

    def _images(self, data: Any) -> ImageSet:  # noqa: ANN401 - a torchvision data set
        paths, labels = zip(*(data[position] for position in range(len(data))), strict=True)
        read = partial(read_path, paths, self.image_size)
        return ImageFileDataset(read, torch.arange(len(paths)), torch.tensor(labels))


class ImageFolderDataModule(ImageDataModule):
    """Any folder of class folders, or a zip of one, such as ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.

    Images are resized at the short side and cropped at the centre. An image's index is its position among the training
    images sorted by name; the classes are the folders of the training images, sorted. Only images that are drawn are
    decoded.

    Args:
        root: the folder, or a ``.zip`` file (read as it is; one folder around everything is looked through).
        image_size: height and width.
        train: folder of the training images below the root.
        val: of the validation images; None to take them from the training part.
        test: of the test images; None if there are none.
        name: of the data set in tables; by default the folder's or the file's.
        channels: 3 for colour, 1 for grey.
        in_memory: hold the images as one tensor; None does so up to 1 GiB.
        batch_size: see :class:`ImageDataModule`, like all that follow.
        eval_batch_size: see there.
        num_samples: see there.
        num_val: see there.
        unlabelled: see there.
        augmentation: see there.
        augmentation_groups: see there.
        seed: see there.
        num_workers: see there.

    Raises:
        FileNotFoundError: the root or the training images do not exist, or, once set up, the others.
        ValueError: the root is a file but no zip.
    """

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
        num_val: int | float | None = None,
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
        self.train, self.held_out = train, {"val": val, "test": test}
        self.channels, self.in_memory = channels, in_memory
        self.name = name or self.root.absolute().name.removesuffix(".zip")
        self.files = _Files(self.root, train)
        self.class_names = self.files.classes(train)
        self.num_classes = len(self.class_names)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """List the files; they are decoded when they are wanted.

        Raises:
            FileNotFoundError: a split has no images.
            ValueError: a split has a class that the training images lack.
        """
        val, test = (self._split(part, folder) if folder else None for part, folder in self.held_out.items())
        return self._split("train", self.train), val, test

    def _split(self, part: str, folder: str) -> ImageFileDataset:
        listed = self.files.images(folder, self.class_names)
        if not listed:
            raise FileNotFoundError(f"{self.root} has no images under '{folder}'; set {part}: null if there are none")
        names, labels = zip(*listed, strict=True)
        read = partial(_read_member, self.files, names, self.image_size, self.channels)
        return ImageFileDataset(read, torch.arange(len(names)), torch.tensor(labels))


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
    """Names and bytes below a folder, or in a zip file, which every process opens for itself."""

    def __init__(self, root: Path, train: str) -> None:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist: expected a folder of class folders, or a zip of one")
        self.root, self.zipped = root, root.is_file()
        if self.zipped and not zipfile.is_zipfile(root):
            raise ValueError(f"{root} is a file but no zip: expected a folder of class folders, or a zip of one")
        self._archive: zipfile.ZipFile | None = None
        self._process = 0
        self.members: list[str] = []
        self.around = ""
        if self.zipped:
            members = [name for name in self._opened().namelist() if not name.startswith("__MACOSX/")]
            tops = {name.partition("/")[0] for name in members}
            self.around = f"{tops.pop()}/" if len(tops) == 1 and train.partition("/")[0] not in tops else ""
            self.members = sorted(name.removeprefix(self.around) for name in members)

    def classes(self, folder: str) -> list[str]:
        """Folders below ``folder`` that hold images, sorted: their position is the class index."""
        if self.zipped:
            inside = [name.removeprefix(f"{folder}/") for name in self._below(folder)]
            found = {name.partition("/")[0] for name in inside if "/" in name}
        else:
            below = self.root / folder
            inside = [entry.name for entry in below.iterdir() if entry.is_dir()] if below.is_dir() else []
            found = {name for name in inside if next(self._walk(f"{folder}/{name}"), None)}
        if not found:
            raise FileNotFoundError(f"{self.root} has no class folders with images under '{folder}'")
        return sorted(found)

    def images(self, folder: str, classes: list[str]) -> list[tuple[str, int]]:
        """(name, class index) of every image of a split, sorted by name."""
        position = {name: number for number, name in enumerate(classes)}
        annotations = f"{folder}/val_annotations.txt"  # Tiny ImageNet's
        if annotations in self.members or (self.root / annotations).is_file():
            rows = [line.split("\t") for line in self.read(annotations).decode().splitlines() if line]
            listed = sorted((f"{folder}/images/{row[0]}", row[1]) for row in rows)
        else:
            listed = [(name, name.removeprefix(f"{folder}/").partition("/")[0]) for name in self._below(folder)]
        unknown = {label for _, label in listed} - set(position)
        if unknown:
            raise ValueError(f"{self.root}/{folder} has classes that the training images lack: {sorted(unknown)[:5]}")
        return [(name, position[label]) for name, label in listed]

    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            ValueError: it is damaged in the zip.
        """
        if not self.zipped:
            return (self.root / name).read_bytes()
        try:
            content: bytes = self._opened().read(self.around + name)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.root}/{name} is damaged ({error}); repair or remove it") from error
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    def _opened(self) -> zipfile.ZipFile:
        # a handle that a worker inherits by fork shares its position in the file with every other worker's
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.root), os.getpid()
        return self._archive

    def _below(self, folder: str) -> list[str]:
        """Images of a split, sorted."""
        if not self.zipped:
            return sorted(self._walk(folder))
        return [name for name in self.members if name.startswith(f"{folder}/") and name.lower().endswith(_SUFFIXES)]

    def _walk(self, folder: str) -> Iterator[str]:
        for path, _, files in os.walk(self.root / folder, followlinks=True):
            below = Path(path).relative_to(self.root).as_posix()
            yield from (f"{below}/{file}" for file in files if file.lower().endswith(_SUFFIXES))


def _may_write(folder: Path) -> bool:
    # the mode counts for root as well: a folder that someone marked read-only stays as it is
    return folder.is_dir() and os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def _unpack(raw: Path, target: Path) -> None:
    for packed in raw.glob("*-ubyte.gz"):
        if (target / packed.stem).exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        temporary = target / f"{packed.stem}.{os.getpid()}.tmp"
        try:
            with gzip.open(packed) as source, temporary.open("wb") as unpacked:
                shutil.copyfileobj(source, unpacked)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            temporary.unlink()
            raise ValueError(f"{packed} is damaged ({error}); fetch it again") from error
        temporary.replace(target / packed.stem)


def read_path(paths: Sequence[Path], size: int, index: int) -> Tensor:
    """One of some files as a colour image ``(3, size, size)``, uint8; partially applied, it travels to workers."""
    return _square(paths[index].read_bytes(), str(paths[index]), size, 3)


def _read_member(files: _Files, names: Sequence[str], size: int, channels: int, index: int) -> Tensor:
    return _square(files.read(names[index]), f"{files.root}/{names[index]}", size, channels)


def _square(content: bytes, name: str, size: int, channels: int) -> Tensor:
    """Decode to uint8 ``(C, size, size)``: short side resized, centre cropped."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            picture = file.convert("RGB" if channels == 3 else "L")
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for damaged files
        raise ValueError(f"{name} cannot be decoded as an image ({error}); repair or remove it") from error
    image = torch.from_numpy(np.array(picture)).view(picture.height, picture.width, channels).permute(2, 0, 1)
    if image.shape[1:] != (size, size):
        image = tvf.center_crop(tvf.resize(image, [size], antialias=True), [size, size])
    return image.contiguous()
