"""LeNet-5 for digits, in the two layouts that the papers use, at any width."""

from itertools import pairwise
from typing import ClassVar

from torch import nn

from kdlightning.networks.base import ChannelValues, Network, scaled


class LeNet5(Network):
    """LeNet-5 of DB3KD and ZSDB3KD: convolutions 20-50 (5x5, no padding), a hidden layer of 200.

    187,780 parameters at 28 x 28 pixels and 10 classes. Each convolution is followed by max-pooling and then
    ReLU, which equals ReLU and then max-pooling and touches a quarter of the values.

    Args:
        num_classes: number of logits.
        in_channels: channels of the pixels.
        image_size: height and width of the images, at least 16.
        width: multiplier of all channels and units.
        mean: channel means to subtract from the pixels; None for no normalisation.
        std: channel standard deviations to divide by.

    Raises:
        ValueError: if the images are too small for two convolutions with pooling.
    """

    fixed_size = True
    channels: ClassVar[tuple[int, int]] = (20, 50)
    hidden: ClassVar[tuple[int, ...]] = (200,)

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        width: float = 1.0,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        first, second = (scaled(channels, width) for channels in self.channels)
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"LeNet-5 expected images of at least 16 x 16 pixels, got image_size {image_size}")
        units = [side * side * second, *(scaled(units, width) for units in self.hidden)]
        super().__init__(num_classes, in_channels, image_size, units[-1], mean=mean, std=std)
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, first, 5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )
        self.neck = nn.Sequential(nn.Flatten())
        for before, after in pairwise(units):
            self.neck.extend([nn.Linear(before, after), nn.ReLU(inplace=True)])
        self.classifier = nn.Linear(units[-1], num_classes)


class LeNet5Half(LeNet5):
    """`LeNet5` at half width, DB3KD's student: 10-25-100, 47,645 parameters at 28 x 28 pixels."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, width=0.5, mean=mean, std=std)


class LeNet5Fifth(LeNet5):
    """`LeNet5` at a fifth of the width, DB3KD's small student: 4-10-40, 7,964 parameters at 28 pixels."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, width=0.2, mean=mean, std=std)


class LeNet5Classic(LeNet5):
    """LeCun's layout, which KD3's printed counts fit: 6-16-120-84, 61,706 parameters at 32 x 32 pixels.

    Arguments as for `LeNet5`.
    """

    channels = (6, 16)
    hidden = (120, 84)

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 32,
        width: float = 1.0,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, width, mean=mean, std=std)


class LeNet5ClassicHalf(LeNet5Classic):
    """`LeNet5Classic` at half width, KD3's student: 3-8-60-42, 15,738 parameters at 32 x 32 pixels."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 32,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, 0.5, mean=mean, std=std)
