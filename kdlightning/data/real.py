"""Named sets of real images: the embedded digits, what torchvision reads, Syn. Digits and MNIST-M.

.. [Ganin2016] Y. Ganin, E. Ustinova, H. Ajakan, P. Germain, H. Larochelle, F. Laviolette, M. Marchand, V. Lempitsky.
   Domain-Adversarial Training of Neural Networks. JMLR 17(59), 2016.
"""

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision import datasets

from kdlightning.data.archives import read_lines
from kdlightning.data.base import ImageDataModule
from kdlightning.data.decoding import read_path
from kdlightning.data.sets import ImageSet, tensor_set


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
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1797))
        rows = (part.sort().values for part in (order[397:], order[:397]))
        train, test = (tensor_set(images[part], digits.target[part]) for part in rows)
        return train, None, test


class _TorchvisionDataModule(ImageDataModule):
    """A data set that torchvision can read and download."""

    reader: ClassVar[Callable[..., Any]]
    reader_options: ClassVar[dict[str, Any]] = {}
    splits: ClassVar[tuple[dict[str, Any], ...]] = ({"train": True}, {"train": False})
    files: ClassVar[str]

    def prepare_data(self) -> None:
        """Download on one process, if asked to."""
        super().prepare_data()
        if self.download:
            self._read(self.root, download=True)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read by torchvision; a FileNotFoundError says which files belong where if they are absent or damaged."""
        if self.download and self.trainer is None:  # nobody else calls it
            self.prepare_data()
        return self._load(self.root)

    def _read(self, root: Path, download: bool) -> list[Any]:
        given = {"root": str(root), "download": download, **self.reader_options}
        return [type(self).reader(**given, **split) for split in self.splits]

    def _load(self, root: Path) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        try:
            parts = self._read(root, download=False)
        except (RuntimeError, FileNotFoundError) as error:
            where = f"{self.name} is not in '{self.root}', or is damaged ({error})"
            todo = f"put {self.files} there, or set download: true to fetch it"
            raise FileNotFoundError(f"{where}: {todo}") from error
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
        if _may_write(raw):
            _unpack(raw, raw)

    def load(self) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        """Read by torchvision; a ValueError if a packed file is damaged."""
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
        return self._of_files(partial(partial, read_path, paths), torch.arange(len(paths)), torch.tensor(labels))


class _SynDigits(datasets.SVHN):  # type: ignore[misc]  # torchvision ships no types
    """Same format as SVHN; no checksums are published."""

    split_list: ClassVar[dict[str, list[str | None]]] = {
        "train": [None, "synth_train_32x32.mat", None],
        "test": [None, "synth_test_32x32.mat", None],
    }


class SynDigitsDataModule(SVHNDataModule):
    """Syn. Digits [Ganin2016]_: about 480,000 + 9,500 colour digits in computer fonts, 32 x 32.

    The two files of ``SynthDigits.zip``, MATLAB 5 files like SVHN's: ``X`` ``(32, 32, 3, N)`` and ``y`` ``(N, 1)``; a
    label 10 would be read as 0. Reading them takes some 3 GB of memory.

    Raises:
        FileNotFoundError: once set up, a file is absent or empty.
        ValueError: once set up, a file is damaged or of another format.
    """

    name, downloadable = "syn-digits", False
    reader = _SynDigits
    files = "synth_train_32x32.mat and synth_test_32x32.mat"

    def _load(self, root: Path) -> tuple[ImageSet, ImageSet | None, ImageSet]:
        paths = [root / str(name) for _, name, _ in _SynDigits.split_list.values()]
        absent = [path.name for path in paths if not path.is_file() or not path.stat().st_size]
        if absent:
            raise FileNotFoundError(f"{self.name}: '{root}' lacks {' and '.join(absent)}: unpack SynthDigits.zip there")
        try:
            train, test = (self._images(_SynDigits(str(root), split)) for split in _SynDigits.split_list)
        except (ValueError, KeyError, TypeError, OSError, RuntimeError, zlib.error) as error:
            expected = "expected MATLAB 5 files with uint8 X (32, 32, 3, N) and y (N, 1); fetch them again"
            raise ValueError(f"{self.name}: {self.files} in '{root}' cannot be read ({error}): {expected}") from error
        return train, None, test


class MNISTMDataModule(ImageDataModule):
    """MNIST-M [Ganin2016]_: some 59,000 + 9,000 MNIST digits blended with photographs, 32 x 32.

    As distributed: below the root the folder ``mnist_m`` with the images ``mnist_m_train/*.png``,
    ``mnist_m_test/*.png`` and the lists ``mnist_m_train_labels.txt``, ``mnist_m_test_labels.txt`` of lines such as
    ``00000001.png 0``. An image's index is the number of its line, from 0. Only images that are drawn are decoded.
    """

    name, num_classes, channels, native_size = "mnist-m", 10, 3, 32
    downloadable = False

    def load(self) -> tuple[ImageSet, None, ImageSet]:
        """Read the lists, whose lines are names and labels; images are decoded when they are wanted."""
        return self._part("train"), None, self._part("test")

    def _part(self, part: str) -> ImageSet:
        folder, listing = (self.root / f"mnist_m/mnist_m_{part}{suffix}" for suffix in ("", "_labels.txt"))
        for needed in (listing, folder):
            if not needed.exists():
                raise FileNotFoundError(f"{self.name} lacks '{needed}': unpack mnist_m into '{self.root}'")
        rows = [line.split() for line in read_lines(listing.read_bytes())]
        wrong = next((row for row in rows if len(row) != 2 or row[1] not in set("0123456789")), None)
        if wrong or not rows:
            raise ValueError(f"{listing}: expected lines of a file name and a digit, got {wrong or 'an empty file'}")
        paths = [folder / name for name, _ in rows]
        labels = torch.tensor([int(label) for _, label in rows])
        return self._of_files(partial(partial, read_path, paths), torch.arange(len(paths)), labels)


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
