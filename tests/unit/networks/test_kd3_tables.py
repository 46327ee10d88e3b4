"""The networks of KD3's tables 1 and 3 and its supplement's table 2 have the sizes that are printed there.

Printed "FLOPs" are multiply-accumulates as the tool thop counts them: those of convolutions and linear layers, which
`count_macs` has too, 4 per value that BN normalises, and 1 per value that an average-pooling *module* returns. With
these all printed digits fit (`CUT` has two exceptions) and no tolerance is needed; without, ShuffleNet-V1 would have
38.61M instead of 42.11M.
"""

from math import floor

import pytest
import torch
from torch import nn
from torchvision.models import mobilenetv2, shufflenetv2

from kdlightning import networks
from kdlightning.networks import CIFARResNet, count_macs, count_parameters, load_network, save_network
from kdlightning.networks.mobilenet import InvertedResidual
from kdlightning.networks.shufflenet import GroupedUnit, SplitUnit

M, G = 1e6, 1e9
# Parameters in millions and MACs at 32 x 32 pixels. Of 10 classes, but MobileNet-V2's are of 100.
AT_32 = [
    ("ResNet32x4", 10, "7.41", "1.09", G),
    ("ResNet8x4", 10, "1.21", "0.18", G),
    ("MobileNetV2Half", 100, "0.81", "7.37", M),
    ("ShuffleNetV1", 10, "0.86", "42.11", M),
    ("ShuffleNetV2", 10, "1.26", "46.66", M),
    ("ResNet110x2", 10, "6.89", "1.02", G),
    ("ResNet110", 10, "1.73", "0.26", G),
    ("ResNet116", 10, "1.83", "0.27", G),
    ("ResNet34", 10, "21.28", "1.16", G),
    ("ResNet18", 10, "11.17", "0.56", G),
    ("VGG16BN", 10, "14.73", "0.40", G),
    ("VGG13BN", 10, "9.42", "0.28", G),
    ("LeNet5Classic", 10, "0.062", "0.42", M),
]
# MACs at 64 x 64 pixels and 200 classes; the parameters printed there are those of the table above.
AT_64 = [
    ("ResNet32x4", "4.35", G),
    ("ResNet8x4", "0.71", G),
    ("MobileNetV2Half", "29.23", M),
    ("ShuffleNetV1", "168.59", M),
    ("ShuffleNetV2", "186.82", M),
    ("ResNet110x2", "4.06", G),
    ("ResNet110", "1.03", G),
    ("ResNet116", "1.09", G),
    ("ResNet34", "4.65", G),
    ("ResNet18", "2.23", G),
    ("VGG16BN", "1.26", G),
    ("VGG13BN", "0.92", G),
]
# Cut off in print, not rounded: 6,899,610 parameters, and 0.2859G.
CUT = {("ResNet110x2", "6.89"), ("VGG13BN", "0.28")}
# In the code that such papers share, these pool in the end with a module, and the ShuffleNets with a function.
POOLED_BY_MODULE = ("ResNet", "MobileNet", "VGG")

NEW = {
    "ResNet8x4": (256, 8, 8),
    "ResNet32x4": (256, 8, 8),
    "ResNet110x2": (128, 8, 8),
    "ResNet116": (64, 8, 8),
    "MobileNetV2": (1280, 2, 2),
    "MobileNetV2Half": (1280, 2, 2),
    "ShuffleNetV1": (960, 4, 4),
    "ShuffleNetV2": (1024, 4, 4),
}


def printed(name, number, unit, text):
    decimals = len(text.partition(".")[2])
    if (name, text) in CUT:
        number = floor(number / unit * 10**decimals) * unit / 10**decimals
    return f"{number / unit:.{decimals}f}"


def counted_as_printed(network):
    """MACs with those of BN and of pooling modules."""
    shape = (network.in_channels, network.image_size, network.image_size)
    extra = network.num_features if type(network).__name__.startswith(POOLED_BY_MODULE) else 0
    values = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.AvgPool2d):
            each = 4 if isinstance(module, nn.BatchNorm2d) else 1
            module.register_forward_hook(lambda _, __, y, each=each: values.append(each * y[0].numel()))
    return count_macs(network, shape) + sum(values) + extra


