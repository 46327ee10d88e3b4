import pytest
import torch
from torch import nn

from kdlightning import networks
from kdlightning.networks import (
    VGG,
    VGG16BN,
    AlexNet,
    CIFARResNet,
    LeNet5,
    LeNet5Classic,
    MobileNetV1,
    Network,
    Normalize,
    ResNet,
    ResNet18,
    catalogue,
    count_macs,
    count_parameters,
)

# Parameters and MACs: printed by KD3 (Table 1, in 0.01M and 0.01G), or counted by hand from the layers that
# DB3KD and MEKD describe.
PUBLISHED = {
    "LeNet5": (187_780, None),
    "LeNet5Half": (47_645, None),
    "LeNet5Fifth": (7_964, None),
    "LeNet5Classic": (61_706, 416_520),
    "ResNet8": (0.08e6, None),
    "ResNet20": (0.27e6, None),
    "ResNet32": (0.47e6, None),
    "ResNet56": (0.86e6, None),
    "ResNet110": (1.73e6, None),
    "ResNet18": (11.17e6, 0.56e9),
    "ResNet34": (21.28e6, 1.16e9),
    "VGG13BN": (9.42e6, 0.28e9),
    "VGG16BN": (14.73e6, 0.40e9),
    "VGG11": (9_220_480 + 2 * (512 * 512 + 512) + 5_130, None),
    "VGG13": (9_404_992 + 2 * (512 * 512 + 512) + 5_130, None),
}
NAMED = [entry.name for entry in catalogue()]


@pytest.fixture(scope="module")
def entries():
    return {entry.name: entry for entry in catalogue()}


def build(name, **arguments):
    return getattr(networks, name)(**arguments).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(entries, name):
    parameters, macs = PUBLISHED[name]
    # Printed in units of 0.01M and 0.01G; exact below that.
    unit = 1 if parameters < 70_000 or parameters % 10_000 else 10_000
    assert abs(entries[name].parameters - parameters) <= unit / 2
    if macs is not None:
        assert abs(entries[name].macs - macs) <= (0.005e9 if macs >= 1e7 else 0)


def test_kd3_sizes_at_64_pixels():
    with torch.device("meta"):
        assert count_macs(ResNet18(200), (3, 64, 64)) == pytest.approx(2.23e9, abs=0.01e9)
        assert count_macs(VGG16BN(200, image_size=64, pools=4), (3, 64, 64)) == pytest.approx(1.26e9, abs=0.01e9)
        assert count_parameters(LeNet5Classic(width=0.5)) == 15_738


def test_macs_of_lenet_by_hand():
    network = LeNet5()
    network.body.eval()
    by_hand = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 200 + 200 * 10
    assert by_hand == 288_000 + 1_600_000 + 160_000 + 2_000
    assert count_macs(network, (1, 28, 28)) == by_hand
    assert network.training
    assert not network.body.training


def test_alexnet_sizes_by_hand():
    convolutions = [(3, 64, 16), (64, 192, 8), (192, 384, 4), (384, 256, 4), (256, 256, 4)]
    macs = sum(9 * a * b * side**2 for a, b, side in convolutions) + 1024 * 4096 + 4096 * 4096 + 4096 * 10
    parameters = sum(9 * a * b + 3 * b for a, b, _ in convolutions)
    parameters += sum(a * b + b for a, b in [(1024, 4096), (4096, 4096), (4096, 10)]) + 4 * 4096
    with torch.device("meta"):
        assert count_parameters(AlexNet()) == parameters
        assert count_macs(AlexNet(), (3, 32, 32)) == macs


