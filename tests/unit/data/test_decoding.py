"""One decoder: what a file's pixels become, by its own bit depth, orientation and transparency."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from kdlightning.data.archives import UnreadableError
from kdlightning.data.decoding import decode


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def rows(values, kind):
    return Image.fromarray(np.tile(np.array([values], kind), (4, 1)))


def palette(index=1):
    image = Image.new("P", (4, 4), index)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


def tiff_of_twelve_bits(pixels):
    """A whole TIFF, of 4 x 4: Pillow writes none with 12 bits."""
    row = bytes([pixels[0] >> 4, (pixels[0] & 15) << 4 | pixels[1] >> 8, pixels[1] & 255])
    row += bytes([pixels[2] >> 4, (pixels[2] & 15) << 4 | pixels[3] >> 8, pixels[3] & 255])
    tags = {256: 4, 257: 4, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 24}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 32) + row * 4 + struct.pack("<H", len(tags)) + entries + bytes(4)


DEEP, EIGHT = rows([0, 32768, 40000, 65535], np.uint16), [0, 128, 156, 255]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(DEEP), EIGHT),
        (encoded(DEEP, transparency=0), [255, 128, 156, 255]),
        (encoded(DEEP, "TIFF"), EIGHT),
        (encoded(DEEP, "TIFF", tiffinfo={262: 0}), [255, 127, 99, 0]),
        (tiff_of_twelve_bits([0, 2048, 2500, 4095]), EIGHT),
        (encoded(DEEP, "JPEG2000"), EIGHT),
        (b"P5 4 4 65535\n" + struct.pack(">4H", 0, 32768, 40000, 65535) * 4, EIGHT),
        (b"P5 4 4 15\n" + bytes([0, 5, 10, 15]) * 4, [0, 85, 170, 255]),
        (encoded(rows([0, 0.25, 0.5, 1], np.float32), "TIFF"), [0, 64, 128, 255]),
        (b"Pf\n4 4\n-1.0\n" + struct.pack("<4f", 0, 0.25, 0.5, 1) * 4, [0, 64, 128, 255]),
        (encoded(rows([0, 255, 0, 255], np.uint8).convert("1")), [0, 255, 0, 255]),
        (encoded(rows([7, 8, 7, 8], np.uint8), transparency=7), [255, 8, 255, 8]),
    ],
    ids=["png16", "png16 clear", "tiff16", "tiff16 white is zero", "tiff12", "jp2", "pgm16", "pgm4", "float tiff",
         "pfm", "1 bit", "grey clear"],
)  # fmt: skip
def test_grey_of_any_depth_has_its_own_black_and_white(content, expected):
    assert decode(content, 4, 1)[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), [255, 255, 255]),
        (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 255))), [0, 0, 0]),
        (encoded(Image.new("LA", (4, 4), (0, 128))), [127, 127, 127]),
        (encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)), [255, 255, 255]),
        (encoded(palette()), [255, 0, 0]),
        (encoded(palette(), transparency=1), [255, 255, 255]),
        (encoded(palette(), "GIF", transparency=1), [255, 255, 255]),
        (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP", lossless=True), [255, 255, 255]),
        (encoded(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF"), [0, 255, 255]),
        (encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG"), [255, 255, 255]),
        (encoded(Image.new("YCbCr", (4, 4), (128, 128, 128)), "TIFF"), [128, 128, 128]),
        (encoded(Image.new("RGB", (4, 4), (9, 9, 9)), "MPO", save_all=True,
                 append_images=[Image.new("RGB", (4, 4), "white")]), [9, 9, 9]),
    ],
    ids=["clear", "opaque", "half", "clear colour", "palette", "clear palette", "clear gif", "clear webp", "cmyk tiff",
         "cmyk jpeg", "ycbcr", "phone's two pictures"],
)  # fmt: skip
def test_colours_are_what_a_page_shows(content, expected):
    assert decode(content, 4, 3)[:, 2, 2].tolist() == expected


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
def test_a_photograph_is_turned_upright(form, orientation, corner):
    image, exif = Image.new("RGB", (32, 32)), Image.Exif()
    image.paste("white", (0, 0, 16, 16))
    exif[274] = orientation
    found = decode(encoded(image, form, exif=exif), 2, 1)[0] > 128
    assert found.nonzero().tolist() == [list(corner)]


def test_a_broken_exif_costs_nothing_but_itself():
    content = encoded(Image.new("RGB", (4, 4), (9, 9, 9)), exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff garbage")
    assert decode(content, 4, 3)[:, 0, 0].tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(Image.new("RGB", (9, 9)), "EPS"), "not an image"),  # Ghostscript is never started, whatever the name
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(Image.new("RGB", (9, 9)), "PDF"), "not an image"),
        (encoded(rows([0, 300.0], np.float32), "TIFF"), "floating-point pixels outside [0, 1]"),
        (encoded(rows([0, np.nan], np.float32), "TIFF"), "floating-point pixels outside [0, 1]"),
        (encoded(rows([0, 70_000], np.int32), "TIFF"), "32-bit or signed pixels"),
        (encoded(Image.new("L", (9, 9)), "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]),
         "several pages"),
        (b"P4 20000 20000\n", "huge"),
        (encoded(Image.new("L", (99, 99), 5), "JPEG")[:-90], "broken"),
    ],
    ids=["eps", "bare eps", "pdf", "float", "nan", "int32", "pages", "bomb", "cut"],
)  # fmt: skip
def test_what_cannot_be_shown_rightly_is_refused_with_the_reason(content, reason):
    with pytest.raises(UnreadableError) as error:
        decode(content, 4, 3)
    assert str(error.value) == reason


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_line_is_cropped_before_it_is_resized(size):
    image = Image.new("L", size)
    image.paste(200, (size[0] // 2 - 5, size[1] // 2 - 5, size[0] // 2 + 5, size[1] // 2 + 5))
    began = time.monotonic()
    found = decode(encoded(image), 224, 3)
    assert time.monotonic() - began < 1
    assert found.unique().tolist() == [200]
