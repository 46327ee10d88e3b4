"""MobileNet-V1 and -V2 for small images.

.. [Sandler2018] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen. MobileNetV2: Inverted Residuals and Linear
   Bottlenecks. CVPR 2018, arXiv:1801.04381.
.. [Tian2020] Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699.
.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from torch import Tensor, nn

from kdlightning.networks.base import ChannelValues, Network, scaled

# MobileNet-V2's expansion, channels, blocks and stride of the first block, Table 2 of [Sandler2018]_ but for one stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _convolution(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]


class MobileNetV1(Network):
    """MobileNet-V1 of MEKD: stem of 32 channels at stride 1, then 13 depthwise separable blocks up to 1024.

    The first block goes to 64 channels; 128, 256, 512 and 1024 begin with stride 2 and have 2, 2, 6 and 2
    blocks. 3.2M parameters with 10 classes, 3.3M with 100. MEKD's code has a bias in the pointwise
    convolutions, which the batch normalisation behind them cancels; here there is none.

    Args:
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels.
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
        before = scaled(32, width)
        self.body = nn.Sequential(*_convolution(in_channels, before, 3))
        for channels, blocks in ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2)):
            after = scaled(channels, width)
            for block in range(blocks):
                stride = 2 if block == 0 and channels > 64 else 1
                self.body.extend(_convolution(before, before, 3, stride, groups=before))
                self.body.extend(_convolution(before, after, 1))
                before = after
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(num_features, num_classes)


class InvertedResidual(nn.Module):
    """Widening 1x1, depthwise 3x3 and narrowing 1x1 convolution, Sec. 3.3 of [Sandler2018]_; the last without ReLU.

    The input is added where the shape stays.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: stride of the depthwise convolution.
        expansion: channels between as a multiple of ``before``.
    """

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        between = expansion * before
        self.block = nn.Sequential(
            *_convolution(before, between, 1),
            *_convolution(between, between, 3, stride, groups=between),
            *_convolution(between, after, 1)[:-1],
        )
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        y: Tensor = self.block(x)
        return x + y if self.adds else y


class MobileNetV2(Network):
    """MobileNet-V2 [Sandler2018]_ in the variant for small images that distillation papers share [Tian2020]_.

    Stem of 32 channels at stride 2, 17 inverted residuals up to 320 channels, then 1280. Strides 2, 1, 1, 2, 2, 1, 2, 1
    make the last map ``(N, 1280, 2, 2)`` at 32 x 32 pixels. `MobileNetV2Half` is the published size. The variant
    differs from the paper in three things:

    1. The stage of 24 channels has stride 1 instead of 2.
    2. The first block has a 1x1 convolution in front too, though it does not widen; only so KD3's MACs fit (else 7.29M
       at half width).
    3. ReLU instead of ReLU6, which is for low-precision arithmetic; the counts cannot tell.

    Args:
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels; of the last 1280 only if above 1, Sec. 4 of [Sandler2018]_.
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
        num_features = scaled(1280, max(1.0, width))
        super().__init__(num_classes, in_channels, image_size, num_features, mean=mean, std=std)
        before = scaled(32, width)
        self.body = nn.Sequential(*_convolution(in_channels, before, 3, 2))
        for expansion, channels, blocks, stride in STAGES:
            after = scaled(channels, width)
            for block in range(blocks):
                self.body.append(InvertedResidual(before, after, stride if block == 0 else 1, expansion))
                before = after
        self.body.extend(_convolution(before, num_features, 1))
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(num_features, num_classes)


class MobileNetV2Half(MobileNetV2):
    """`MobileNetV2` at half width, the student "MobileNetV2" of KD3 [Tang2023]_: 0.81M parameters, 7.37M MACs.

    Both printed numbers are those for 100 classes (812,836 parameters); with 10 there are 697,546. The 7.37M include 4
    operations per value that BN normalises; convolutions and classifier alone take 6.52M, with 10 classes 6.41M. Last
    map ``(N, 1280, 2, 2)`` at 32 x 32 pixels.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, width=0.5, mean=mean, std=std)
