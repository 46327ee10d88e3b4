"""Residual networks: the thin ones for CIFAR (depth 6n+2) and the wide ones of ImageNet (18, 34, 50).

.. [He2016] K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, arXiv:1512.03385.
.. [Tian2020] Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, arXiv:1910.10699.
.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdlightning.networks.base import ChannelValues, Network, scaled


class Residual(nn.Module):
    """``relu(block(x) + shortcut(x))``; the shortcut is a 1x1 convolution with BN where the shape changes.

    Args:
        block: convolutions with BN, the last without activation.
        before: channels of the input.
        after: channels of the output.
        stride: stride of the whole block.
    """

    def __init__(self, block: nn.Module, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.block = block
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``."""
        return F.relu(self.block(x) + self.shortcut(x), inplace=True)


def _convolution(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),
    ]


def _basic(before: int, channels: int, stride: int) -> Residual:
    first, second = _convolution(before, channels, 3, stride), _convolution(channels, channels, 3)
    return Residual(nn.Sequential(*first, nn.ReLU(inplace=True), *second), before, channels, stride)


def _bottleneck(before: int, channels: int, stride: int) -> Residual:
    block = nn.Sequential(
        *_convolution(before, channels, 1),
        nn.ReLU(inplace=True),
        *_convolution(channels, channels, 3, stride),
        nn.ReLU(inplace=True),
        *_convolution(channels, 4 * channels, 1),
    )
    return Residual(block, before, 4 * channels, stride)


def _stages(before: int, widths: Sequence[int], depths: Sequence[int], *, bottleneck: bool) -> nn.Sequential:
    """Stages of residual blocks; every stage but the first halves the map."""
    stages = nn.Sequential()
    for index, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
        stage = nn.Sequential()
        for position in range(depth):
            stride = 2 if index > 0 and position == 0 else 1
            stage.append((_bottleneck if bottleneck else _basic)(before, channels, stride))
            before = 4 * channels if bottleneck else channels
        stages.append(stage)
    return stages


