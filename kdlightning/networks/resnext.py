"""ResNeXt for small images: residual bottlenecks whose middle convolution is grouped.

.. [Xie2017] S. Xie, R. Girshick, P. Dollár, Z. Tu, K. He. Aggregated Residual Transformations for Deep Neural Networks.
   CVPR 2017, arXiv:1611.05431.
.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
"""

from functools import partial
from typing import Any

from torch import nn
from torchvision.ops import Conv2dNormActivation

from kdlightning.networks.architecture import Architecture, stage
from kdlightning.networks.resnet import bottleneck


class ResNeXt(Architecture):
    """ResNeXt-depth, C x d: bottlenecks with C groups of d channels in the first stage, twice as many in each next one.

    Depth 29 and other 9n + 2 as on CIFAR in [Xie2017]_: three stages that end in 256, 512 and 1024 channels. 50: the
    four stages of ImageNet, up to 2048, 3-4-6-3 blocks. Always with the stem for small images: a 3x3 convolution to 64
    channels, no pooling. Activations come after the sums, as in the authors' code (their first draft had them before).
    With 10 classes ResNeXt-29 has 34.4M parameters as 8 x 64d and 68.1M as 16 x 64d.

    What [Frank2023]_ call RX29-64x4, RX29-64x8 and RX50-32x8 they do not say. Here they are 4 x 64d and 8 x 64d, the
    usual networks of depth 29 for CIFAR, of which [Xie2017]_ print the latter, and 32 x 8d, as those for ImageNet are
    usually written. Read the other way, each has bottlenecks just as wide but other groups: ``cardinality=64,
    base_width=4`` (or 8), and ``cardinality=8, base_width=32``.

    Args:
        depth: 9n + 2, or 50; others are a ValueError.
        cardinality: C, the number of groups, at least 1.
        base_width: d, channels of a group in the first stage, at least 1.
        width: multiplier of all channels; groups become narrower, not fewer.
    """

    def __init__(self, depth: int = 29, cardinality: int = 8, base_width: int = 64, **options: Any) -> None:  # noqa: ANN401
        if depth != 50 and (depth < 11 or depth % 9 != 2):
            raise ValueError(f"ResNeXt expected a depth of 9n + 2 (20, 29, 38, ...) or 50, got {depth}")
        if cardinality < 1 or base_width < 1:
            raise ValueError(f"ResNeXt expected at least one group of one channel, got {cardinality} of {base_width}")
        depths = [3, 4, 6, 3] if depth == 50 else [(depth - 2) // 9] * 3
        super().__init__(**options)
        before = self.scaled(64)
        self.body = nn.Sequential(*Conv2dNormActivation(self.in_channels, before, 3))
        for index, blocks in enumerate(depths):
            inner, after = cardinality * self.scaled(base_width * 2**index), self.scaled(256 * 2**index)
            block = partial(bottleneck, inner=inner, groups=cardinality)  # Fig. 3(c) of [Xie2017]_
            self.body.append(nn.Sequential(*stage(block, before, after, blocks, 2 if index else 1)))
            before = after
        self.end(before)


class ResNeXt29x4x64d(ResNeXt, depth=29, cardinality=4, base_width=64):
    """`ResNeXt` of depth 29, 4 groups of 64 channels: RX29-64x4 of [Frank2023]_, as understood here."""


class ResNeXt29x8x64d(ResNeXt, depth=29, cardinality=8, base_width=64):
    """`ResNeXt` of depth 29, 8 groups of 64 channels: RX29-64x8 of [Frank2023]_, as understood here."""


class ResNeXt50x32x8d(ResNeXt, depth=50, cardinality=32, base_width=8):
    """`ResNeXt` of depth 50, 32 groups of 8 channels: RX50-32x8 of [Frank2023]_, as understood here."""
