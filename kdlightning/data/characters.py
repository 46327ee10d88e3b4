"""Characters of printed and screen fonts: a pool like those from the web, of which few images are digits."""

import string
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlightning.data.base import ImageSet, tensor_set
from kdlightning.data.rendered import BLOCK, DIGITS, RenderedDataModule

SYMBOLS = "!?#$%&@()[]/+=*<>"
CHARACTERS = DIGITS + string.ascii_letters + SYMBOLS


class RenderedCharactersDataModule(RenderedDataModule):
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

    name, num_classes, default_num_val = "rendered-characters", len(CHARACTERS), 0

    def __init__(
        self,
        number: int = 50_000,
        channels: int = 3,
        render_seed: int = 0,
        image_size: int = 32,
        **options: Any,  # noqa: ANN401 - the base's
    ) -> None:
        super().__init__(number, channels, render_seed, image_size, **options)
        self.class_names = list(CHARACTERS)

    def load(self) -> tuple[ImageSet, None, None]:
        """Render: 10,000 images of 28 x 28 take some five seconds of one core."""

        def draw(rng: np.random.Generator) -> Tensor:
            return torch.from_numpy(rng.integers(len(CHARACTERS), size=BLOCK))

        return tensor_set(*self.render(self.number, draw, glyphs=CHARACTERS)), None, None
