"""Characters of printed and screen fonts: a pool like those from the web, of which few images are digits."""

import string

import numpy as np
import torch
from torch import Tensor

from kdlightning.data.rendered import BLOCK, DIGITS, RenderedDataModule
from kdlightning.data.sets import ImageSet

SYMBOLS = "!?#$%&@()[]/+=*<>"
CHARACTERS = DIGITS + string.ascii_letters + SYMBOLS


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

        def draw(rng: np.random.Generator) -> Tensor:
            return torch.from_numpy(rng.integers(len(CHARACTERS), size=BLOCK))

        return self.render(self.number, draw), None, None