def test_mobilenet_size_by_hand():
    pairs = [(32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    pairs += [(512, 512)] * 5 + [(512, 1024), (1024, 1024)]
    parameters = 27 * 32 + 2 * 32 + sum(9 * a + 2 * a + a * b + 2 * b for a, b in pairs) + 1024 * 10 + 10
    with torch.device("meta"):
        assert count_parameters(MobileNetV1()) == parameters


def test_catalogue_names_every_named_network(entries):
    general = {
        Network,
        networks.Adapter,
        networks.SharedClassifierNetwork,
        networks.TimmNetwork,
        networks.TorchvisionNetwork,
        VGG,
        ResNet,
        CIFARResNet,
        networks.WideResNet,
        networks.ResNeXt,
    }
    exported = {getattr(networks, name) for name in networks.__all__}
    classes = {item for item in exported if isinstance(item, type) and issubclass(item, Network)}
    assert {cls.__name__ for cls in classes - general} == set(entries)
    assert entries["LeNet5"] == ("LeNet5", (1, 28, 28), 187_780, 2_050_000)


@pytest.mark.parametrize("name", NAMED)
def test_forward_is_head_of_features(name):
    torch.manual_seed(0)
    network = build(name, num_classes=7)
    x = torch.rand(2, network.in_channels, network.image_size, network.image_size)
    with torch.no_grad():
        features = network.forward_features(x)
        vector = network.forward_head(features, pre_logits=True)
        logits = network(x)
        alone = network(x[:1])
    assert features.ndim == 4
    assert logits.shape == (2, 7)
    assert torch.equal(logits, network.forward_head(features))
    assert torch.equal(logits, network.get_classifier()(vector))
    assert vector.shape == (2, network.num_features)
    assert network.get_classifier().in_features == network.num_features
    torch.testing.assert_close(alone, logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("LeNet5", {}, (50, 4, 4)),
        ("LeNet5", {"image_size": 32, "in_channels": 3, "width": 0.5}, (25, 5, 5)),
        ("AlexNetQuarter", {}, (64, 2, 2)),
        ("ResNet8", {"width": 2}, (128, 8, 8)),
        ("ResNet18", {"width": 0.25}, (128, 4, 4)),
        ("ResNet18", {"width": 0.25, "stem": "imagenet", "image_size": 64}, (128, 2, 2)),
        ("ResNet50", {"width": 0.125}, (256, 4, 4)),
        ("VGG11", {"width": 0.25}, (128, 1, 1)),
        ("VGG16BN", {"width": 0.25}, (128, 4, 4)),
        ("VGG13BN", {"width": 0.25, "image_size": 64, "pools": 4}, (128, 4, 4)),
        ("MobileNetV1", {"width": 0.25, "in_channels": 1}, (256, 2, 2)),
    ],
)
def test_width_size_and_stem_change_the_map(name, arguments, shape):
    network = build(name, **arguments)
    x = torch.rand(2, network.in_channels, network.image_size, network.image_size)
    assert network.forward_features(x).shape == (2, *shape)


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_weighted_layers(depth):
    network = CIFARResNet(depth)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == depth
    assert len(shortcuts) == 2


def test_pooled_before_relu_is_the_published_order():
    torch.manual_seed(0)
    network = LeNet5()
    convolution, pool, relu, *_ = network.body
    x = convolution(torch.rand(4, 1, 28, 28))
    assert torch.equal(relu(pool(x).clone()), pool(torch.relu(x)))


def test_hidden_layer_of_alexnet_is_linear_relu_dropout_bn():
    kinds = [type(module).__name__ for module in build("AlexNetQuarter").neck]
    assert kinds == ["Flatten", *["Linear", "ReLU", "Dropout", "BatchNorm1d"] * 2]


def test_vgg_without_bn_tells_images_apart_from_the_start():
    torch.manual_seed(0)
    network = build("VGG13")
    x = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        he = network.forward_features(x).std(dim=0).mean()
        for module in network.body:
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        default = network.forward_features(x).std(dim=0).mean()
    assert he > 1e-3
    assert default < 1e-4


def test_normalisation_by_hand():
    normalize = Normalize([0.5, 0.25], [0.5, 0.125])
    x = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1)
    assert normalize(x).flatten().tolist() == [-1.0, 2.0]


def test_normalisation_is_the_first_layer():
    torch.manual_seed(0)
    network = LeNet5(mean=[0.2], std=[0.5])
    plain = LeNet5()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("normalize")})
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(network.forward_features(x), plain.forward_features((x - 0.2) / 0.5))
    torch.testing.assert_close(network(x), plain((x - 0.2) / 0.5))
    assert isinstance(plain.normalize, nn.Identity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [0.5]}, "mean and std with 1 values"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, "mean and std with 1 values"),
        ({"mean": [0.5], "std": [0.0]}, "positive standard deviations"),
        ({"image_size": 15}, "at least 16 x 16"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeNet5(**arguments)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (CIFARResNet, {"depth": 18}, "6n \\+ 2"),
        (ResNet, {"depth": 20}, "18, 34 or 50"),
        (ResNet, {"stem": "none"}, "cifar or imagenet"),
        (VGG, {"depth": 12}, "11, 13 or 16"),
        (VGG, {"depth": 11, "image_size": 28}, "do not fit images of 28 pixels"),
        (AlexNet, {"image_size": 14}, "at least 15 x 15"),
    ],
)
def test_impossible_architectures_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_wrong_channels_and_size_are_refused():
    with pytest.raises(ValueError, match=r"LeNet5 expected pixels \(N, 1, H, W\), got \(2, 3, 28, 28\)"):
        LeNet5()(torch.rand(2, 3, 28, 28))
    with pytest.raises(ValueError, match=r"expected pixels \(N, 3, H, W\), got \(3, 32, 32\)"):
        networks.ResNet8()(torch.rand(3, 32, 32))
    with pytest.raises(ValueError, match="28 x 28 pixels, got 32 x 32; set image_size"):
        LeNet5()(torch.rand(2, 1, 32, 32))


def test_gradient_reaches_the_pixels():
    x = torch.rand(1, 1, 28, 28, requires_grad=True)
    build("LeNet5Fifth", mean=[0.5], std=[0.5])(x)[0, 3].backward()
    assert x.grad.abs().sum() > 0
