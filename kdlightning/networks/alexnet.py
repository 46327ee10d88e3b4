"""AlexNet for 32-pixel images, as DB3KD uses it."""

from typing import Any

from torch import nn
from torchvision.ops import Conv2dNormActivation

from kdlightning.networks.architecture import Architecture


class AlexNet(Architecture):
    """AlexNet of DB3KD: 3x3 convolutions 64 (stride 2)-192-384-256-256 with BN, hidden layers 4096-4096.

    Max-pooling follows the first, second and fifth convolution. A hidden layer is linear, ReLU, dropout, BN. Images of
    fewer than 15 x 15 pixels, which cannot be halved four times, are a ValueError.

    Args:
        dropout: probability of dropping a hidden unit.
    """

    fixed_size = True

    def __init__(self, *, dropout: float = 0.5, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        side = (self.image_size + 1) // 2 // 8
        if side < 1:
            raise ValueError(f"AlexNet expected images of at least 15 x 15 pixels, got image_size {self.image_size}")
        self.num_features = hidden = self.scaled(4096)
        self.body = nn.Sequential()
        before = self.in_channels
        for index, channels in enumerate((64, 192, 384, 256, 256)):
            after = self.scaled(channels)
            self.body.extend(Conv2dNormActivation(before, after, 3, 2 if index == 0 else 1, bias=True))
            if index in (0, 1, 4):
                self.body.append(nn.MaxPool2d(2))
            before = after
        self.neck = nn.Sequential(nn.Flatten())
        for inputs in (before * side * side, hidden):
            self.neck.extend([nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)])
            self.neck.append(nn.BatchNorm1d(hidden))
        self.classifier = nn.Linear(hidden, self.num_classes)


class AlexNetHalf(AlexNet, width=0.5):
    """`AlexNet` at half width, DB3KD's student."""


class AlexNetQuarter(AlexNet, width=0.25):
    """`AlexNet` at a quarter of the width, DB3KD's small student."""
