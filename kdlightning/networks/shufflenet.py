"""ShuffleNet-V1 and -V2 for small images.

.. [Zhang2018] X. Zhang, X. Zhou, M. Lin, J. Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for
   Mobile Devices. CVPR 2018, arXiv:1707.01083.
.. [Ma2018] N. Ma, X. Zhang, H.-T. Zheng, J. Sun. ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
   Design. ECCV 2018, arXiv:1807.11164.
.. [Tian2020] Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699.
.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlightning.networks.base import ChannelValues, Network, scaled

BLOCKS = (4, 8, 4)
GROUPS = 3  # of the 1x1 convolutions of ShuffleNet-V1


def _convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
    ]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return _convolution(channels, channels, 3, stride, groups=channels)


class GroupedUnit(nn.Module):
    """Unit of ShuffleNet-V1, Fig. 2 of [Zhang2018]_.

    ``relu(block(x) + x)``, with stride 2 ``relu([block(x), pool(x)])``. The block is a narrowing 1x1 convolution in
    groups, a shuffle of the groups, a depthwise 3x3 and a widening 1x1 convolution in groups.

    Args:
        before: channels of the input.
        after: channels of the output, a multiple of 3; more than ``before`` with stride 2, else as many.
        stride: 1, or 2 to halve the map.
        groups: groups of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        own = after - before if stride == 2 else after
        between = GROUPS * max(1, own // (4 * GROUPS))
        self.block = nn.Sequential(
            *_convolution(before, between, 1, groups=groups),
            nn.ReLU(inplace=True),
            nn.ChannelShuffle(groups),
            *_depthwise(between, stride),
            nn.ReLU(inplace=True),
            *_convolution(between, own, 1, groups=GROUPS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        y = self.block(x)
        return F.relu(x + y if self.pool is None else torch.cat([y, self.pool(x)], dim=1), inplace=True)


class SplitUnit(nn.Module):
    """Unit of ShuffleNet-V2, Figs. 3c and 3d of [Ma2018]_: two branches, joined and shuffled.

    With stride 1 one half of the channels passes and the other goes through the block (1x1, depthwise 3x3, 1x1); with
    stride 2 both branches read all channels, and the first is a depthwise 3x3 and a 1x1 convolution.

    Args:
        before: channels of the input.
        after: channels of the output, even; with stride 1 as many as ``before``.
        stride: 1, or 2 to halve the map.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        half = after // 2
        self.pass_by: nn.Sequential | None = None
        if stride == 2:
            self.pass_by = nn.Sequential(
                *_depthwise(before, stride), *_convolution(before, half, 1), nn.ReLU(inplace=True)
            )
        self.block = nn.Sequential(
            *_convolution(half if stride == 1 else before, half, 1),
            nn.ReLU(inplace=True),
            *_depthwise(half, stride),
            *_convolution(half, half, 1),
            nn.ReLU(inplace=True),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        if self.pass_by is None:
            first, second = x.chunk(2, dim=1)
        else:
            first, second = self.pass_by(x), x
        shuffled: Tensor = self.shuffle(torch.cat([first, self.block(second)], dim=1))
        return shuffled


class ShuffleNetV1(Network):
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

    Args:
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels, rounded so that groups divide them.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        first = 4 * GROUPS * scaled(20, width)
        super().__init__(num_classes, in_channels, image_size, 4 * first, mean=mean, std=std)
        before = GROUPS * scaled(8, width)
        self.body = nn.Sequential(*_convolution(in_channels, before, 1), nn.ReLU(inplace=True))
        for stage, blocks in enumerate(BLOCKS):
            after = first * 2**stage
            for block in range(blocks):
                groups = 1 if stage == block == 0 else GROUPS
                self.body.append(GroupedUnit(before, after, 2 if block == 0 else 1, groups))
                before = after
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(before, num_classes)


class ShuffleNetV2(Network):
    """ShuffleNet-V2 1x [Ma2018]_, KD3's student "ShuffleV2" [Tang2023]_: 1.26M parameters, 46.66M MACs.

    Stem of 24 channels, stages of 4, 8 and 4 units with 116, 232 and 464 channels, each of which halves the map, and a
    1x1 convolution to 1024: the last map is ``(N, 1024, 4, 4)`` at 32 x 32 pixels. 1,263,278 parameters with 10
    classes. The 46.66M include 4 operations per value that BN normalises; convolutions and classifier alone take
    44.41M. It is the variant for small images that distillation papers share [Tian2020]_: the stem is a 1x1
    convolution with stride 1 without pooling, not 3x3 with stride 2 and max-pooling (3x3 with stride 1 would take
    47.25M). All else is the paper's.

    Args:
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels, rounded to even numbers. The paper's 0.5x, 1.5x and 2x have others.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        num_features = scaled(1024, width)
        super().__init__(num_classes, in_channels, image_size, num_features, mean=mean, std=std)
        before, first = scaled(24, width), 2 * scaled(58, width)
        self.body = nn.Sequential(*_convolution(in_channels, before, 1), nn.ReLU(inplace=True))
        for stage, blocks in enumerate(BLOCKS):
            after = first * 2**stage
            for block in range(blocks):
                self.body.append(SplitUnit(before, after, 2 if block == 0 else 1))
                before = after
        self.body.extend([*_convolution(before, num_features, 1), nn.ReLU(inplace=True)])
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(num_features, num_classes)
