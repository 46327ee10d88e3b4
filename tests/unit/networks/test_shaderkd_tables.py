"""The networks of shader KD's tables 1 and 2 that no other paper here has, with the sizes that their own papers print.

The tables' other networks are elsewhere: ResNet-18 and -50, MobileNet-V2, ShuffleNet-V2.
"""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet, resnext50_32x4d

from kdlightning import networks
from kdlightning.networks import count_macs, count_parameters, load_network, save_network
from kdlightning.networks.resnext import ResNeXt
from kdlightning.networks.wrn import PreActivated, WideResNet

# Zagoruyko & Komodakis 2016, Table 4: depth, k, millions of parameters with 10 classes
WIDE = [
    (40, 1, "0.6"), (40, 2, "2.2"), (40, 4, "8.9"), (40, 8, "35.7"), (28, 10, "36.5"), (28, 12, "52.5"),
    (22, 8, "17.2"), (22, 10, "26.8"), (16, 8, "11.0"), (16, 10, "17.1"),
]  # fmt: skip
LAST_MAP = {
    "WRN22x8": (512, 8, 8),
    "WRN28x10": (640, 8, 8),
    "ResNeXt29x4x64d": (1024, 8, 8),
    "ResNeXt29x8x64d": (1024, 8, 8),
    "ResNeXt50x32x8d": (2048, 4, 4),
}


def meta(cls, *arguments, **options):
    with torch.device("meta"):
        return cls(*arguments, **options)


@pytest.mark.parametrize(("depth", "widening", "millions"), WIDE)
def test_wide_sizes_are_those_of_the_paper(depth, widening, millions):
    assert f"{count_parameters(meta(WideResNet, depth, widening)) / 1e6:.1f}" == millions


def test_wide_sizes_by_hand():
    for name, n, k, expected in [("WRN22x8", 3, 8, 17_158_106), ("WRN28x10", 4, 10, 36_479_194)]:
        parameters, macs, before = 27 * 16, 27 * 16 * 32**2, 16
        for after, side in ((16 * k, 32), (32 * k, 16), (64 * k, 8)):
            # 3x3 and 3x3 in every block, 1x1 in the first; BN before each 3x3
            weights = [9 * before * after, before * after, *[9 * after * after] * (2 * n - 1)]
            parameters += sum(weights) + 2 * before + 2 * after * (2 * n - 1)
            macs += sum(weights) * side**2
            before = after
        network = meta(getattr(networks, name))
        assert count_parameters(network) == parameters + 2 * before + 10 * before + 10 == expected
        assert count_macs(network, (3, 32, 32)) == macs + 10 * before


def test_resnext_sizes_are_those_of_the_paper():
    # Xie et al. 2017, Table 7: 34.4M and 68.1M (68.155; the paper has cut off the further digits)
    assert count_parameters(meta(ResNeXt, 29, 8, 64)) == count_parameters(meta(networks.ResNeXt29x8x64d)) == 34_426_698
    assert count_parameters(meta(ResNeXt, 29, 16, 64)) == 68_155_210
    # ResNeXt-50 with ImageNet's stem, 7x7 instead of 3x3, and classes is torchvision's, 25.0M in the paper's Table 1
    theirs = count_parameters(meta(resnext50_32x4d))
    assert count_parameters(meta(ResNeXt, 50, 32, 4, 1000)) + (49 - 9) * 3 * 64 == theirs == 25_028_904


def test_resnext_sizes_by_hand():
    for name, cardinality, base, depths, expected in [
        ("ResNeXt29x4x64d", 4, 64, (3, 3, 3), 17_562_442),
        ("ResNeXt29x8x64d", 8, 64, (3, 3, 3), 34_426_698),
        ("ResNeXt50x32x8d", 32, 8, (3, 4, 6, 3), 45_985_610),
    ]:
        parameters, macs, before, side = 27 * 64 + 2 * 64, 27 * 64 * 32**2, 64, 32
        for stage, blocks in enumerate(depths):
            group, after = base * 2**stage, 256 * 2**stage
            inner, larger = cardinality * group, side
            side = 32 // 2**stage
            for block in range(blocks):
                middle, shortcut = 9 * cardinality * group**2, before * after if block == 0 else 0
                parameters += before * inner + middle + inner * after + shortcut
                parameters += 4 * inner + 2 * after * (2 if block == 0 else 1)
                macs += before * inner * (larger if block == 0 else side) ** 2
                macs += (middle + inner * after + shortcut) * side**2
                before = after
        network = meta(getattr(networks, name))
        assert count_parameters(network) == parameters + 10 * before + 10 == expected
        assert count_macs(network, (3, 32, 32)) == macs + 10 * before


