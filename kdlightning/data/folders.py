"""Any user's folder or zip of class folders, and the data sets that are distributed as one."""

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from kdlightning.data.archives import Archive, UnreadableError, printable, read_file, read_lines, size_and_time
from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.classes import listed, sorted_otherwise
from kdlightning.data.content import Content, counted, digest, is_nobodys, sort_out, walk
from kdlightning.data.decoding import check_channels, decode_or_name, is_image
from kdlightning.data.sets import ImageFileDataset, ImageSet

_log = logging.getLogger(__name__)


class ImageFolderDataModule(ImageDataModule):
    """Any folder of class folders, or a zip of one, such as ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.

    Images are resized at the short side and cropped at the centre. An image's index is its position among the training
    images sorted by name; the classes are the folders of the training images, sorted as text as torchvision does, or as
    ``classes`` says. Only images that are drawn are decoded. Of a folder that has class folders only, ``train: "."``
    takes them, and ``num_test`` the test images.

    What Pillow decodes is an image, whatever its suffix; names that begin with a dot, ``__MACOSX`` and ``Thumbs.db``
    are no content. What else is passed over is told. ``fit`` looks at all images first, also those to test on.

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
        classes: the K classes in the order in which the teacher numbers them, or a text file with a name in every line.
            Of a class there need be no image, of an image there has to be its class.
        in_memory: hold the images as one tensor; None does so up to 1 GiB.
        options: see :class:`ImageDataModule`; there is no ``download``.

    Raises:
        FileNotFoundError: the root or the training images do not exist, or, once set up, the others.
        ValueError: the root is a file but no zip; test images from two places; or ``classes`` that are not the
            images' own. Once set up: images that cannot be used, each with the reason.
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
        classes: list[str] | str | None = None,
        in_memory: bool | None = None,
        **options: Options,
    ) -> None:
        super().__init__(root, False, image_size=image_size, **options)
        self.train, self.held_out = train, {"val": val, "test": test}
        if test is not None and num_test:
            raise ValueError(f"num_test={num_test} takes test images from the training images: set test: null")
        self.channels, self.in_memory = check_channels(channels), in_memory
        self.num_test, self.labelled = num_test, num_classes is None
        self.name = name or self.root.absolute().name.removesuffix(".zip")
        self.files = _Files(self.root, train)
        named = listed(classes)
        if num_classes is None:
            found = self.files.classes(train)
            self.ordered = named is not None
            self.class_names = found if named is None else named
            if lacking := sorted(set(found) - set(self.class_names)):
                raise ValueError(f"classes: {self.root} has images of others, too: {lacking[:5]}")
        else:
            self.class_names = [str(k) for k in range(num_classes)] if named is None else named
            if len(self.class_names) != num_classes:
                raise ValueError(f"classes: expected num_classes={num_classes} names, got {len(self.class_names)}")
        self.num_classes = len(self.class_names)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet | None]:
        """List the files, decoded when they are wanted; a ValueError where a split has a class that training lacks."""
        val, test = (self._split(part, folder) if folder else None for part, folder in self.held_out.items())
        train = self._split("train", self.train)
        if self.num_test:
            number = self._count(self.num_test, len(train), "num_test")
            order = train.order(self.seed + 2)
            test, train = (train.take(part.sort().values) for part in (order[:number], order[number:]))
        if self.labelled and not self.ordered and sorted_otherwise(self.class_names):
            first = ", ".join(self.class_names[:4])
            todo = "if the teacher numbers them otherwise, give classes"
            _log.warning("%s: classes are sorted as text, as by torchvision: %s, ...; %s", self.name, first, todo)
        return train, val, test

    def identity(self) -> dict[str, Any]:
        """Adds the training images' channels, classes and files, by names, sizes and some of their bytes."""
        names = [name for name, _ in self.files.images(self.train, self.class_names if self.labelled else None)]
        classes = hashlib.sha256("\n".join(self.class_names).encode()).hexdigest()[:16]
        return {**super().identity(), "channels": self.channels, "classes": classes, "files": self.files.digest(names)}

    def _split(self, part: str, folder: str) -> ImageFileDataset:
        found = self.files.images(folder, self.class_names if self.labelled else None)
        self.files.tell(folder, self.labelled)
        if not found:
            raise FileNotFoundError(f"{self.root} has no images under '{folder}'; set {part}: null if there are none")
        names, labels = zip(*found, strict=True)

        def reader(size: int | None) -> Callable[[int], Tensor]:
            return partial(self.files.image, names, size, self.channels)

        given = torch.tensor(labels) if self.labelled else None
        return self._of_files(reader, torch.arange(len(names)), given, partial(self.files.stamp, names), names)


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
        self.root, self.archive = root, Archive(root) if root.is_file() else None
        self.members: dict[str, int] = {}
        self.around = ""
        self._below: dict[str, Content] = {}
        if self.archive is None:
            return
        if not zipfile.is_zipfile(root):
            raise ValueError(f"{root} is a file but no zip, or one that is cut off: {expected}")
        if self.archive.fault:
            raise ValueError(f"{root} cannot be read as a zip ({self.archive.fault}): fetch it again")
        sizes = self.archive.sizes()
        tops = {name.partition("/")[0] for name in sizes if not is_nobodys(name.partition("/")[0])}
        one_class = train == "." and any(name.count("/") == 1 for name in sort_out(sizes).images)
        if len(tops) == 1 and train.partition("/")[0] not in tops and not one_class:
            self.around = f"{tops.pop()}/"
        self.members = {name.removeprefix(self.around): size for name, size in sizes.items() if name[-1] != "/"}

    def classes(self, folder: str) -> list[str]:
        """Folders below ``folder`` that hold images, sorted: their position is the class index."""
        found = {label for _, label in self._labelled(folder)}
        if not found:
            flat = len(self.content(folder).images)
            more = f"; {flat} lie in none: sort them, or give num_classes if they have no labels" if flat else ""
            raise FileNotFoundError(f"{self.root} has no class folders with images under '{folder}'{more}")
        return sorted(found)

    def images(self, folder: str, classes: Sequence[str] | None) -> list[tuple[str, int]]:
        """(name, class index) of every image of a split, sorted by name; -1 for all if there are no classes."""
        if classes is None:
            return [(name, -1) for name in self.content(folder).images]
        position, listed = {name: number for number, name in enumerate(classes)}, self._labelled(folder)
        flat = len(self.content(folder).images)
        if flat and not listed:
            todo = "sort them into folders named like the classes, or leave this part out"
            raise ValueError(f"{self.root}/{folder} has {flat} images and none of them in a class folder: {todo}")
        unknown = {label for _, label in listed} - set(position)
        if unknown:
            raise ValueError(f"{self.root}/{folder} has classes that the training images lack: {sorted(unknown)[:5]}")
        return [(name, position[label]) for name, label in listed]

    def tell(self, folder: str, labelled: bool) -> None:
        """Say what below a folder is passed over, and which class folders hold no image."""
        content, place = self.content(folder), self.root / folder
        if content.beside or content.unknown:
            level = logging.WARNING if content.unknown else logging.INFO  # captions are nothing to act on
            _log.log(level, "%s: passed over, no images: %s", place, counted([*content.unknown, *content.beside]))
        if not labelled:
            return
        labels = dict(self._labelled(folder))
        if stray := len(content.images) - len(labels):
            _log.warning("%s: passed over, in no class folder: %s images", place, stray)
        others = (name.removeprefix(_prefix(folder)) for name in (*content.unknown, *content.beside))
        if empty := {name.partition("/")[0] for name in others if "/" in name} - set(labels.values()):
            _log.warning("%s: folders without an image are no classes: %s", place, ", ".join(sorted(empty)[:5]))

    def image(self, names: Sequence[str], size: int | None, channels: int, index: int) -> Tensor:
        """One of the images; partially applied, it travels to workers."""
        name = names[index]
        return decode_or_name(f"{self.root}/{name}", lambda: self.read(name), size, channels)

    def read(self, name: str) -> bytes:
        """The bytes of one file; an UnreadableError where it cannot be read."""
        return self.archive.read(self.around + name) if self.archive else read_file(self.root / name)

    def digest(self, names: Sequence[str]) -> str:
        """What these files are, wherever they lie."""
        sizes = self.members if self.archive else {name: size_and_time(self.root / name)[0] for name in names}
        return digest({name: sizes[name] for name in names}, self._head)

    def stamp(self, names: Sequence[str]) -> str:
        """The state of these files: another one once one of them is written or moved."""
        files = (self.root,) if self.archive else (self.root / name for name in names)
        told = [(str(path), size_and_time(path)) for path in files]
        return hashlib.sha256(repr((told, self.digest(names))).encode()).hexdigest()[:16]

    def content(self, folder: str) -> Content:
        """What lies below a folder of a split: images by name or, looked at, by their beginning."""
        if folder not in self._below:
            prefix = _prefix(folder)
            if self.archive:
                names = sorted(name.removeprefix(prefix) for name in self.members if name.startswith(prefix))
            else:
                names = walk(self.root / folder) if (self.root / folder).is_dir() else []
            found = Content(*([f"{prefix}{name}" for name in kind] for kind in sort_out(names)))
            seen = {name for name in found.unknown if self._is_image(name)}
            rest = [name for name in found.unknown if name not in seen]
            self._below[folder] = Content(sorted([*found.images, *seen]), rest, found.beside)
        return self._below[folder]

    def _labelled(self, folder: str) -> list[tuple[str, str]]:
        """(name, class) of the images of a split that have a class."""
        images, inside = self.content(folder).images, f"{_prefix(folder)}images/"
        annotations = f"{_prefix(folder)}val_annotations.txt"  # Tiny ImageNet's, unless someone has sorted its images
        if annotations in self.content(folder).beside and any(name.startswith(inside) for name in images):
            rows = [line.split("\t") for line in read_lines(self.read(annotations))]
            listed = sorted((inside + row[0], row[1]) for row in rows if len(row) > 1)
            if absent := sorted({name for name, _ in listed} - set(images)):
                raise ValueError(f"{self.root}/{annotations} lists {len(absent)} absent images, first {absent[0]}")
            return listed
        parts = ((name, name.removeprefix(_prefix(folder)).partition("/")) for name in images)
        return [(name, printable(label)) for name, (label, below, _) in parts if below]

    def _is_image(self, name: str) -> bool:
        with suppress(OSError, UnreadableError), self._open(name) as file:
            return is_image(file)
        return False

    def _head(self, name: str, number: int) -> bytes:
        with suppress(OSError, UnreadableError), self._open(name) as file:
            return file.read(number)
        return b""

    def _open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        if self.archive:
            return self.archive.open(self.around + name)
        path = self.root / name
        return path.open("rb") if path.is_file() else nullcontext(io.BytesIO())


def _prefix(folder: str) -> str:
    return "" if folder == "." else f"{folder}/"
