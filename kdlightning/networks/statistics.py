"""How large and how costly a network is."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdlightning.networks.alexnet import AlexNet, AlexNetHalf, AlexNetQuarter
from kdlightning.networks.base import Network
from kdlightning.networks.lenet import LeNet5, LeNet5Classic, LeNet5ClassicHalf, LeNet5Fifth, LeNet5Half
from kdlightning.networks.mobilenet import MobileNetV1, MobileNetV2, MobileNetV2Half
from kdlightning.networks.resnet import (
    ResNet8,
    ResNet8x4,
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet32x4,
    ResNet34,
    ResNet50,
    ResNet56,
    ResNet110,
    ResNet110x2,
    ResNet116,
)
from kdlightning.networks.resnext import ResNeXt29x4x64d, ResNeXt29x8x64d, ResNeXt50x32x8d
from kdlightning.networks.shufflenet import ShuffleNetV1, ShuffleNetV2
from kdlightning.networks.vgg import VGG11, VGG13, VGG13BN, VGG16BN
from kdlightning.networks.wrn import WRN22x8, WRN28x10

NAMED: tuple[type[Network], ...] = (
    LeNet5,
    LeNet5Half,
    LeNet5Fifth,
    LeNet5Classic,
    LeNet5ClassicHalf,
    AlexNet,
    AlexNetHalf,
    AlexNetQuarter,
    ResNet8,
    ResNet20,
    ResNet32,
    ResNet56,
    ResNet110,
    ResNet116,
    ResNet8x4,
    ResNet32x4,
    ResNet110x2,
    ResNet18,
    ResNet34,
    ResNet50,
    WRN22x8,
    WRN28x10,
    ResNeXt29x4x64d,
    ResNeXt29x8x64d,
    ResNeXt50x32x8d,
    VGG11,
    VGG13,
    VGG13BN,
    VGG16BN,
    MobileNetV1,
    MobileNetV2,
    MobileNetV2Half,
    ShuffleNetV1,
    ShuffleNetV2,
)


class Entry(NamedTuple):
    """One row of the catalogue.

    Attributes:
        name: class name.
        input: channels, height and width that the numbers are for.
        parameters: number of parameters.
        macs: multiply-accumulates per image.
    """

    name: str
    input: tuple[int, int, int]
    parameters: int
    macs: int


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, trainable or not; buffers (running statistics, normalisation) do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates per image, as papers print under "FLOPs".

    Those of convolutions, matrix products and attention in eval mode, without biases, normalisation and
    pooling; half of what PyTorch's counter reports, which counts a multiply-accumulate as two operations.

    Args:
        network: its mode and weights stay as they are; the meta device works.
        input_shape: channels, height and width of an image.
    """
    reference = next(network.parameters())
    batch = torch.zeros(2, *input_shape, device=reference.device, dtype=reference.dtype)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(batch)
    finally:
        for module, training in modes.items():
            module.training = training
    flops: int = counter.get_total_flops()
    return flops // (2 * len(batch))


def catalogue() -> list[Entry]:
    """Every named network of the package with its default arguments; nothing is allocated or computed."""
    entries = []
    for cls in NAMED:
        with torch.device("meta"):
            # Every named network has defaults for all arguments, unlike the base class.
            network = cls()  # type: ignore[call-arg]
        shape = (network.in_channels, network.image_size, network.image_size)
        entries.append(Entry(cls.__name__, shape, count_parameters(network), count_macs(network, shape)))
    return entries
