"""Digits and other characters rendered in software.

Digits of another domain than handwriting are for distillation out of domain (Table 6 of [Ma2024]_): a teacher of one
domain, local images of another. All characters are a pool like those from the web, of which few images are digits.

.. [Ganin2016] Y. Ganin, E. Ustinova, H. Ajakan, P. Germain, H. Larochelle, F. Laviolette, M. Marchand, V. Lempitsky.
   Domain-Adversarial Training of Neural Networks. JMLR 17(59), 2016.
.. [Ma2024] J. Ma et al. Aligning Logits Generatively for Principled Black-Box Knowledge Distillation. CVPR 2024.
"""

import math
import string
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from kdlightning.data.base import ImageDataModule, Options, at_least
from kdlightning.data.decoding import check_channels
from kdlightning.data.sets import ImageSet, tensor_set

Draw = Callable[..., Tensor]  # (low, high, *shape): uniform (N, *shape), rows independent

DIGITS = string.digits
CHARACTERS = DIGITS + string.ascii_letters + "!?#$%&@()[]/+=*<>"

BLOCK = 100  # images drawn and rendered at once: seeds are per block, and a block is always rendered whole
_CONTRAST = 0.35  # least distance of the digit's luma and the background's, before their gradients
_HEIGHT = 0.75  # of a digit in its square of the atlas
_SYMBOL_FONTS = ("DejaVuSansDisplay", "DejaVuSerifDisplay", "LastResort", "STIXNonUni", "STIXSiz", "cmex", "cmsy")
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow's grey images


class RenderedDataModule(ImageDataModule):
    """Characters rendered in software: what such sets share. A number outside its range is a ValueError.

    Args:
        number: training images, validation included; at least 1.
        channels: 3 for colour, 1 for the luma of the same images.
        render_seed: owner of the images, not negative; ``seed`` owns split and order.
        image_size: height and width, at least 8; images are rendered at that size.
        options: see :class:`ImageDataModule`; there is no ``root`` and no ``download``.
    """

    native_size = 32
    has_originals = False
    glyphs: ClassVar[str]  # the characters that occur

    def __init__(
        self, number: int = 50_000, channels: int = 3, render_seed: int = 0, image_size: int = 32, **options: Options
    ) -> None:
        super().__init__("", False, image_size=image_size, **options)
        at_least(1, number=number)
        at_least(8, image_size=image_size)
        at_least(0, render_seed=render_seed)
        self.number, self.channels, self.render_seed = number, check_channels(channels), render_seed
        self.class_names = list(self.glyphs)
        if render_seed:  # other images: a transfer set tells sources apart by name, length and size
            self.name = f"{self.name}-{render_seed}"

    def identity(self) -> dict[str, Any]:
        """Includes what the images are made from, except ``number``, on which none of them depends."""
        made = {"channels": self.channels, "render_seed": self.render_seed, "fonts": len(digit_fonts())}
        return {**super().identity(), **made}

    def render(self, number: int, draw: Callable[[np.random.Generator], Tensor], *part: int) -> ImageSet:
        """N images, labelled with the glyphs that ``draw`` chose a block; ``part`` tells sets of one seed apart."""
        images = torch.empty(number, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        shown = []
        for block, target in enumerate(images.split(BLOCK)):
            rng = np.random.default_rng([self.render_seed, *part, block])
            which = draw(rng)
            target.copy_(render_glyphs(rng, which, self.image_size, self.channels, self.glyphs)[: len(target)])
            shown.append(which)
        return tensor_set(images, torch.cat(shown)[:number])


class RenderedDigitsDataModule(RenderedDataModule):
    """Digits 0 to 9 rendered in software: what Syn. Digits [Ganin2016]_ are, from the fonts that ship with matplotlib.

    Font, size, place, aspect, rotation (at most 20 degrees), shear, colours, gradients, shadows, parts of other digits
    at the sides, an outline, blur and noise are random. The digit is the one nearest the middle, at least half as high
    as the image, and its luma is at least 0.15 from its background's before shadows, blur and noise. Image ``i`` shows
    digit ``i % 10`` and depends on ``render_seed``, the size and ``i``, not on how many there are; test images come
    from seeds of their own. Other releases of matplotlib, Pillow, numpy or torch can change pixels.

    Args:
        num_test: official test images; fewer than one are a ValueError.
    """

    name, num_classes, glyphs = "rendered-digits", 10, DIGITS

    def __init__(self, number: int = 50_000, num_test: int = 10_000, **options: Options) -> None:
        super().__init__(number, **options)
        at_least(1, num_test=num_test)
        self.num_test = num_test

    def load(self) -> tuple[ImageSet, None, ImageSet]:
        """Render: 10,000 images of 32 x 32 take about five seconds of one core."""
        digits = torch.arange(BLOCK) % 10
        parts = (self.render(size, lambda _: digits, part) for part, size in enumerate((self.number, self.num_test)))
        train, test = parts
        return train, None, test


class RenderedCharactersDataModule(RenderedDataModule):
    """Digits among letters and symbols, in matplotlib's fonts and in styles that handwriting never has.

    Each image shows one character in its middle, like :class:`RenderedDigitsDataModule`'s: random font, size, place,
    rotation, shear, grey or colours of either polarity, gradients, shadows, neighbours, outlines, blur and noise. All
    characters are equally frequent: 10 of 79 are digits, one in eight. Image ``i`` depends on ``render_seed``, the size
    and ``i``, not on how many there are. There are no test images: it is a pool for :class:`UnionDataModule`.
    """

    name, num_classes, glyphs, default_num_val = "rendered-characters", len(CHARACTERS), CHARACTERS, 0

    def load(self) -> tuple[ImageSet, None, None]:
        """Render: 10,000 images of 28 x 28 take some five seconds of one core."""
        shown = self.render(self.number, lambda rng: torch.from_numpy(rng.integers(len(CHARACTERS), size=BLOCK)))
        return shown, None, None


@lru_cache
def digit_fonts() -> tuple[Path, ...]:
    """The fonts of matplotlib that have digits; its symbol fonts have none, or other signs in their place."""
    from matplotlib import get_data_path

    fonts = sorted(Path(get_data_path(), "fonts", "ttf").glob("*.ttf"))
    return tuple(font for font in fonts if not font.name.startswith(_SYMBOL_FONTS))


def draw_glyph(font: Path, glyph: str, points: float) -> Image.Image:
    """A character as a grey image without margins, white on black; one black pixel if the font draws nothing."""
    face = ImageFont.truetype(str(font), points)
    left, top, right, bottom = face.getbbox(glyph)
    size = math.ceil(right - left) + 2, math.ceil(bottom - top) + 2
    canvas = Image.new("L", size)
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), glyph, fill=255, font=face)
    return canvas.crop(canvas.getbbox() or (0, 0, 1, 1))


