"""MobileNet-V1 for small images."""

from torch import nn

from kdlightning.networks.base import ChannelValues, Network, scaled


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
