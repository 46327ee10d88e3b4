"""Characters of printed and screen fonts: a pool like those from the web, of which few images are digits."""

import string
from typing import Any

import numpy as np
import torch

from kdlightning.data.base import ImageDataModule, ImageSet, tensor_set
from kdlightning.data.rendered import DIGITS, digit_fonts, render_glyphs

SYMBOLS = "!?#$%&@()[]/+=*<>"
CHARACTERS = DIGITS + string.ascii_letters + SYMBOLS

_BLOCK = 100  # images drawn and rendered at once: seeds are per block, and a block is always rendered whole


class RenderedCharactersDataModule(ImageDataModule):
    """Digits among letters and symbols, in matplotlib's fonts and in styles that handwriting never has.

    Each image shows one character in its middle, like :class:`RenderedDigitsDataModule`'s: random font, size, place,
    rotation, shear, grey or colours of either polarity, gradients, shadows, neighbours, outlines, blur and noise. All
    characters are equally frequent: 10 of 79 are digits, one in eight. Image ``i`` depends on ``render_seed``, the size
    and ``i``, not on how many there are. There are no test images: it is a pool for :class:`UnionDataModule`.

    Args:
        number: images.
        channels: 3 for colour, 1 for the luma of the same images.
        render_seed: owner of the images; ``seed`` owns the order.
        image_size: height and width; images are rendered at that size.
        options: see :class:`ImageDataModule`; there is no ``root`` and no ``download``.

    Raises:
        ValueError: no image, fewer than 8 pixels, a negative ``render_seed``, or neither 1 nor 3 channels.
    """

    name, num_classes, native_size, default_num_val = "rendered-characters", len(CHARACTERS), 32, 0

    def __init__(
        self,
        number: int = 50_000,
        channels: int = 3,
        render_seed: int = 0,
        image_size: int = 32,
        **options: Any,  # noqa: ANN401 - the base's
    ) -> None:
        super().__init__("", False, image_size=image_size, **options)
        least = {"number": (number, 1), "image_size": (image_size, 8), "render_seed": (render_seed, 0)}
        for setting, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"{setting}: expected at least {minimum}, got {value}")
        if channels not in (1, 3):
            raise ValueError(f"channels: expected 1 (grey) or 3 (colour), got {channels}")
        self.number, self.channels, self.render_seed = number, channels, render_seed
        self.class_names = list(CHARACTERS)

    def load(self) -> tuple[ImageSet, None, None]:
        """Render: 10,000 images of 28 x 28 take some five seconds of one core."""
        images = torch.empty(self.number, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        labels = []
        for block, target in enumerate(images.split(_BLOCK)):
            rng = np.random.default_rng([self.render_seed, block])
            which = torch.from_numpy(rng.integers(len(CHARACTERS), size=_BLOCK))
            target.copy_(render_glyphs(rng, which, self.image_size, self.channels, CHARACTERS)[: len(target)])
            labels.append(which)
        return tensor_set(images, torch.cat(labels)[: self.number]), None, None

    def identity(self) -> dict[str, Any]:
        """Includes what the images are made from, except ``number``, on which none of them depends."""
        made = {"channels": self.channels, "render_seed": self.render_seed, "fonts": len(digit_fonts())}
        return {**super().identity(), **made}