def _pool() -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class CIFARResNet(Network):
    """Residual network of three stages 16-32-64 for small images [He2016]_, with 1x1-convolution shortcuts.

    MEKD's networks: ResNet-8 has 0.08M parameters, -20 0.27M, -32 0.47M, -56 0.86M, -110 1.7M. KD3's are the last
    (1.73M), -116 and three that are wider. The last map is a quarter of the image on a side.

    Args:
        depth: number of weighted layers, 6n + 2.
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels.
        stem_channels: channels of the first convolution; default those of the first stage. The multiplier does not
            apply to it.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.

    Raises:
        ValueError: if the depth is not 6n + 2.
    """

    def __init__(
        self,
        depth: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        stem_channels: int | None = None,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"CIFARResNet expected a depth of 6n + 2 (8, 20, 32, 56, 110, ...), got {depth}")
        widths = [scaled(channels, width) for channels in (16, 32, 64)]
        super().__init__(num_classes, in_channels, image_size, widths[-1], mean=mean, std=std)
        stem = widths[0] if stem_channels is None else stem_channels
        self.body = nn.Sequential(
            *_convolution(in_channels, stem, 3),
            nn.ReLU(inplace=True),
            _stages(stem, widths, [(depth - 2) // 6] * 3, bottleneck=False),
        )
        self.neck = _pool()
        self.classifier = nn.Linear(widths[-1], num_classes)


class ResNet(Network):
    """Residual network of four stages 64-128-256-512, by default with the stem for small images.

    With the CIFAR stem (3x3 convolution, stride 1, no pooling) and 10 classes, ResNet-18 has 11.17M
    parameters and ResNet-34 21.28M: KD3's and shader KD's networks.

    Args:
        depth: 18 and 34 use basic blocks, 50 bottlenecks.
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels.
        stem: "cifar" keeps the resolution; "imagenet" (7x7, stride 2, then 3x3 max-pooling) quarters it.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.

    Raises:
        ValueError: if the depth or the stem is unknown.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50] = 18,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
        if depth not in depths or stem not in ("cifar", "imagenet"):
            raise ValueError(f"expected depth 18, 34 or 50 and stem cifar or imagenet, got {depth} and {stem}")
        widths = [scaled(channels, width) for channels in (64, 128, 256, 512)]
        num_features = widths[-1] * (4 if depth == 50 else 1)
        super().__init__(num_classes, in_channels, image_size, num_features, mean=mean, std=std)
        kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.body = nn.Sequential(*_convolution(in_channels, widths[0], kernel, stride), nn.ReLU(inplace=True))
        if stem == "imagenet":
            self.body.append(nn.MaxPool2d(3, 2, padding=1))
        self.body.append(_stages(widths[0], widths, depths[depth], bottleneck=depth == 50))
        self.neck = _pool()
        self.classifier = nn.Linear(num_features, num_classes)


class ResNet8(CIFARResNet):
    """`CIFARResNet` of depth 8: MEKD's smallest student, 0.08M parameters."""

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
        super().__init__(8, num_classes, in_channels, image_size, width, mean=mean, std=std)


class ResNet20(CIFARResNet):
    """`CIFARResNet` of depth 20: 0.27M parameters."""

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
        super().__init__(20, num_classes, in_channels, image_size, width, mean=mean, std=std)


class ResNet32(CIFARResNet):
    """`CIFARResNet` of depth 32: MEKD's student, 0.47M parameters."""

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
        super().__init__(32, num_classes, in_channels, image_size, width, mean=mean, std=std)


class ResNet56(CIFARResNet):
    """`CIFARResNet` of depth 56: MEKD's teacher for CIFAR, 0.86M parameters."""

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
        super().__init__(56, num_classes, in_channels, image_size, width, mean=mean, std=std)


class ResNet110(CIFARResNet):
    """`CIFARResNet` of depth 110 [He2016]_, student of KD3 [Tang2023]_: 1.73M parameters, 0.26G MACs.

    Last map ``(N, 64, 8, 8)`` at 32 x 32 pixels.
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
        super().__init__(110, num_classes, in_channels, image_size, width, mean=mean, std=std)


class ResNet116(CIFARResNet):
    """`CIFARResNet` of depth 116 [He2016]_, student of KD3 [Tang2023]_: 1.83M parameters, 0.27G MACs.

    Last map ``(N, 64, 8, 8)`` at 32 x 32 pixels.
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
        super().__init__(116, num_classes, in_channels, image_size, width, mean=mean, std=std)


class ResNet110x2(CIFARResNet):
    """`CIFARResNet` of depth 110 with twice the channels, teacher of KD3 [Tang2023]_: 6.89M parameters, 1.02G MACs.

    Stages 32-64-128: last map ``(N, 128, 8, 8)`` at 32 x 32 pixels. The stem has 16 channels, not twice as many: only
    so all printed MACs fit (4.06G at 64 x 64 pixels, else 4.08G). Of the parameters, 6,899,610 with 10 classes, the
    paper has cut off the further digits. ``width`` multiplies all channels.
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
        stem = scaled(16, width)
        super().__init__(110, num_classes, in_channels, image_size, 2 * width, stem_channels=stem, mean=mean, std=std)


class ResNet8x4(CIFARResNet):
    """`CIFARResNet` of depth 8 with four times the channels, student of KD3 [Tang2023]_: 1.21M parameters, 0.18G MACs.

    Stages 64-128-256: last map ``(N, 256, 8, 8)`` at 32 x 32 pixels. The stem has 32 channels, only twice as many
    [Tian2020]_. ``width`` multiplies all channels.
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
        stem = scaled(32, width)
        super().__init__(8, num_classes, in_channels, image_size, 4 * width, stem_channels=stem, mean=mean, std=std)


class ResNet32x4(CIFARResNet):
    """`CIFARResNet` of depth 32 with four times the channels, teacher of KD3 [Tang2023]_: 7.41M parameters, 1.09G MACs.

    Stages 64-128-256: last map ``(N, 256, 8, 8)`` at 32 x 32 pixels. The stem has 32 channels, only twice as many
    [Tian2020]_. ``width`` multiplies all channels.
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
        stem = scaled(32, width)
        super().__init__(32, num_classes, in_channels, image_size, 4 * width, stem_channels=stem, mean=mean, std=std)


class ResNet18(ResNet):
    """`ResNet` of depth 18: 11.17M parameters with the CIFAR stem."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(18, num_classes, in_channels, image_size, width, stem=stem, mean=mean, std=std)


class ResNet34(ResNet):
    """`ResNet` of depth 34: 21.28M parameters with the CIFAR stem."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(34, num_classes, in_channels, image_size, width, stem=stem, mean=mean, std=std)


class ResNet50(ResNet):
    """`ResNet` of depth 50: bottlenecks, 23.5M parameters with the CIFAR stem."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(50, num_classes, in_channels, image_size, width, stem=stem, mean=mean, std=std)
