"""AlexNet for 32-pixel images, as DB3KD uses it."""

from torch import nn

from kdlightning.networks.base import ChannelValues, Network, scaled


class AlexNet(Network):
    """AlexNet of DB3KD: 3x3 convolutions 64 (stride 2)-192-384-256-256 with BN, hidden layers 4096-4096.

    Max-pooling follows the first, second and fifth convolution. A hidden layer is linear, ReLU, dropout, BN.

    Args:
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images, at least 15.
        width: multiplier of all channels and units.
        dropout: probability of dropping a hidden unit.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.

    Raises:
        ValueError: if the images are too small to be halved four times.
    """

    fixed_size = True

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        dropout: float = 0.5,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        side = (image_size + 1) // 2 // 8
        if side < 1:
            raise ValueError(f"AlexNet expected images of at least 15 x 15 pixels, got image_size {image_size}")
        hidden = scaled(4096, width)
        super().__init__(num_classes, in_channels, image_size, hidden, mean=mean, std=std)
        self.body = nn.Sequential()
        before = in_channels
        for index, channels in enumerate((64, 192, 384, 256, 256)):
            after = scaled(channels, width)
            stride = 2 if index == 0 else 1
            self.body.extend(
                [
                    nn.Conv2d(before, after, 3, stride, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                ]
            )
            if index in (0, 1, 4):
                self.body.append(nn.MaxPool2d(2))
            before = after
        self.neck = nn.Sequential(nn.Flatten())
        for inputs in (before * side * side, hidden):
            self.neck.extend(
                [
                    nn.Linear(inputs, hidden),
                    nn.ReLU(inplace=True),
                    nn.Dropout(dropout),
                    nn.BatchNorm1d(hidden),
                ]
            )
        self.classifier = nn.Linear(hidden, num_classes)


class AlexNetHalf(AlexNet):
    """`AlexNet` at half width, DB3KD's student."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        dropout: float = 0.5,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, 0.5, dropout=dropout, mean=mean, std=std)


class AlexNetQuarter(AlexNet):
    """`AlexNet` at a quarter of the width, DB3KD's small student."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        dropout: float = 0.5,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, 0.25, dropout=dropout, mean=mean, std=std)
