"""MobileNet-V1 and -V2 for small images.

.. [Sandler2018] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen. MobileNetV2: Inverted Residuals and Linear
   Bottlenecks. CVPR 2018, arXiv:1801.04381.
.. [Tian2020] Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699.
.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from kdlightning.networks.architecture import Architecture, stage

# MobileNet-V2's expansion, channels, blocks and stride of the first block, Table 2 of [Sandler2018]_ but for one stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV1(Architecture):
    """MobileNet-V1 of MEKD: stem of 32 channels at stride 1, then 13 depthwise separable blocks up to 1024.

    The first block goes to 64 channels; 128, 256, 512 and 1024 begin with stride 2 and have 2, 2, 6 and 2
    blocks. 3.2M parameters with 10 classes, 3.3M with 100. MEKD's code has a bias in the pointwise
    convolutions, which the batch normalisation behind them cancels; here there is none.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        before = self.scaled(32)
        self.body = nn.Sequential(*Conv2dNormActivation(self.in_channels, before, 3))
        for channels, blocks in ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2)):
            after = self.scaled(channels)
            for block in range(blocks):
                stride = 2 if block == 0 and channels > 64 else 1
                self.body.extend(Conv2dNormActivation(before, before, 3, stride, groups=before))
                self.body.extend(Conv2dNormActivation(before, after, 1))
                before = after
        self.end(before)


class InvertedResidual(nn.Module):
    """Widening 1x1, depthwise 3x3 and narrowing 1x1 convolution, Sec. 3.3 of [Sandler2018]_; the last without ReLU.

    The input is added where the shape stays. ``expansion``: channels between as a multiple of ``before``.
    """

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        between = expansion * before
        self.block = nn.Sequential(
            *Conv2dNormActivation(before, between, 1),
            *Conv2dNormActivation(between, between, 3, stride, groups=between),
            *Conv2dNormActivation(between, after, 1, activation_layer=None),
        )
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        y: Tensor = self.block(x)
        return x + y if self.adds else y


class MobileNetV2(Architecture):
    """MobileNet-V2 [Sandler2018]_ in the variant for small images that distillation papers share [Tian2020]_.

    Stem of 32 channels at stride 2, 17 inverted residuals up to 320 channels, then 1280. Strides 2, 1, 1, 2, 2, 1, 2, 1
    make the last map ``(N, 1280, 2, 2)`` at 32 x 32 pixels. `MobileNetV2Half` is the published size. The variant
    differs from the paper in three things:

    1. The stage of 24 channels has stride 1 instead of 2.
    2. The first block has a 1x1 convolution in front too, though it does not widen; only so KD3's MACs fit (else 7.29M
       at half width).
    3. ReLU instead of ReLU6, which is for low-precision arithmetic; the counts cannot tell.

    The last 1280 channels are multiplied by the width only if it is above 1, Sec. 4 of [Sandler2018]_.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        num_features = max(1280, self.scaled(1280))
        before = self.scaled(32)
        self.body = nn.Sequential(*Conv2dNormActivation(self.in_channels, before, 3, 2))
        for expansion, channels, blocks, stride in STAGES:
            after = self.scaled(channels)
            self.body.extend(stage(partial(InvertedResidual, expansion=expansion), before, after, blocks, stride))
            before = after
        self.body.extend(Conv2dNormActivation(before, num_features, 1))
        self.end(num_features)


class MobileNetV2Half(MobileNetV2, width=0.5):
    """`MobileNetV2` at half width, the student "MobileNetV2" of KD3 [Tang2023]_: 0.81M parameters, 7.37M MACs.

    Both printed numbers are those for 100 classes (812,836 parameters); with 10 there are 697,546. The 7.37M include 4
    operations per value that BN normalises; convolutions and classifier alone take 6.52M, with 10 classes 6.41M. Last
    map ``(N, 1280, 2, 2)`` at 32 x 32 pixels.
    """