@lru_cache(maxsize=4)
def _atlas(cell: int, glyphs: str) -> tuple[Tensor, Tensor]:
    """Every font's glyphs, equally high and centred ``(fonts, G, cell, cell)`` in [0, 1]; their widths in cells."""
    fonts = digit_fonts()
    atlas, widths = torch.zeros(len(fonts), len(glyphs), cell, cell), torch.zeros(len(fonts), len(glyphs))
    for row, font in enumerate(fonts):
        for column, glyph in enumerate(glyphs):
            large = draw_glyph(font, glyph, 2 * cell)
            height = round(_HEIGHT * cell)
            width = min(max(1, round(large.width * height / large.height)), cell)
            pixels = torch.from_numpy(np.asarray(large.resize((width, height), Image.Resampling.BOX), np.float32))
            top, left = (cell - height) // 2, (cell - width) // 2
            atlas[row, column, top : top + height, left : left + width] = pixels / 255
            widths[row, column] = width / cell
    return atlas, widths


def render_glyphs(
    rng: np.random.Generator, which: Tensor, image_size: int, channels: int, glyphs: str = DIGITS
) -> Tensor:
    """Images ``(N, channels, image_size, image_size)``, uint8, in colour or its luma; all but ``which`` is ``rng``'s.

    They show the characters at these positions ``(N,)`` in ``glyphs``, and neighbours that are drawn from it. The masks
    of a character and its neighbours are sampled at twice the size, and blurred while they are halved; colours, light
    and noise are added at the final size.
    """
    number = len(which)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.from_numpy(rng.random((number, *shape), np.float32))

    sharpness = image_size / 32  # widths of blurs and outlines are in pixels of a 32 x 32 image
    reduce = _blur(between(0.3, 1.0) * sharpness, image_size)
    inside = (reduce @ _masks(between, which, image_size, glyphs) @ reduce.mT)[:, None]
    outline = max(1, round(sharpness))
    around = F.max_pool2d(inside, 2 * outline + 1, stride=1, padding=outline)
    around = around * (between(0, 1) < 0.3).view(-1, 1, 1, 1)

    ground = between(0, 1)
    darker, lighter = (ground - _CONTRAST).clamp(min=0), (1 - _CONTRAST - ground).clamp(min=0)
    ink = between(0, 1) * (darker + lighter)  # uniform in what is far enough from the ground
    ink = torch.where(ink < darker, ink, ink - darker + ground + _CONTRAST)
    image = _paint(between, ground, image_size)
    image = torch.lerp(image, _paint(between, between(0, 1), image_size), around)
    image = torch.lerp(image, _paint(between, ink, image_size), inside)

    shadows = F.interpolate(between(0.75, 1.15, 1, 3, 3), size=image_size, mode="bicubic", align_corners=True)
    noise = torch.from_numpy(rng.standard_normal(image.shape, np.float32))
    image = image * shadows + noise * between(0, 0.05, 1, 1, 1)
    if channels == 1:
        image = (image * _LUMA.view(3, 1, 1)).sum(1, keepdim=True)
    return image.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _masks(between: Draw, which: Tensor, image_size: int, glyphs: str) -> Tensor:
    """Where there is ink, at twice the size ``(N, 2 image_size, 2 image_size)`` in [0, 1]."""
    atlas, widths = _atlas(2 * image_size, glyphs)
    number, fine = len(which), 2 * image_size
    font = between(0, len(atlas)).long()[:, None]
    left, right = between(0, len(glyphs), 2).long().unbind(1)
    shown = torch.stack([left, which, right], 1)
    height = between(0.55, 0.9) / _HEIGHT
    width = height * between(0.8, 1.15)
    angle, slant = between(-20, 20).deg2rad(), between(-0.2, 0.2)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    stretch = torch.stack([width, slant * height, torch.zeros(number), height], 1).view(-1, 2, 2)
    back = torch.linalg.inv(turn @ stretch)  # from the image, [-1, 1] squared, to the digit's square

    room = 1 - height * _HEIGHT
    place = torch.stack([between(-0.12, 0.12), room * between(-0.7, 0.7)], 1)
    half = widths[font, shown]  # a square is 2 wide
    gap = between(0.1, 0.4, 2)
    step = (half[:, [0, 2]] + half[:, 1:2] + gap).maximum(0.8 / width[:, None])  # a neighbour is off the middle
    steps = torch.stack([-step[:, 0], torch.zeros(number), step[:, 1]], 1)
    offset = -(back @ place[:, :, None]).mT - F.pad(steps[:, :, None], (0, 1))

    axis = (torch.arange(fine) + 0.5) / image_size - 1  # centres of pixels
    down = back[:, None, :, 1] * axis[:, None]  # (N, fine, 2)
    across = back[:, None, :, 0] * axis[:, None]
    across = across[:, None] + offset[:, :, None]  # (N, 3, fine, 2)
    grid = (across[:, :, None] + down[:, None, :, None]).flatten(0, 1)
    masks = F.grid_sample(atlas[font, shown].flatten(0, 1)[:, None], grid, align_corners=False)
    present = F.pad((between(0, 1, 2) < 0.5).float(), (1, 0), value=1)[:, [1, 0, 2]]
    return (masks.view(number, 3, fine, fine) * present[:, :, None, None]).amax(1)


