"""From files and archives to uint8 images of one size."""

import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

TARS = (".tar", ".tar.gz", ".tgz")
_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # 8-bit modes that convert to RGB without a colour profile


class Archive:
    """A zip, or by its name a tar, which every process opens for itself.

    A handle that a worker inherits by fork would share its position in the file with every other worker's.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._handle: zipfile.ZipFile | tarfile.TarFile | None = None
        self._process = 0

    def members(self) -> list[str]:
        """Names of the files, in order; of a zip's folders, too, which end in a slash."""
        handle = self._opened()
        if isinstance(handle, zipfile.ZipFile):
            return handle.namelist()
        return [info.name for info in handle if info.isfile()]

    def read(self, member: str) -> bytes:
        """The bytes of one file."""
        handle = self._opened()
        if isinstance(handle, zipfile.ZipFile):
            return handle.read(member)
        stream = handle.extractfile(member)
        return stream.read() if stream else b""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _opened(self) -> zipfile.ZipFile | tarfile.TarFile:
        if self._handle is None or self._process != os.getpid():
            tar = self.path.lower().endswith(TARS)
            self._handle = tarfile.open(self.path) if tar else zipfile.ZipFile(self.path)  # noqa: SIM115
            self._process = os.getpid()
        return self._handle


def read_path(paths: Sequence[Path], size: int, index: int) -> Tensor:
    """One of some files as a colour image ``(3, size, size)``, uint8; partially applied, it travels to workers."""
    return decode_or_raise(paths[index].read_bytes(), str(paths[index]), size, 3)


def decode_or_raise(content: bytes, name: str, size: int, channels: int) -> Tensor:
    """An image file of any kind, as :func:`decode` makes it; if it is damaged, a ValueError with its ``name``."""
    try:
        with Image.open(io.BytesIO(content)) as file:
            return _square(file, size, channels)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for damaged files
        raise ValueError(f"{name} cannot be decoded as an image ({error}); repair or remove it") from error


def decode(content: bytes, size: int, channels: int, max_pixels: int) -> Tensor | str:
    """An image file as uint8 ``(channels, size, size)``, or the reason why it cannot be used.

    The shorter side is scaled to ``size`` (antialiased), the middle of the longer one is taken; 3 channels are colour,
    1 is luma. An image of more than ``max_pixels`` is ``huge``; nothing of it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's own, about what is refused below
            image: Image.Image = Image.open(io.BytesIO(content))
            if image.width * image.height > max_pixels:
                return "huge"
            if getattr(image, "is_animated", False):
                return "animated"
            if image.mode == "CMYK":
                return "CMYK"
            if image.mode not in _PLAIN:
                return "16-bit" if image.mode.startswith(("I", "F")) else "not an image"
            if image.mode in ("LA", "PA", "P", "RGBA"):  # what is transparent becomes white, as on a page
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return _square(image, size, channels)
    except UnidentifiedImageError:
        return "not an image"
    except Image.DecompressionBombError:
        return "huge"
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError):  # PIL raises each of them for broken files
        return "broken"


def _square(picture: Image.Image, size: int, channels: int) -> Tensor:
    pixels = tvf.pil_to_tensor(picture.convert("L" if channels == 1 else "RGB"))
    square: Tensor = tvf.center_crop(tvf.resize(pixels, [size], antialias=True), [size])
    return square.contiguous()