def build(name, **arguments):
    with torch.device("meta"):
        return getattr(networks, name)(**arguments)


@pytest.mark.parametrize(("name", "classes", "parameters", "macs", "unit"), AT_32, ids=[row[0] for row in AT_32])
def test_sizes_of_table_3(name, classes, parameters, macs, unit):
    channels = {"in_channels": 1} if name == "LeNet5Classic" else {}
    network = build(name, num_classes=classes, image_size=32, **channels)
    assert printed(name, count_parameters(network), M, parameters) == parameters
    assert printed(name, counted_as_printed(network), unit, macs) == macs


@pytest.mark.parametrize(("name", "macs", "unit"), AT_64, ids=[row[0] for row in AT_64])
def test_sizes_of_the_supplement(name, macs, unit):
    pools = {"pools": 4} if name.startswith("VGG") else {}
    network = build(name, num_classes=200, image_size=64, **pools)
    assert printed(name, counted_as_printed(network), unit, macs) == macs


def test_the_variant_is_the_only_one_that_fits():
    whole_stem = build("CIFARResNet", depth=110, width=2, num_classes=200, image_size=64)
    assert printed("", counted_as_printed(whole_stem), G, "4.06") == "4.08"
    ten_classes = build("MobileNetV2Half")
    assert count_parameters(ten_classes) == 697_546
    assert printed("", counted_as_printed(ten_classes), M, "7.37") == "7.26"


def convolution(before, after, kernel, side, groups=1):
    """Parameters with BN's, and MACs."""
    weights = before * after * kernel**2 // groups
    return torch.tensor([weights + 2 * after, weights * side**2])


def linear(before, after):
    return torch.tensor([before * after + after, before * after])


def test_mobilenet_by_hand():
    total = convolution(3, 16, 3, 16)
    blocks = [(16, 8, 1, 16, 16), (8, 12, 6, 16, 16), (12, 12, 6, 16, 16), (12, 16, 6, 16, 8), (16, 16, 6, 8, 8)]
    blocks += [(16, 16, 6, 8, 8), (16, 32, 6, 8, 4), *[(32, 32, 6, 4, 4)] * 3, (32, 48, 6, 4, 4)]
    blocks += [*[(48, 48, 6, 4, 4)] * 2, (48, 80, 6, 4, 2), *[(80, 80, 6, 2, 2)] * 2, (80, 160, 6, 2, 2)]
    for before, after, factor, side, smaller in blocks:
        wide = factor * before
        total += convolution(before, wide, 1, side) + convolution(wide, wide, 3, smaller, groups=wide)
        total += convolution(wide, after, 1, smaller)
    total += convolution(160, 1280, 1, 2) + linear(1280, 100)
    network = build("MobileNetV2Half", num_classes=100)
    assert total.tolist() == [count_parameters(network), count_macs(network, (3, 32, 32))] == [812_836, 6_523_648]


def test_shufflenet_v1_by_hand():
    total = convolution(3, 24, 1, 32) + linear(960, 10)
    for before, after, units, narrow, side in [(24, 240, 3, 54, 16), (240, 480, 7, 60, 8), (480, 960, 3, 120, 4)]:
        total += convolution(before, narrow, 1, 2 * side, groups=1 if before == 24 else 3)
        total += convolution(narrow, narrow, 3, side, narrow) + convolution(narrow, after - before, 1, side, 3)
        quarter = after // 4
        total += units * convolution(after, quarter, 1, side, 3)
        total += units * (convolution(quarter, quarter, 3, side, quarter) + convolution(quarter, after, 1, side, 3))
    network = build("ShuffleNetV1")
    assert total.tolist() == [count_parameters(network), count_macs(network, (3, 32, 32))] == [862_768, 38_605_056]


def test_shufflenet_v2_by_hand():
    total = convolution(3, 24, 1, 32) + convolution(464, 1024, 1, 4) + linear(1024, 10)
    for before, half, units, side in [(24, 58, 3, 16), (116, 116, 7, 8), (232, 232, 3, 4)]:
        total += convolution(before, before, 3, side, before) + convolution(before, half, 1, side)
        total += convolution(before, half, 1, 2 * side) + convolution(half, half, 3, side, half)
        total += convolution(half, half, 1, side)
        total += units * (2 * convolution(half, half, 1, side) + convolution(half, half, 3, side, half))
    network = build("ShuffleNetV2")
    assert total.tolist() == [count_parameters(network), count_macs(network, (3, 32, 32))] == [1_263_278, 44_412_288]