def test_the_other_reading_of_the_names_has_other_sizes():
    # cardinality first for depth 29, width first for depth 50
    sizes = [count_parameters(meta(ResNeXt, *form)) for form in [(29, 64, 4), (29, 64, 8), (50, 8, 32)]]
    assert sizes == [8_853_322, 18_169_674, 62_961_482]


def test_what_the_depth_counts():
    def layers(network, kinds):
        return [name for name, module in network.named_modules() if isinstance(module, kinds)]

    # wide networks: all convolutions; the others: all weighted layers but the shortcuts'
    assert [len(layers(meta(WideResNet, depth, 2), nn.Conv2d)) for depth in (10, 16, 22)] == [10, 16, 22]
    for depth in (20, 29, 50):
        named = layers(meta(ResNeXt, depth, 2, 4), (nn.Conv2d, nn.Linear))
        assert len([name for name in named if "shortcut" not in name]) == depth


@pytest.mark.parametrize("name", LAST_MAP)
def test_last_map_and_what_reads_it(name):
    torch.manual_seed(0)
    network = getattr(networks, name)(7, width=0.125).eval()
    channels, *side = LAST_MAP[name]
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features, logits = network.forward_features(x), network(x)
        assert features.shape == (2, channels // 8, *side)
        assert (features >= 0).all()
        assert network.get_classifier().in_features == network.num_features == channels // 8
        assert torch.equal(network.get_classifier()(network.forward_head(features, pre_logits=True)), logits)
        assert network.forward_features(torch.rand(1, 3, 64, 64)).shape[2:] == (2 * side[0], 2 * side[1])
        torch.testing.assert_close(network(x[1:]), logits[1:], rtol=1e-4, atol=1e-5)
    assert meta(getattr(networks, name)).num_features == channels


@pytest.mark.parametrize("name", LAST_MAP)
def test_saved_and_loaded_gives_the_same_logits(name, tmp_path):
    torch.manual_seed(0)
    network = getattr(networks, name)(7, 1, width=0.125, mean=[0.1], std=[0.3]).eval()
    loaded = load_network(save_network(network, tmp_path / name)).eval()
    x = torch.rand(2, 1, 32, 32)
    assert type(loaded) is type(network)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
        assert loaded(x).shape == (2, 7)


@pytest.mark.parametrize("width", [0.01, 0.3, 1.5])
@pytest.mark.parametrize("name", LAST_MAP)
def test_any_width(name, width):
    network = meta(getattr(networks, name), width=width)
    assert network(torch.rand(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(("before", "after", "stride"), [(4, 4, 1), (4, 6, 1), (4, 6, 2), (4, 4, 2)])
def test_a_wide_block_by_hand(before, after, stride):
    torch.manual_seed(0)
    block = PreActivated(before, after, stride).eval()
    x = torch.randn(2, before, 8, 8)
    bn, first, middle, second = block.activation[0], block.block[0], block.block[1], block.block[3]
    active = bn(x).relu()
    expected = second(middle(first(active)).relu())
    same = before == after and stride == 1
    expected = expected + (x if same else nn.functional.conv2d(active, block.shortcut.weight, stride=stride))
    kept = x.clone()
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, kept)  # the ReLU in place is not the input's
    assert (block.shortcut is None) == same


@pytest.mark.parametrize("cardinality", [1, 4])
def test_the_body_of_depth_50_is_torchvisions(cardinality):
    torch.manual_seed(0)
    ours = ResNeXt(50, cardinality, 8, width=1.0).eval()
    theirs = ResNet(Bottleneck, [3, 4, 6, 3], num_classes=10, groups=cardinality, width_per_group=8).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    source = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc")}
    renamed = [key for key in ours.state_dict() if not key.startswith("classifier")]
    assert len(source) == len(renamed)
    ours.load_state_dict(dict(zip(renamed, source.values(), strict=True)), strict=False)
    ours.classifier.load_state_dict(theirs.fc.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (WideResNet, {"depth": 20}, r"6n \+ 4"),
        (WideResNet, {"depth": 4}, r"6n \+ 4"),
        (WideResNet, {"widening": 0}, "positive widening, got 28 and 0"),
        (ResNeXt, {"depth": 30}, r"9n \+ 2 .* or 50, got 30"),
        (ResNeXt, {"depth": 2}, "got 2"),
        (ResNeXt, {"cardinality": 0}, "got 0 of 64"),
    ],
)
def test_impossible_architectures_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)
