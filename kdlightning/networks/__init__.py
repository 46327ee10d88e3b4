"""Classifiers (pixels in [0, 1] → logits), generators and critics, and where their weights are kept."""

from kdlightning.networks.alexnet import AlexNet, AlexNetHalf, AlexNetQuarter
from kdlightning.networks.base import Network, Normalize
from kdlightning.networks.external import Adapter, TimmNetwork, TorchvisionNetwork
from kdlightning.networks.gan import (
    Critic,
    DCGANCritic,
    DCGANGenerator,
    Generator,
    InfoGANCritic,
    TransposedGenerator,
    WGANGPCritic,
    WGANGPGenerator,
)
from kdlightning.networks.lenet import LeNet5, LeNet5Classic, LeNet5ClassicHalf, LeNet5Fifth, LeNet5Half
from kdlightning.networks.mobilenet import MobileNetV1, MobileNetV2, MobileNetV2Half
from kdlightning.networks.pretrained import (
    check_saving,
    fingerprint,
    load_network,
    load_state,
    notes,
    push_network,
    save_network,
)
from kdlightning.networks.resnet import (
    CIFARResNet,
    ResNet,
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
from kdlightning.networks.resnext import ResNeXt, ResNeXt29x4x64d, ResNeXt29x8x64d, ResNeXt50x32x8d
from kdlightning.networks.shared import SharedClassifierNetwork
from kdlightning.networks.shufflenet import ShuffleNetV1, ShuffleNetV2
from kdlightning.networks.statistics import Entry, catalogue, count_macs, count_parameters
from kdlightning.networks.vgg import VGG, VGG11, VGG13, VGG13BN, VGG16BN
from kdlightning.networks.wrn import WideResNet, WRN22x8, WRN28x10

__all__ = [
    "VGG", "VGG11", "VGG13", "VGG13BN", "VGG16BN", "Adapter", "AlexNet", "AlexNetHalf", "AlexNetQuarter", "CIFARResNet",
    "Critic", "DCGANCritic", "DCGANGenerator", "Entry", "Generator", "InfoGANCritic", "LeNet5", "LeNet5Classic",
    "LeNet5ClassicHalf", "LeNet5Fifth", "LeNet5Half", "MobileNetV1", "MobileNetV2", "MobileNetV2Half", "Network",
    "Normalize", "ResNeXt", "ResNeXt29x4x64d", "ResNeXt29x8x64d", "ResNeXt50x32x8d", "ResNet", "ResNet8", "ResNet8x4",
    "ResNet18", "ResNet20", "ResNet32", "ResNet32x4", "ResNet34", "ResNet50", "ResNet56", "ResNet110", "ResNet110x2",
    "ResNet116", "SharedClassifierNetwork", "ShuffleNetV1", "ShuffleNetV2", "TimmNetwork", "TorchvisionNetwork",
    "TransposedGenerator", "WGANGPCritic", "WGANGPGenerator", "WRN22x8", "WRN28x10", "WideResNet", "catalogue",
    "check_saving", "count_macs", "count_parameters", "fingerprint", "load_network", "load_state", "notes",
    "push_network", "save_network",
]  # fmt: skip
