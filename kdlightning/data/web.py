"""Images from the web: any folder, list, zip or tar shards, of any size and quality, unlabelled, decoded once."""

import hashlib
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.base import ImageDataModule, Options
from kdlightning.data.cached import kept
from kdlightning.data.collected import CollectedDataModule
from kdlightning.data.decoding import TARS, Archive, decode

_BESIDE = (".json", ".txt", ".cls")  # labels and captions beside the images of a WebDataset shard
_CHUNK = 64


class Unusable(NamedTuple):
    """A file that is no image to train on: its name, with its archive, and why not.

    Reasons are ``not an image``, ``broken``, ``animated``, ``CMYK``, ``16-bit``, ``huge`` and ``duplicate``.
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
            file with a path in every line; a FileNotFoundError if nothing is there.
        cache: where the decoded arrays go.
        max_unusable: share of files, from 0 to 1, that may be unusable before that is a ValueError.
        max_pixels: images of more pixels are not decoded.
        unique: drop images whose 8 x 9 brightness differences all point the same way as an earlier image's (a
            difference hash of 64 bits): copies, rescaled copies and re-encoded ones.
        options: ``fraction`` of the usable images and ``num_workers``, see :class:`CollectedDataModule`.
    """

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

    def identity(self) -> dict[str, Any]:
        """Adds which pool."""
        return {**super().identity(), "pool": self._key()[:16]}

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
        pixels, rows = kept(place / "images.npy", place / "unusable.json", self._decode)
        told = [Unusable(*row) for row in rows]
        total = len(pixels) + len(told)
        if len(told) > self.max_unusable * total or not len(pixels):
            most = f"{len(told)} of {total} files cannot be used, and max_unusable is {self.max_unusable}"
            first = ", ".join(f"{one.name} ({one.reason})" for one in told[:3])
            raise ValueError(f"{self.root}: {most}: {first}, ...; all are listed in {place / 'unusable.json'}")
        return pixels, told

    def _decode(self) -> tuple[np.ndarray, list[Unusable]]:
        names = list(members(self.root))
        if not names:
            raise FileNotFoundError(f"{self.root} has no files")
        files: Any = _Decoding(names, self.image_size, self.channels, self.max_pixels)
        images, unusable, seen = [], [], set()
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

    def __init__(self, names: Sequence[tuple[str, str]], *settings: int) -> None:
        self.names, self.settings = names, settings
        self._archive = Archive("")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> tuple[str, Tensor | str]:
        file, member = self.names[position]
        if member and self._archive.path != file:
            self._archive = Archive(file)
        try:
            content = self._archive.read(member) if member else Path(file).read_bytes()
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, RuntimeError):
            found: Tensor | str = "broken"
        else:
            found = decode(content, *self.settings)
        return f"{file}/{member}" if member else file, found


def difference_hash(image: Tensor) -> int:
    """64 bits of an image ``(C, H, W)``: which of two neighbours on a grid of 8 x 9 is brighter; equal for copies."""
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


def members(root: Path) -> Iterator[tuple[str, str]]:
    """(file, member) of every image file; the member is empty outside archives."""
    for name in map(str, _files(root)):
        if not name.lower().endswith((".zip", *TARS)):
            yield name, ""
            continue
        beside = _BESIDE if name.lower().endswith(TARS) else ()
        yield from ((name, member) for member in Archive(name).members() if not member.endswith(("/", *beside)))
