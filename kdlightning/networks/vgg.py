"""VGG for small images, with and without batch normalisation."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, Literal, cast

from torch import nn

from kdlightning.networks.architecture import Architecture

DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


class VGG(Architecture):
    """VGG: five blocks of 3x3 convolutions 64-128-256-512-512, average pooling, hidden layers, classifier.

    The papers use two kinds. MEKD: no BN, 2x2 max-pooling after every block, two hidden layers of 512, each
    with dropout on its input (`VGG11`, `VGG13`). KD3: BN, max-pooling after the first three blocks only (four
    at 64 pixels), so that the last map is 512 x 4 x 4, no hidden layer (`VGG13BN`, `VGG16BN`). Convolutions
    have a bias next to BN as well: the printed counts include it. They start from He's normal distribution,
    without which the networks that have no BN hardly train.

    Args:
        depth: number of weighted layers of the original, 11, 13 or 16; others are a ValueError.
        batch_norm: batch normalisation after every convolution.
        pools: how many of the five blocks, from the first, end in 2x2 pooling; a ValueError if images are too small.
        hidden: units of the hidden layers, each dropout, linear, ReLU.
        dropout: probability of dropping an input of a hidden layer.
    """

    def __init__(
        self,
        depth: Literal[11, 13, 16] = 16,
        *,
        batch_norm: bool = False,
        pools: int = 5,
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.5,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if depth not in DEPTHS:
            raise ValueError(f"VGG expected depth 11, 13 or 16, got {depth}")
        super().__init__(**options)
        size = self.image_size
        if not 0 <= pools <= 5 or size >> pools < 1:
            raise ValueError(f"{pools} poolings do not fit images of {size} pixels; at most 5, each halves")
        widths = [self.scaled(channels) for channels in (64, 128, 256, 512, 512)]
        self.body = nn.Sequential()
        before = self.in_channels
        for block, (channels, convolutions) in enumerate(zip(widths, DEPTHS[depth], strict=True)):
            for _ in range(convolutions):
                self.body.append(convolution := nn.Conv2d(before, channels, 3, padding=1))
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(cast(nn.Parameter, convolution.bias))
                if batch_norm:
                    self.body.append(nn.BatchNorm2d(channels))
                self.body.append(nn.ReLU(inplace=True))
                before = channels
            if block < pools:
                self.body.append(nn.MaxPool2d(2))
        units = [before, *map(self.scaled, hidden)]
        layers = [[nn.Dropout(dropout), nn.Linear(a, b), nn.ReLU(inplace=True)] for a, b in pairwise(units)]
        self.end(units[-1], *chain.from_iterable(layers))


class VGG11(VGG, depth=11, batch_norm=False, pools=5, hidden=(512, 512)):
    """`VGG` of depth 11 without BN, MEKD's student: 9.75M parameters."""


class VGG13(VGG, depth=13, batch_norm=False, pools=5, hidden=(512, 512)):
    """`VGG` of depth 13 without BN, MEKD's teacher: 9.94M parameters."""


class VGG13BN(VGG, defaults={"pools": 3}, depth=13, batch_norm=True, hidden=(), dropout=0.0):
    """`VGG` of depth 13 with BN and a single linear layer, KD3's student: 9.42M parameters.

    Three poolings up to 32 pixels; pass ``pools=4`` for 64 pixels.
    """


class VGG16BN(VGG, defaults={"pools": 3}, depth=16, batch_norm=True, hidden=(), dropout=0.0):
    """`VGG` of depth 16 with BN and a single linear layer, KD3's teacher: 14.73M parameters; as `VGG13BN` else."""
