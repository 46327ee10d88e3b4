"""ShuffleNet-V1 and -V2 for small images.

.. [Zhang2018] X. Zhang, X. Zhou, M. Lin, J. Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for
   Mobile Devices. CVPR 2018, arXiv:1707.01083.
.. [Ma2018] N. Ma, X. Zhang, H.-T. Zheng, J. Sun. ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
   Design. ECCV 2018, arXiv:1807.11164.
.. [Tian2020] Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699.
.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from kdlightning.networks.architecture import Architecture, stage

BLOCKS = (4, 8, 4)
GROUPS = 3  # of the 1x1 convolutions of ShuffleNet-V1


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [*Conv2dNormActivation(channels, channels, 3, stride, groups=channels, activation_layer=None)]


class GroupedUnit(nn.Module):
    """Unit of ShuffleNet-V1, Fig. 2 of [Zhang2018]_.

    ``relu(block(x) + x)``, with stride 2 ``relu([block(x), pool(x)])``. The block is a narrowing 1x1 convolution in
    groups, a shuffle of the groups, a depthwise 3x3 and a widening 1x1 convolution in groups. ``after`` is a multiple
    of 3, with stride 2 more than ``before``, else as many.
    """

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        own = after - before if stride == 2 else after
        between = GROUPS * max(1, own // (4 * GROUPS))
        self.block = nn.Sequential(
            *Conv2dNormActivation(before, between, 1, groups=groups),
            nn.ChannelShuffle(groups),
            *Conv2dNormActivation(between, between, 3, stride, groups=between),
            *Conv2dNormActivation(between, own, 1, groups=GROUPS, activation_layer=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        y = self.block(x)
        return F.relu(x + y if self.pool is None else torch.cat([y, self.pool(x)], dim=1), inplace=True)


class SplitUnit(nn.Module):
    """Unit of ShuffleNet-V2, Figs. 3c and 3d of [Ma2018]_: two branches, joined and shuffled.

    With stride 1 one half of the channels passes and the other goes through the block (1x1, depthwise 3x3, 1x1); with
    stride 2 both branches read all channels, and the first is a depthwise 3x3 and a 1x1 convolution. ``after`` is even,
    with stride 1 as many as ``before``.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        half = after // 2
        self.pass_by: nn.Sequential | None = None
        if stride == 2:
            self.pass_by = nn.Sequential(*_depthwise(before, stride), *Conv2dNormActivation(before, half, 1))
        self.block = nn.Sequential(
            *Conv2dNormActivation(half if stride == 1 else before, half, 1),
            *_depthwise(half, stride),
            *Conv2dNormActivation(half, half, 1),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        first, second = x.chunk(2, dim=1) if self.pass_by is None else (self.pass_by(x), x)
        return cast(Tensor, self.shuffle(torch.cat([first, self.block(second)], dim=1)))


class ShuffleNetV1(Architecture):
    """ShuffleNet-V1 [Zhang2018]_ with 3 groups, KD3's student "ShuffleV1" [Tang2023]_: 0.86M parameters, 42.11M MACs.

    Stem of 24 channels, stages of 4, 8 and 4 units with 240, 480 and 960 channels, each of which halves the map: the
    last is ``(N, 960, 4, 4)`` at 32 x 32 pixels. 862,768 parameters with 10 classes. The 42.11M include 4 operations
    per value that BN normalises and one per value that the shortcuts pool; convolutions and classifier alone take
    38.61M. It is the variant for small images that distillation papers share [Tian2020]_; it differs from the paper in
    three things:

    1. The stem is a 1x1 convolution with stride 1 without pooling, not 3x3 with stride 2 and max-pooling.
    2. A unit with stride 2 narrows to a quarter of what its block adds (54, 60 and 120 channels), not of what it
       returns (60, 120 and 240); only so both published numbers fit (else 0.91M parameters).
    3. ReLU also after the depthwise convolution; the counts cannot tell.

    With a ``width``, channels are rounded so that groups divide them.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        first = 4 * GROUPS * self.scaled(20)
        before = GROUPS * self.scaled(8)
        self.body = nn.Sequential(*Conv2dNormActivation(self.in_channels, before, 1))
        for index, blocks in enumerate(BLOCKS):
            after = first * 2**index
            for block in range(blocks):
                groups = 1 if index == block == 0 else GROUPS
                self.body.append(GroupedUnit(before, after, 2 if block == 0 else 1, groups))
                before = after
        self.end(before)


class ShuffleNetV2(Architecture):
    """ShuffleNet-V2 1x [Ma2018]_, KD3's student "ShuffleV2" [Tang2023]_: 1.26M parameters, 46.66M MACs.

    Stem of 24 channels, stages of 4, 8 and 4 units with 116, 232 and 464 channels, each of which halves the map, and a
    1x1 convolution to 1024: the last map is ``(N, 1024, 4, 4)`` at 32 x 32 pixels. 1,263,278 parameters with 10
    classes. The 46.66M include 4 operations per value that BN normalises; convolutions and classifier alone take
    44.41M. It is the variant for small images that distillation papers share [Tian2020]_: the stem is a 1x1
    convolution with stride 1 without pooling, not 3x3 with stride 2 and max-pooling (3x3 with stride 1 would take
    47.25M). All else is the paper's. Other widths round channels to even numbers; the paper's 0.5x, 1.5x and 2x have
    others.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        before, first = self.scaled(24), 2 * self.scaled(58)
        self.body = nn.Sequential(*Conv2dNormActivation(self.in_channels, before, 1))
        for index, blocks in enumerate(BLOCKS):
            after = first * 2**index
            self.body.extend(stage(SplitUnit, before, after, blocks, 2))
            before = after
        after = self.scaled(1024)
        self.body.extend(Conv2dNormActivation(before, after, 1))
        self.end(after)
