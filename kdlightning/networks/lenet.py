"""LeNet-5 for digits, in the two layouts that the papers use, at any width."""

from itertools import pairwise
from typing import Any, ClassVar

from torch import nn

from kdlightning.networks.architecture import Architecture


class LeNet5(Architecture, defaults={"in_channels": 1, "image_size": 28}):
    """LeNet-5 of DB3KD and ZSDB3KD: convolutions 20-50 (5x5, no padding), a hidden layer of 200.

    187,780 parameters at 28 x 28 pixels and 10 classes. Each convolution is followed by max-pooling and then ReLU,
    which equals ReLU and then max-pooling and touches a quarter of the values. Images of fewer than 16 x 16 pixels, too
    small for two convolutions with pooling, are a ValueError.
    """

    fixed_size = True
    channels: ClassVar[tuple[int, int]] = (20, 50)
    hidden: ClassVar[tuple[int, ...]] = (200,)

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        side = ((self.image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"LeNet-5 expected images of at least 16 x 16 pixels, got image_size {self.image_size}")
        first, second = map(self.scaled, self.channels)
        self.body = nn.Sequential()
        for before, after in ((self.in_channels, first), (first, second)):
            self.body.extend([nn.Conv2d(before, after, 5), nn.MaxPool2d(2), nn.ReLU(inplace=True)])
        units = [side * side * second, *map(self.scaled, self.hidden)]
        self.num_features = units[-1]
        self.neck = nn.Sequential(nn.Flatten())
        for before, after in pairwise(units):
            self.neck.extend([nn.Linear(before, after), nn.ReLU(inplace=True)])
        self.classifier = nn.Linear(units[-1], self.num_classes)


class LeNet5Half(LeNet5, width=0.5):
    """`LeNet5` at half width, DB3KD's student: 10-25-100, 47,645 parameters at 28 x 28 pixels."""


class LeNet5Fifth(LeNet5, width=0.2):
    """`LeNet5` at a fifth of the width, DB3KD's small student: 4-10-40, 7,964 parameters at 28 pixels."""


class LeNet5Classic(LeNet5, defaults={"image_size": 32}):
    """LeCun's layout, which KD3's printed counts fit: 6-16-120-84, 61,706 parameters at 32 x 32 pixels."""

    channels = (6, 16)
    hidden = (120, 84)


class LeNet5ClassicHalf(LeNet5Classic, width=0.5):
    """`LeNet5Classic` at half width, KD3's student: 3-8-60-42, 15,738 parameters at 32 x 32 pixels."""