@pytest.mark.parametrize("name", NEW)
def test_last_map_and_what_reads_it(name):
    torch.manual_seed(0)
    network = getattr(networks, name)(num_classes=7).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = network.forward_features(x)
        logits = network(x)
        alone = network(x[1:])
        assert features.shape == (2, *NEW[name])
        assert network.num_features == network.get_classifier().in_features == NEW[name][0]
        assert torch.equal(network.get_classifier()(network.forward_head(features, pre_logits=True)), logits)
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    torch.testing.assert_close(alone, logits[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NEW)
def test_saved_and_loaded_gives_the_same_logits(name, tmp_path):
    torch.manual_seed(0)
    arguments = {} if name == "MobileNetV2Half" else {"width": 0.5}
    network = getattr(networks, name)(7, 1, mean=[0.1], std=[0.3], **arguments).eval()
    loaded = load_network(save_network(network, tmp_path / name)).eval()
    x = torch.rand(2, 1, 32, 32)
    assert type(loaded) is type(network)
    assert loaded.num_classes == 7
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize("width", [0.01, 0.25, 0.3, 0.5, 1.5])
@pytest.mark.parametrize("name", ["ResNet8x4", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"])
def test_any_width(name, width):
    network = build(name, width=width)
    assert network(torch.rand(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_stem_channels():
    assert CIFARResNet(8, width=4, stem_channels=5).body[0].out_channels == 5
    assert CIFARResNet(8, width=4).body[0].out_channels == 64
    for name, factor, stem in [("ResNet8x4", 1, 32), ("ResNet32x4", 0.5, 16), ("ResNet110x2", 0.5, 8)]:
        assert build(name, width=factor).body[0].out_channels == stem


def copy_weights(target, source):
    """From a module with the same layers in the same order."""
    names = target.state_dict().keys()
    target.load_state_dict(dict(zip(names, source.state_dict().values(), strict=True)))


@pytest.mark.parametrize(("before", "after", "stride"), [(24, 116, 2), (116, 116, 1)])
def test_split_unit_is_torchvisions(before, after, stride):
    torch.manual_seed(0)
    unit, theirs = SplitUnit(before, after, stride), shufflenetv2.InvertedResidual(before, after, stride)
    copy_weights(unit, theirs)
    x = torch.randn(4, before, 8, 8)
    torch.testing.assert_close(unit(x), theirs(x))


@pytest.mark.parametrize(("before", "after", "stride"), [(16, 24, 2), (16, 24, 1), (16, 16, 1)])
def test_inverted_residual_is_torchvisions(before, after, stride):
    torch.manual_seed(0)
    block = InvertedResidual(before, after, stride, 6)
    theirs = mobilenetv2.InvertedResidual(before, after, stride, 6)
    copy_weights(block, theirs)
    x = torch.rand(4, before, 8, 8)  # normalised over so few values, no activation comes near ReLU6's 6
    torch.testing.assert_close(block(x), theirs(x))


def test_grouped_unit_adds_or_joins():
    torch.manual_seed(0)
    x = torch.randn(4, 24, 8, 8)
    unit = GroupedUnit(24, 24, 1, 3)
    assert torch.equal(unit(x), torch.relu(unit.block(x) + x))
    halving = GroupedUnit(24, 60, 2, 1)
    pooled = torch.relu(nn.functional.avg_pool2d(x, 3, 2, padding=1))
    assert torch.equal(halving(x)[:, 36:], pooled)
    assert torch.equal(halving(x)[:, :36], torch.relu(halving.block(x)))


def test_shuffle_lets_every_group_read_every_channel():
    torch.manual_seed(0)
    unit = GroupedUnit(36, 36, 1, 3).eval()
    x = torch.randn(8, 36, 8, 8, requires_grad=True)
    first_group = unit.block(x)[:, :12].square().sum()
    (gradient,) = torch.autograd.grad(first_group, x)
    assert (gradient.abs().amax(dim=(0, 2, 3)) > 0).all()
