"""Wide residual networks for small images, with activations before convolutions.

.. [Zagoruyko2016] S. Zagoruyko, N. Komodakis. Wide Residual Networks. BMVC 2016, arXiv:1605.07146.
.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
"""

from torch import Tensor, nn

from kdlightning.networks.base import ChannelValues, Network, scaled


class PreActivated(nn.Module):
    """Two 3x3 convolutions, BN and ReLU before each; Fig. 1(b) of [Zagoruyko2016]_.

    The shortcut takes the input as it is; where the shape changes, a 1x1 convolution of the activated input, without BN
    (so the authors' code).

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: stride of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(N, before, h, w)`` → ``(N, after, h / stride, w / stride)``, not activated."""
        active = self.activation(x)
        kept = x if self.shortcut is None else self.shortcut(active)
        total: Tensor = self.block(active) + kept
        return total


class WideResNet(Network):
    """WRN-depth-k [Zagoruyko2016]_: a stem of 16 channels, three stages of 16k, 32k and 64k, no dropout.

    The last map, a quarter of the image on a side, is activated. With 10 classes WRN-22-8 has 17.2M parameters and
    WRN-28-10 36.5M: shader KD's networks [Frank2023]_, who write WRN22x8 and WRN28x10.

    Args:
        depth: number of convolutions, the shortcuts' three included, 6n + 4.
        widening: k.
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images it is meant for; others work.
        width: multiplier of all channels, the stem's too.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.

    Raises:
        ValueError: if the depth is not 6n + 4 or ``widening`` is not positive.
    """

    def __init__(
        self,
        depth: int = 28,
        widening: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        if depth < 10 or depth % 6 != 4 or widening < 1:
            raise ValueError(
                "WideResNet expected a depth of 6n + 4 (10, 16, 22, 28, 40, ...) and a positive widening,"
                f" got {depth} and {widening}"
            )
        num_features = scaled(64 * widening, width)
        super().__init__(num_classes, in_channels, image_size, num_features, mean=mean, std=std)
        before = scaled(16, width)
        self.body = nn.Sequential(nn.Conv2d(in_channels, before, 3, padding=1, bias=False))
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            after, stage = scaled(channels * widening, width), nn.Sequential()
            for position in range((depth - 4) // 6):
                stage.append(PreActivated(before, after, stride if position == 0 else 1))
                before = after
            self.body.append(stage)
        self.body.extend([nn.BatchNorm2d(before), nn.ReLU(inplace=True)])
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(num_features, num_classes)


class WRN22x8(WideResNet):
    """`WideResNet` of depth 22, eight times as wide: 17.2M parameters. Teacher of [Frank2023]_ on CIFAR-10."""

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
        super().__init__(22, 8, num_classes, in_channels, image_size, width, mean=mean, std=std)


class WRN28x10(WideResNet):
    """`WideResNet` of depth 28, ten times as wide: 36.5M parameters. Teacher of [Frank2023]_ on Tiny ImageNet."""

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
        super().__init__(28, 10, num_classes, in_channels, image_size, width, mean=mean, std=std)
