"""Images from the web: any folder, list, zip or tar shards, of any size and quality, unlabelled, decoded once."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.archives import (
    ARCHIVES,
    Archive,
    UnreadableError,
    printable,
    read_file,
    read_lines,
    size_and_time,
)
from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.cached import kept
from kdlightning.data.collected import CollectedDataModule
from kdlightning.data.content import counted, digest, sort_out, walk
from kdlightning.data.decoding import decode
from kdlightning.data.sets import ImageTensorDataset
from kdlightning.data.views import Views

_CHUNK = 64
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_DECODER = 2  # the decoded pools of other versions have other images

_log = logging.getLogger(__name__)


class Unusable(NamedTuple):
    """A file that is no image to train on: its name, with its archive, and why not.

    Reasons are ``duplicate``, those of :func:`kdlightning.data.decoding.decode`, and what is wrong with an archive.
    """

    name: str
    reason: str


class WebDataModule(CollectedDataModule):
    """A pool of unlabelled images that someone has collected; validation and test images are the source's.

    Files are decoded once, in the loader's workers, to a uint8 array on disk, so that the next start is immediate; the
    array belongs to the files' names, sizes and times. What cannot be used is skipped and listed in ``unusable.json``
    beside it: files that are no image, broken or cut off, animated, encrypted, or larger than ``max_pixels``. Captions,
    labels and features beside the images, and names that begin with a dot, are no files of the pool.

    Args:
        source: the task's data set: classes, sizes of the images (``teacher_size``, too), batch size, augmentation,
            validation and test images. Its training images are never used.
        root: a folder (all files below it, archives among them), a zip, a tar (also WebDataset's shards), or a text
            file with a path in every line; a FileNotFoundError if nothing is there.
        cache: where the decoded arrays go.
        max_unusable: share of files, from 0 to 1, that may be unusable before that is a ValueError.
        max_pixels: images of more pixels are not decoded.
        unique: drop images whose 8 x 9 brightness differences all point the same way as an earlier image's (a
            difference hash of 64 bits): copies, rescaled copies and re-encoded ones.
        options: ``fraction`` of the usable images and ``num_workers``, see :class:`CollectedDataModule`.
    """

    has_originals = True

    def __init__(
        self,
        source: ImageDataModule,
        root: str,
        cache: str = "cache",
        max_unusable: float = 0.5,
        max_pixels: int = 50_000_000,
        unique: bool = False,
        **options: Options,
    ) -> None:
        super().__init__(source, root=root, **options)
        if not 0 <= max_unusable <= 1:
            raise ValueError(f"max_unusable: expected a share from 0 to 1, got {max_unusable}")
        if not self.root.exists():
            raise FileNotFoundError(f"{self.root} does not exist: expected a folder, a zip, a tar, or a list of paths")
        self.cache = Path(cache).expanduser()
        self.max_unusable, self.max_pixels, self.unique = max_unusable, max_pixels, unique
        self.unusable: list[Unusable] = []
        self.files = 0

    def prepare_data(self) -> None:
        """Let the source download, and decode the pool once, on one process."""
        super().prepare_data()
        self._decoded()

    def collect(self) -> Tensor:
        """The decoded pool; a FileNotFoundError without a file, a ValueError if too few are usable."""
        pixels, self.unusable = self._decoded()
        self.files = len(pixels) + len(self.unusable)
        return torch.from_numpy(pixels)

    def stand_ins(self) -> ImageTensorDataset:
        """Adds what a teacher sees of the files."""
        images = super().stand_ins()
        if self.teacher_size is not None:
            unusable, size = {one.name for one in self.unusable}, self._shown_size
            usable = [name for name in list_pool(self.root).names if _shown(*name) not in unusable]
            if len(usable) != self.files - len(self.unusable):  # the teacher would see other images than the student
                raise ValueError(f"{self.root}: files were added, or two of them have one name: start again, or rename")
            files = _Decoding(usable, size, self.channels, self.max_pixels)
            images.views = Views(files.image, None if size is None else (self.channels, size, size))
        return images

    def identity(self) -> dict[str, Any]:
        """Adds which pool, by names, sizes and some bytes of its files, wherever they lie."""
        return {**super().identity(), "channels": self.channels, "files": self.files_identity()}

    def files_identity(self) -> str:
        """Which files these are, by names, sizes and some bytes, wherever they lie."""
        named = _files(self.root)
        sizes = {name: size_and_time(path)[0] for name, path in named.items()}
        return digest(sizes, lambda name, number: _head(named[name], number))

    def _key(self) -> str:
        """SHA-256 of the files' names, sizes and times, and of what decoding depends on."""
        settings = (_DECODER, self.image_size, self.channels, self.max_pixels, self.unique)
        told = (settings, [(str(file), size_and_time(file)) for file in _files(self.root).values()])
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def _decoded(self) -> tuple[np.ndarray, list[Unusable]]:
        """The array of the pool, memory-mapped, and what is not in it."""
        place = self.cache / self._key()[:16]
        pixels, rows = kept(place / "images.npy", place / "unusable.json", self._decode)
        told = [Unusable(*row) for row in rows]
        total = len(pixels) + len(told)
        if len(told) > self.max_unusable * total or not len(pixels):
            most = f"{len(told)} of {total} files cannot be used, and max_unusable is {self.max_unusable}"
            first = ", ".join(f"{one.name} ({one.reason})" for one in told[:3])
            raise ValueError(f"{self.root}: {most}: {first}, ...; all are listed in {place / 'unusable.json'}")
        return pixels, told

    def _decode(self) -> tuple[np.ndarray, list[Unusable]]:
        names, beside, faults = list_pool(self.root)
        if beside:
            _log.info("%s: passed over, no images: %s", self.root, counted(beside))
        if not names and not faults:
            raise FileNotFoundError(f"{self.root} has no files")
        files: Any = _Decoding(names, self.image_size, self.channels, self.max_pixels)
        images, unusable, seen = [], [Unusable(printable(name), fault) for name, fault in faults.items()], set()
        for name, found in chain.from_iterable(self._loader(files, batch_size=_CHUNK)):
            reason = found if isinstance(found, str) else ""
            if self.unique and not reason:
                mark = difference_hash(found)
                reason = "duplicate" if mark in seen else ""
                seen.add(mark)
            if reason:
                unusable.append(Unusable(name, reason))
            else:
                images.append(found.numpy())
        shape = (0, self.channels, self.image_size, self.image_size)
        return np.stack(images) if images else np.empty(shape, np.uint8), unusable