def _blur(sigma: Tensor, size: int) -> Tensor:
    """Gaussian weights ``(N, size, 2 size)`` that halve and blur one axis; ``sigma`` ``(N,)`` in final pixels."""
    distance = (torch.arange(size)[:, None] + 0.5) - (torch.arange(2 * size) + 0.5) / 2
    return torch.softmax(-(distance**2) / (2 * sigma.view(-1, 1, 1) ** 2), dim=2)


def _paint(between: Draw, luma: Tensor, size: int) -> Tensor:
    """A random colour of this luma ``(N,)``, with a gradient of at most 0.1 either way ``(N, 3, size, size)``."""
    luma = luma[:, None]
    tint = between(-1, 1, 3)
    tint = tint - (tint @ _LUMA)[:, None]
    room = (torch.where(tint > 0, 1 - luma, luma) / tint.abs().clamp(min=1e-6)).amin(1).clamp(max=1)
    colour = luma + (room * between(0, 1))[:, None] * tint
    angle, slope = between(0, 2 * math.pi), between(0, 0.1 / math.sqrt(2))
    axis = torch.linspace(-1, 1, size)
    ramp = (angle.cos() * slope)[:, None, None] * axis + (angle.sin() * slope)[:, None, None] * axis[:, None]
    return (colour[:, :, None, None] + ramp[:, None]).clamp_(0, 1)
