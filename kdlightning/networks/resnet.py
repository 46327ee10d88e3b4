"""Residual networks: the thin ones for CIFAR (depth 6n+2) and the wide ones of ImageNet (18, 34, 50).

.. [He2016] K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385.
.. [Tian2020] Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699.
.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from kdlightning.networks.architecture import Architecture, stages

Stem = Literal["cifar", "imagenet"]


class Residual(nn.Module):
    """``relu(block(x) + shortcut(x))``; the shortcut is a 1x1 convolution with BN where the shape changes."""

    def __init__(self, block: list[nn.Module], before: int, after: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*block)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(*Conv2dNormActivation(before, after, 1, stride, activation_layer=None))

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        return F.relu(self.block(x) + self.shortcut(x), inplace=True)


def _basic(before: int, after: int, stride: int) -> Residual:
    first = Conv2dNormActivation(before, after, 3, stride)
    return Residual([*first, *Conv2dNormActivation(after, after, 3, activation_layer=None)], before, after, stride)


def bottleneck(before: int, after: int, stride: int, inner: int | None = None, groups: int = 1) -> Residual:
    """A block of 1x1, (grouped) 3x3 and 1x1 convolution, with ``inner`` channels between them, a quarter by default."""
    inner = inner or after // 4
    block = [
        *Conv2dNormActivation(before, inner, 1),
        *Conv2dNormActivation(inner, inner, 3, stride, groups=groups),
        *Conv2dNormActivation(inner, after, 1, activation_layer=None),
    ]
    return Residual(block, before, after, stride)


class CIFARResNet(Architecture):
    """Residual network of three stages 16-32-64 for small images [He2016]_, with 1x1-convolution shortcuts.

    MEKD's networks: ResNet-8 has 0.08M parameters, -20 0.27M, -32 0.47M, -56 0.86M, -110 1.7M. KD3's are the last
    (1.73M), -116 and three that are wider. The last map is a quarter of the image on a side.

    Args:
        depth: number of weighted layers, 6n + 2; others are a ValueError.
        stem_channels: channels of the first convolution, to which ``width`` does not apply; default the first stage's.
    """

    channels: ClassVar[tuple[int, ...]] = (16, 32, 64)
    stem: ClassVar[int] = 16

    def __init__(self, depth: int = 20, *, stem_channels: int | None = None, **options: Any) -> None:  # noqa: ANN401
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"CIFARResNet expected a depth of 6n + 2 (8, 20, 32, 56, 110, ...), got {depth}")
        super().__init__(**options)
        widths = [self.scaled(channels) for channels in self.channels]
        stem = self.scaled(self.stem) if stem_channels is None else stem_channels
        self.body = nn.Sequential(
            *Conv2dNormActivation(self.in_channels, stem, 3),
            stages(_basic, stem, widths, [(depth - 2) // 6] * 3),
        )
        self.end(widths[-1])


class ResNet(Architecture):
    """Residual network of four stages 64-128-256-512, by default with the stem for small images.

    With the CIFAR stem (3x3 convolution, stride 1, no pooling) and 10 classes, ResNet-18 has 11.17M
    parameters and ResNet-34 21.28M: KD3's and shader KD's networks.

    Args:
        depth: 18 and 34 use basic blocks, 50 bottlenecks; others are a ValueError.
        stem: "cifar" keeps the resolution; "imagenet" (7x7, stride 2, then 3x3 max-pooling) quarters it.
    """

    def __init__(self, depth: Literal[18, 34, 50] = 18, *, stem: Stem = "cifar", **options: Any) -> None:  # noqa: ANN401
        depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
        if depth not in depths or stem not in ("cifar", "imagenet"):
            raise ValueError(f"expected depth 18, 34 or 50 and stem cifar or imagenet, got {depth} and {stem}")
        super().__init__(**options)
        widths = [self.scaled(channels) for channels in (64, 128, 256, 512)]
        before, block = widths[0], _basic
        if depth == 50:
            widths, block = [4 * channels for channels in widths], bottleneck
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.body = nn.Sequential(*Conv2dNormActivation(self.in_channels, before, kernel, stride))
        if stem == "imagenet":
            self.body.append(nn.MaxPool2d(3, 2, padding=1))
        self.body.append(stages(block, before, widths, depths[depth]))
        self.end(widths[-1])


class ResNet8(CIFARResNet, depth=8, stem_channels=None):
    """`CIFARResNet` of depth 8: MEKD's smallest student, 0.08M parameters."""


class ResNet20(CIFARResNet, depth=20, stem_channels=None):
    """`CIFARResNet` of depth 20: 0.27M parameters."""


class ResNet32(CIFARResNet, depth=32, stem_channels=None):
    """`CIFARResNet` of depth 32: MEKD's student, 0.47M parameters."""


class ResNet56(CIFARResNet, depth=56, stem_channels=None):
    """`CIFARResNet` of depth 56: MEKD's teacher for CIFAR, 0.86M parameters."""


class ResNet110(CIFARResNet, depth=110, stem_channels=None):
    """`CIFARResNet` of depth 110 [He2016]_, student of KD3 [Tang2023]_: 1.73M parameters, 0.26G MACs."""


class ResNet116(CIFARResNet, depth=116, stem_channels=None):
    """`CIFARResNet` of depth 116 [He2016]_, student of KD3 [Tang2023]_: 1.83M parameters, 0.27G MACs."""


class ResNet8x4(CIFARResNet, depth=8, stem_channels=None):
    """`CIFARResNet` of depth 8 with four times the channels, student of KD3 [Tang2023]_: 1.21M parameters, 0.18G MACs.

    Stages 64-128-256: last map ``(N, 256, 8, 8)`` at 32 x 32 pixels. The stem has 32 channels, only twice as many
    [Tian2020]_. ``width`` multiplies all channels.
    """

    channels = (64, 128, 256)
    stem = 32


class ResNet32x4(CIFARResNet, depth=32, stem_channels=None):
    """`CIFARResNet` of depth 32 with four times the channels, teacher of KD3 [Tang2023]_: 7.41M parameters, 1.09G MACs.

    Stages and stem are those of `ResNet8x4`.
    """

    channels = (64, 128, 256)
    stem = 32


class ResNet110x2(CIFARResNet, depth=110, stem_channels=None):
    """`CIFARResNet` of depth 110 with twice the channels, teacher of KD3 [Tang2023]_: 6.89M parameters, 1.02G MACs.

    Stages 32-64-128: last map ``(N, 128, 8, 8)`` at 32 x 32 pixels. The stem has 16 channels, not twice as many: only
    so all printed MACs fit (4.06G at 64 x 64 pixels, else 4.08G). Of the parameters, 6,899,610 with 10 classes, the
    paper has cut off the further digits. ``width`` multiplies all channels.
    """

    channels = (32, 64, 128)


class ResNet18(ResNet, depth=18):
    """`ResNet` of depth 18: 11.17M parameters with the CIFAR stem."""


class ResNet34(ResNet, depth=34):
    """`ResNet` of depth 34: 21.28M parameters with the CIFAR stem."""


class ResNet50(ResNet, depth=50):
    """`ResNet` of depth 50: bottlenecks, 23.5M parameters with the CIFAR stem."""
