"""Wide residual networks for small images, with activations before convolutions.

.. [Zagoruyko2016] S. Zagoruyko, N. Komodakis. Wide Residual Networks. BMVC 2016, arXiv:1605.07146.
.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
"""

from typing import Any, cast

from torch import Tensor, nn

from kdlightning.networks.architecture import Architecture, stages


class PreActivated(nn.Module):
    """Two 3x3 convolutions, BN and ReLU before each; Fig. 1(b) of [Zagoruyko2016]_.

    The shortcut takes the input as it is; where the shape changes, a 1x1 convolution of the activated input, without BN
    (so the authors' code).
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
        return cast(Tensor, self.block(active) + kept)


class WideResNet(Architecture):
    """WRN-depth-k [Zagoruyko2016]_: a stem of 16 channels, three stages of 16k, 32k and 64k, no dropout.

    The last map, a quarter of the image on a side, is activated. With 10 classes WRN-22-8 has 17.2M parameters and
    WRN-28-10 36.5M: shader KD's networks [Frank2023]_, who write WRN22x8 and WRN28x10.

    Args:
        depth: number of convolutions, the shortcuts' three included, 6n + 4; others are a ValueError.
        widening: k; a ValueError if it is not positive.
    """

    def __init__(self, depth: int = 28, widening: int = 10, **options: Any) -> None:  # noqa: ANN401
        if depth < 10 or depth % 6 != 4 or widening < 1:
            wanted = "a depth of 6n + 4 (10, 16, 22, 28, 40, ...) and a positive widening"
            raise ValueError(f"WideResNet expected {wanted}, got {depth} and {widening}")
        super().__init__(**options)
        before, widths = self.scaled(16), [self.scaled(channels * widening) for channels in (16, 32, 64)]
        self.body = nn.Sequential(
            nn.Conv2d(self.in_channels, before, 3, padding=1, bias=False),
            *stages(PreActivated, before, widths, [(depth - 4) // 6] * 3),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
        )
        self.end(widths[-1])


class WRN22x8(WideResNet, depth=22, widening=8):
    """`WideResNet` of depth 22, eight times as wide: 17.2M parameters. Teacher of [Frank2023]_ on CIFAR-10."""


class WRN28x10(WideResNet, depth=28, widening=10):
    """`WideResNet` of depth 28, ten times as wide: 36.5M parameters. Teacher of [Frank2023]_ on Tiny ImageNet."""
