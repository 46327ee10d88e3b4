"""Any user's folder or zip of class folders, and the data sets that are distributed as one."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.decoding import Archive, decode_or_raise
from kdlightning.data.sets import ImageFileDataset, ImageSet

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff")


class ImageFolderDataModule(ImageDataModule):
    """Any folder of class folders, or a zip of one, such as ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.

    Images are resized at the short side and cropped at the centre. An image's index is its position among the training
    images sorted by name; the classes are the folders of the training images, sorted. Only images that are drawn are
    decoded. Of a folder that has class folders only, ``train: "."`` takes them, and ``num_test`` the test images.

    Args:
        root: the folder, or a ``.zip`` file (read as it is; one folder around everything is looked through).
        image_size: height and width.
        train: folder of the training images below the root.
        val: of the validation images; None to take them from the training part.
        test: of the test images; None if there are none.
        name: of the data set in tables; by default the folder's or the file's.
        channels: 3 for colour, 1 for grey.
        num_test: test images taken from the training images by ``seed``, a number or a share, where ``test`` is None.
        num_classes: K of images without labels: folders are no classes then, and no part has labels.
        in_memory: hold the images as one tensor; None does so up to 1 GiB.
        options: see :class:`ImageDataModule`; there is no ``download``.

    Raises:
        FileNotFoundError: the root or the training images do not exist, or, once set up, the others.
        ValueError: the root is a file but no zip; or test images from two places.
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
        num_test: int | float = 0,
        num_classes: int | None = None,
        in_memory: bool | None = None,
        **options: Options,
    ) -> None:
        super().__init__(root, False, image_size=image_size, **options)
        self.train, self.held_out = train, {"val": val, "test": test}
        if test is not None and num_test:
            raise ValueError(f"num_test={num_test} takes test images from the training images: set test: null")
        self.channels, self.in_memory, self.num_test, self.labelled = channels, in_memory, num_test, num_classes is None
        self.name = name or self.root.absolute().name.removesuffix(".zip")
        self.files = _Files(self.root, train)
        self.class_names = self.files.classes(train) if num_classes is None else [str(k) for k in range(num_classes)]
        self.num_classes = len(self.class_names)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """List the files, decoded when they are wanted; a ValueError where a split has a class that training lacks."""
        val, test = (self._split(part, folder) if folder else None for part, folder in self.held_out.items())
        train = self._split("train", self.train)
        if self.num_test:
            number = self._count(self.num_test, len(train), "num_test")
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed + 2))
            test, train = (train.take(part.sort().values) for part in (order[:number], order[number:]))
        return train, val, test

    def _split(self, part: str, folder: str) -> ImageFileDataset:
        listed = self.files.images(folder, self.class_names if self.labelled else None)
        if not listed:
            raise FileNotFoundError(f"{self.root} has no images under '{folder}'; set {part}: null if there are none")
        names, labels = zip(*listed, strict=True)
        read = partial(self.files.image, names, self.image_size, self.channels)
        return ImageFileDataset(read, torch.arange(len(names)), torch.tensor(labels) if self.labelled else None)


class TinyImageNetDataModule(ImageFolderDataModule):
    """Tiny ImageNet as it is distributed: ``train/<wnid>/images``, ``val/images`` with ``val_annotations.txt``.

    Its labelled validation images are the test images.
    """

    def __init__(self, root: str, image_size: int = 64, **options: Options) -> None:
        super().__init__(root, image_size, "train", None, "val", "tiny-imagenet", **options)


class CINIC10DataModule(ImageFolderDataModule):
    """CINIC-10: ``train``, ``valid`` and ``test``, 90,000 images each, 32 x 32."""

    def __init__(self, root: str, image_size: int = 32, **options: Options) -> None:
        super().__init__(root, image_size, "train", "valid", "test", "cinic10", **options)


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet-1K as class folders under ``train`` and ``val``; the latter are the test images."""

    def __init__(self, root: str, image_size: int = 224, **options: Options) -> None:
        super().__init__(root, image_size, "train", None, "val", "imagenet", **options)


class _Files:
    """Names and bytes below a folder, or in a zip file."""

    def __init__(self, root: Path, train: str) -> None:
        expected = "expected a folder of class folders, or a zip of one"
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist: {expected}")
        self.root, self.zipped = root, root.is_file()
        if self.zipped and not zipfile.is_zipfile(root):
            raise ValueError(f"{root} is a file but no zip: {expected}")
        self._archive = Archive(root)
        self.members: list[str] = []
        self._walked: dict[str, list[str]] = {}
        self.around = ""
        if self.zipped:
            members = [name for name in self._archive.members() if not name.startswith("__MACOSX/")]
            tops = {name.partition("/")[0] for name in members}
            self.around = f"{tops.pop()}/" if len(tops) == 1 and train.partition("/")[0] not in tops else ""
            self.members = sorted(name.removeprefix(self.around) for name in members)

    def classes(self, folder: str) -> list[str]:
        """Folders below ``folder`` that hold images, sorted: their position is the class index."""
        inside = (name.removeprefix(_prefix(folder)) for name in self._below(folder))
        found = {name.partition("/")[0] for name in inside if "/" in name}
        if not found:
            raise FileNotFoundError(f"{self.root} has no class folders with images under '{folder}'")
        return sorted(found)

    def images(self, folder: str, classes: list[str] | None) -> list[tuple[str, int]]:
        """(name, class index) of every image of a split, sorted by name; -1 for all if there are no classes."""
        if classes is None:
            return [(name, -1) for name in self._below(folder)]
        position = {name: number for number, name in enumerate(classes)}
        annotations = f"{folder}/val_annotations.txt"  # Tiny ImageNet's
        if annotations in self.members or (self.root / annotations).is_file():
            rows = [line.split("\t") for line in self.read(annotations).decode().splitlines() if line]
            listed = sorted((f"{folder}/images/{row[0]}", row[1]) for row in rows)
        else:
            listed = [(name, name.removeprefix(_prefix(folder)).partition("/")[0]) for name in self._below(folder)]
        unknown = {label for _, label in listed} - set(position)
        if unknown:
            raise ValueError(f"{self.root}/{folder} has classes that the training images lack: {sorted(unknown)[:5]}")
        return [(name, position[label]) for name, label in listed]

    def image(self, names: Sequence[str], size: int, channels: int, index: int) -> Tensor:
        """One of the images; partially applied, it travels to workers."""
        return decode_or_raise(self.read(names[index]), f"{self.root}/{names[index]}", size, channels)

    def read(self, name: str) -> bytes:
        """The bytes of one file; a ValueError if it is damaged in the zip."""
        if not self.zipped:
            return (self.root / name).read_bytes()
        try:
            return self._archive.read(self.around + name)
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.root}/{name} is damaged ({error}); repair or remove it") from error

    def _below(self, folder: str) -> list[str]:
        """Images of a split, sorted; a folder is walked through once."""
        if not self.zipped and folder not in self._walked:
            walk = os.walk(self.root / folder, followlinks=True)
            below = ((Path(path).relative_to(self.root).as_posix(), files) for path, _, files in walk)
            self._walked[folder] = sorted(
                f"{path}/{file}".removeprefix("./") for path, files in below for file in files
            )
        names = self.members if self.zipped else self._walked[folder]
        return [name for name in names if name.startswith(_prefix(folder)) and name.lower().endswith(_SUFFIXES)]


def _prefix(folder: str) -> str:
    return "" if folder == "." else f"{folder}/"