class _Decoding:
    """Files as images of one size, or the reason why not."""

    def __init__(self, names: Sequence[tuple[str, str]], size: int | None, channels: int, max_pixels: int) -> None:
        self.names, self.settings = names, (size, channels, max_pixels)
        self._archive = Archive("")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> tuple[str, Tensor | str]:
        file, member = self.names[position]
        if member and self._archive.path != file:
            self._archive = Archive(file)
        try:
            content = self._archive.read(member) if member else read_file(Path(file))
            found: Tensor | str = decode(content, *self.settings)
        except UnreadableError as error:
            found = str(error)
        return _shown(file, member), found

    def image(self, position: int) -> Tensor:
        """One file as an image; an :class:`UnreadableError` where it is none any more."""
        name, found = self[position]
        if isinstance(found, str):
            raise UnreadableError(f"{name} cannot be decoded any more ({found}): put it back")
        return found


def _shown(file: str, member: str) -> str:
    return printable(f"{file}/{member}" if member else file)


def difference_hash(image: Tensor) -> int:
    """64 bits of an image ``(C, H, W)``: which of two neighbours on a grid of 8 x 9 is brighter; equal for copies."""
    grid = tvf.resize(image.float().mean(0, keepdim=True), [8, 9], antialias=True)[0]
    bits = (grid[:, 1:] > grid[:, :-1]).flatten().tolist()
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def _files(root: Path) -> dict[str, Path]:
    """Every file that the pool may consist of, archives as one, in order, by its name as seen from the root."""
    if root.is_dir():
        return {name: root / name for name in walk(root)}
    if root.suffix.lower() in _TABLES:
        raise FileNotFoundError(
            f"{root}: a list of images is a .txt file with a path in every line, seen from the list"
        )
    if root.suffix.lower() != ".txt":
        return {root.name: root}
    paths = {line: root.parent / line for line in read_lines(read_file(root))}
    absent = [printable(line) for line, path in paths.items() if not path.is_file()]
    if absent:
        hint = "; nothing is fetched from the web here" if ":/" in absent[0] else ", seen from the list"
        raise FileNotFoundError(f"{root} lists {len(absent)} files that do not exist, first {absent[0]}{hint}")
    return paths


class Pool(NamedTuple):
    """What a pool consists of."""

    names: list[tuple[str, str]]  #: (file, member) of what should be images; the member is empty outside archives
    beside: list[str]  #: what is passed over
    faults: dict[str, str]  #: archives that are not whole, and why


def list_pool(root: Path) -> Pool:
    """List a pool's files and the members of its archives, and decode nothing."""
    pool = Pool([], [], {})
    for name, path in _files(root).items():
        file = str(path)
        if not name.lower().endswith(ARCHIVES):
            found = sort_out([path.name if Path(name).is_absolute() else name])
            pool.names.extend((file, "") for _ in (*found.images, *found.unknown))
        else:
            archive = Archive(file)
            found = sort_out(member for member in archive.sizes() if not member.endswith("/"))
            images = {*found.images, *found.unknown}
            pool.names.extend((file, member) for member in archive.sizes() if member in images)  # in its order
            if archive.fault:
                pool.faults[file] = archive.fault
        pool.beside.extend(found.beside)
    return pool


def _head(path: Path, number: int) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(number)
    return b""
