"""From image files to uint8 images of one size: one decoder, whatever the files lie in."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from kdlightning.data.archives import UnreadableError, printable, read_file

# what Pillow decodes by itself; not EPS, which starts Ghostscript. HEIF where pillow-heif is registered
_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"
)  # fmt: skip
MAX_PIXELS = 178_956_970  # of an image, as in Pillow: a decompression bomb has more
_LONG = 4  # times the short side; the ends of longer images are cut off before they are resized
# what Pillow's decoders raise for broken files
_BROKEN = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, zlib.error,
)  # fmt: skip


def suffixes() -> frozenset[str]:
    """How names of files end that are images by their name: lower case, with the dot."""
    known = (*_formats(), "MPO")  # a JPEG with further pictures behind it
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def opened(file: IO[bytes]) -> Image.Image:
    """An image whose pixels are not yet decoded; an error of Pillow's if it is none of a safe format."""
    return Image.open(file, formats=_formats())


def is_image(file: IO[bytes]) -> bool:
    """Whether this is an image, whatever its name, by its beginning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened(file).close()
        except (UnreadableError, UnidentifiedImageError, *_BROKEN):
            return False
        except Image.DecompressionBombError:
            return True
    return True


def read_path(paths: Sequence[Path], size: int | None, index: int) -> Tensor:
    """One of some files as :func:`decode` makes it, in colour; partially applied, it travels to workers."""
    return decode_or_name(str(paths[index]), lambda: read_file(paths[index]), size, 3)


def check_channels(channels: int) -> int:
    """A ValueError unless images are decoded to grey or colour."""
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels}")
    return channels


def decode_or_name(name: str, read: Callable[[], bytes], size: int | None, channels: int) -> Tensor:
    """An image as :func:`decode` makes it of what is read; an :class:`UnreadableError` says its name, too."""
    try:
        return decode(read(), size, channels)
    except UnreadableError as error:
        told = f"{printable(name)} cannot be decoded as an image ({error}); repair or remove it"
        raise UnreadableError(told) from error


def decode(content: bytes, size: int | None, channels: int, max_pixels: int = MAX_PIXELS) -> Tensor:
    """An image file as uint8 ``(channels, size, size)``; without a size, the whole of it at its own.

    It is turned upright by its EXIF data, put on white where it is transparent, and scaled to 8 bits by its own depth.
    The shorter side is resized to ``size`` (antialiased), the middle of the longer one is taken; 3 channels are colour,
    1 is luma.

    Raises:
        UnreadableError: with the reason: ``not an image``, ``broken``, ``animated``, ``several pages``, ``huge`` (more
            than ``max_pixels``: nothing of it is decoded), or which values its pixels have that nobody can scale.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, about what is refused below
            image = opened(io.BytesIO(content))
            if image.width * image.height > max_pixels:
                raise UnreadableError("huge")
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise UnreadableError("several pages" if image.format == "TIFF" else "animated")
            plain = _on_white(_eight_bits(image, _upright(image)))
            plain = plain.convert("L" if channels == 1 else "RGB")
            return tvf.pil_to_tensor(plain) if size is None else _square(plain, size)
    except UnidentifiedImageError as error:
        raise UnreadableError("not an image") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError("huge") from error
    except UnreadableError:
        raise
    except _BROKEN as error:
        raise UnreadableError("broken") from error


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except _BROKEN:  # the data about the image, not the image
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bits(file: Image.Image, image: Image.Image) -> Image.Image:
    """Grey images of more bits as ``L``, from black to the white of their own depth; others as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    tags: Any = getattr(file, "tag_v2", {})
    values = np.asarray(image, np.float32)
    if image.mode == "F":
        white = 1.0
        if not (values.min() >= 0 and values.max() <= white):  # not a number is neither
            raise UnreadableError("floating-point pixels outside [0, 1]")
    elif image.mode == "I" and file.format == "TIFF":
        raise UnreadableError("32-bit or signed pixels")
    else:
        white = float(2 ** tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - 1)
    if (clear := image.info.get("transparency")) is not None:
        values = np.where(values == clear, white, values)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # TIFF's WhiteIsZero
        values = white - values
    return Image.fromarray((values * (255 / white)).round().clip(0, 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    clear = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)


def _square(image: Image.Image, size: int) -> Tensor:
    most = _LONG * min(image.size)
    if max(image.size) > most:  # resizing would make a short side of 1 as many pixels as its length times size²
        width, height = (min(side, most) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    square: Tensor = tvf.center_crop(tvf.resize(tvf.pil_to_tensor(image), [size], antialias=True), [size])
    return square.contiguous()
