"""Images from the web: any folder, list, zip or tar shards, of any size and quality, unlabelled, decoded once."""

import hashlib
import json
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.base import ImageDataModule
from kdlightning.data.collected import CollectedDataModule, Collection
from kdlightning.data.decoding import TARS, Archive, decode
from kdlightning.data.sets import whole_batch

_BESIDE = (".json", ".txt", ".cls")  # labels and captions beside the images of a WebDataset shard
_CHUNK = 64


class Unusable(NamedTuple):
    """A file that is no image to train on.

    Attributes:
        name: of the file, with its archive.
        reason: ``not an image``, ``broken``, ``animated``, ``CMYK``, ``16-bit``, ``huge`` or ``duplicate``.
    """

    name: str
    reason: str


class WebDataModule(CollectedDataModule):
    """A pool of unlabelled images that someone has collected; validation and test images are the source's.

    Files are decoded once, in the loader's workers, to a uint8 array on disk, so that the next start is immediate; the
    array belongs to the files' names, sizes and times. What cannot be used is skipped and listed in ``unusable.json``
    beside it: files that are no image, broken or cut off, animated, CMYK, of 16 bits, or larger than ``max_pixels``.

    Args:
        source: the task's data set: classes, size of the images, batch size, augmentation, validation and test images.
            Its training images are never used.
        root: a folder (all files below it, archives among them), a zip, a tar (also WebDataset's shards), or a text
            file with a path in every line.
        cache: where the decoded arrays go.
        max_unusable: share of files that may be unusable before that is an error.
        max_pixels: images of more pixels are not decoded.
        unique: drop images whose 8 x 9 brightness differences all point the same way as an earlier image's (a
            difference hash of 64 bits): copies, rescaled copies and re-encoded ones.
        options: ``fraction`` of the usable images and ``num_workers``, see :class:`CollectedDataModule`.

    Raises:
        FileNotFoundError: nothing at ``root``.
        ValueError: a share outside its range.
    """

    def __init__(
        self,
        source: ImageDataModule,
        root: str,
        cache: str = "cache",
        max_unusable: float = 0.5,
        max_pixels: int = 50_000_000,
        unique: bool = False,
        **options: Any,  # noqa: ANN401 - the base's
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

    def collect(self) -> Collection:
        """The decoded pool.

        Raises:
            FileNotFoundError: no file at all.
            ValueError: too many unusable files, or not one usable.
        """
        pixels, self.unusable = self._decoded()
        self.files = len(pixels) + len(self.unusable)
        return Collection(torch.from_numpy(pixels), None)

    def identity(self) -> dict[str, Any]:
        """Adds which pool."""
        return {**super().identity(), "pool": self._key()[:16]}

    def reasons(self) -> dict[str, int]:
        """How many files were skipped, by reason; after :meth:`setup`."""
        return dict(Counter(one.reason for one in self.unusable))

    def _key(self) -> str:
        """SHA-256 of the files' names, sizes and times, and of what decoding depends on."""
        settings = (self.image_size, self.channels, self.max_pixels, self.unique)
        digest = hashlib.sha256(repr(settings).encode())
        for file in _files(self.root):
            status = file.stat()
            digest.update(f"{file}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _decoded(self) -> tuple[np.ndarray, list[Unusable]]:
        """The array of the pool, memory-mapped, and what is not in it."""
        place = self.cache / self._key()[:16]
        if not (place / "unusable.json").exists():
            self._decode(place)
        told = [Unusable(*row) for row in json.loads((place / "unusable.json").read_text())]
        pixels: np.ndarray = np.load(place / "images.npy", mmap_mode="c")  # a private copy, page by page
        total = len(pixels) + len(told)
        if len(told) > self.max_unusable * total or not len(pixels):
            first = ", ".join(f"{one.name} ({one.reason})" for one in told[:3])
            raise ValueError(
                f"{self.root}: {len(told)} of {total} files cannot be used, and max_unusable is {self.max_unusable}: "
                f"{first}, ...; all are listed in {place / 'unusable.json'}"
            )
        return pixels, told

    def _decode(self, place: Path) -> None:
        names = list(_members(self.root))
        if not names:
            raise FileNotFoundError(f"{self.root} has no files")
        files = _Decoding(names, self.image_size, self.channels, self.max_pixels)
        loader = DataLoader(
            files, batch_size=_CHUNK, collate_fn=whole_batch, num_workers=self.num_workers, generator=self._generator()
        )
        place.mkdir(parents=True, exist_ok=True)
        images, unusable, seen = [], [], set()
        for chunk in loader:
            for name, found in chunk:
                if isinstance(found, str):
                    unusable.append(Unusable(name, found))
                    continue
                mark = difference_hash(found) if self.unique else None
                if mark in seen:
                    unusable.append(Unusable(name, "duplicate"))
                    continue
                if mark is not None:
                    seen.add(mark)
                images.append(found.numpy())
        shape = (0, self.channels, self.image_size, self.image_size)
        temporary = place / f"images.{os.getpid()}.npy"
        np.save(temporary, np.stack(images) if images else np.empty(shape, np.uint8))
        temporary.replace(place / "images.npy")
        listed = place / f"unusable.{os.getpid()}.tmp"
        listed.write_text(json.dumps(unusable, indent=1) + "\n")
        listed.replace(place / "unusable.json")  # last: its presence says that the array is whole


class _Decoding(Dataset[tuple[str, Tensor | str]]):
    """Files as images of one size, or the reason why not."""

    def __init__(self, names: Sequence[tuple[str, str]], size: int, channels: int, max_pixels: int) -> None:
        self.names, self.size, self.channels, self.max_pixels = names, size, channels, max_pixels
        self._archive: Archive | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> tuple[str, Tensor | str]:
        file, member = self.names[position]
        name = f"{file}/{member}" if member else file
        try:
            content = self._read(file, member)
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, RuntimeError):
            return name, "broken"
        return name, decode(content, self.size, self.channels, self.max_pixels)

    def _read(self, file: str, member: str) -> bytes:
        if not member:
            return Path(file).read_bytes()
        if self._archive is None or self._archive.path != file:
            self._archive = Archive(file)
        return self._archive.read(member)


def difference_hash(image: Tensor) -> int:
    """64 bits: which of two neighbours on a grid of 8 x 9 is brighter; equal for copies, also rescaled ones.

    Args:
        image: uint8 ``(C, H, W)``.
    """
    grid = tvf.resize(image.float().mean(0, keepdim=True), [8, 9], antialias=True)[0]
    bits = (grid[:, 1:] > grid[:, :-1]).flatten().tolist()
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def _files(root: Path) -> list[Path]:
    """Every file that the pool consists of, archives as one, sorted."""
    if root.is_dir():
        return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    if root.suffix.lower() == ".txt":
        listed = [line.strip() for line in root.read_text().splitlines() if line.strip()]
        paths = [path if path.is_absolute() else root.parent / path for path in map(Path, listed)]
        absent = [str(path) for path in paths if not path.is_file()]
        if absent:
            raise FileNotFoundError(f"{root} lists {len(absent)} files that do not exist, first {absent[0]}")
        return paths
    return [root]


def _members(root: Path) -> Iterator[tuple[str, str]]:
    """(file, member) of every image file; the member is empty outside archives."""
    for name in map(str, _files(root)):
        if not name.lower().endswith((".zip", *TARS)):
            yield name, ""
            continue
        beside = _BESIDE if name.lower().endswith(TARS) else ()
        yield from ((name, member) for member in Archive(name).members() if not member.endswith(("/", *beside)))
