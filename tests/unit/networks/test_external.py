import sys

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from kdlightning.methods import Supervised
from kdlightning.networks import Adapter, LeNet5Half, TimmNetwork, TorchvisionNetwork, fingerprint
from kdlightning.networks.pretrained import name_of
from kdlightning.teachers import SoftLabelTeacher, WhiteBoxTeacher

IMAGENET = (
    torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
)


def assert_convention(network, x):
    """The methods agree with one another, and the classifier reads num_features values."""
    with torch.no_grad():
        features = network.forward_features(x)
        vector = network.forward_head(features, pre_logits=True)
        logits = network(x)
        torch.testing.assert_close(logits, network.forward_head(features))
        torch.testing.assert_close(logits, network.get_classifier()(vector))
    assert logits.shape == (len(x), network.num_classes)
    assert vector.shape == (len(x), network.num_features)
    assert network.get_classifier().in_features == network.num_features
    return features


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("resnet18", 64, (512, 2, 2)),
        ("vgg11", 32, (512, 1, 1)),
        ("mobilenet_v3_small", 64, (576, 2, 2)),
        ("shufflenet_v2_x0_5", 64, (1024,)),
    ],
)
def test_torchvision_network_is_the_original_with_its_normalisation(name, size, shape, monkeypatch):
    torch.manual_seed(0)
    original = torchvision.models.get_model(name, num_classes=7).eval()
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = original((x - IMAGENET[0]) / IMAGENET[1])
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: original)
    network = TorchvisionNetwork(name, 7, input_size=size).eval()
    assert assert_convention(network, x).shape == (2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(network(x), expected)


def test_input_size_is_that_of_the_weights():
    network = TorchvisionNetwork("resnet18", image_size=32)
    assert (network.input_size, network.image_size, network.num_classes) == (224, 32, 10)
    assert TorchvisionNetwork("resnet18").image_size == 224


def test_last_layer_of_another_size_is_replaced(monkeypatch):
    torch.manual_seed(0)
    pretrained = torchvision.models.resnet18()

    def get_model(name, weights, **arguments):
        assert (name, weights, arguments) == ("resnet18", "IMAGENET1K_V1", {})
        return pretrained

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    network = TorchvisionNetwork("resnet18", 7, weights="IMAGENET1K_V1", input_size=32)
    assert network.classifier.weight.shape == (7, 512)
    assert network.body[0].weight is pretrained.conv1.weight
    # A reload must not download again.
    assert network._hub_mixin_config["weights"] is None


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet19", None, "no classifier 'resnet19'"),
        ("fcn_resnet50", None, "no classifier 'fcn_resnet50'"),
        ("resnet18", "IMAGENET1K_V9", "only IMAGENET1K_V1"),
        ("squeezenet1_0", None, "does not end in a linear layer"),
    ],
)
def test_unknown_torchvision_names_are_refused(name, weights, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionNetwork(name, weights=weights)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("vit_tiny_patch16_224", 224)])
def test_timm_network_is_the_original_with_its_normalisation(name, size):
    torch.manual_seed(0)
    original = timm.create_model(name, num_classes=7).eval()
    torch.manual_seed(0)
    network = TimmNetwork(name, 7, input_size=size).eval()
    mean, std = (torch.tensor(original.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    x = torch.rand(2, 3, size, size)
    assert_convention(network, x)
    with torch.no_grad():
        torch.testing.assert_close(network(x), original((x - mean) / std))
    assert network.num_features == original.head_hidden_size


def test_timm_arguments_reach_the_model():
    network = TimmNetwork("vit_tiny_patch16_224", 5, model_args={"img_size": 32, "depth": 2})
    assert (network.input_size, network.image_size, len(network.model.blocks)) == (32, 32, 2)
    assert network.forward_features(torch.rand(1, 3, 32, 32)).shape == (1, 5, 192)


def test_without_timm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        TimmNetwork("resnet18")


class Mean(nn.Module):
    """Channel means as logits: shows what arrives at the classifier."""

    def forward(self, x):
        self.shape = tuple(x.shape)
        return x.mean(dim=(2, 3))


def test_grey_images_are_repeated_and_normalised_per_channel():
    adapter = Adapter(Mean(), 3, mean=[0.0, 0.5, 0.5], std=[1.0, 1.0, 0.5])
    logits = adapter(torch.full((2, 1, 8, 8), 0.75))
    assert logits.tolist() == [[0.75, 0.25, 0.5]] * 2


def test_images_are_resized_with_antialiasing():
    adapter = Adapter(nn.Flatten(), 48, size=4)
    x = torch.rand(2, 3, 32, 32)
    expected = F.interpolate(x, (4, 4), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(adapter(x), expected.flatten(1))
    assert torch.equal(adapter(expected), expected.flatten(1))
    # Without antialiasing a checkerboard of single pixels would not come out grey.
    board = (torch.arange(32).view(1, -1) + torch.arange(32).view(-1, 1)).remainder(2).float().expand(1, 3, 32, 32)
    torch.testing.assert_close(adapter(board), torch.full((1, 48), 0.5), atol=0.01, rtol=0)


def test_size_none_leaves_images_alone():
    network = Mean()
    Adapter(network, 3)(torch.rand(2, 3, 17, 9))
    assert network.shape == (2, 3, 17, 9)


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) or \(N, 1, H, W\), got \(2, 2, 8, 8\)"):
        Adapter(Mean(), 3)(torch.rand(2, 2, 8, 8))
    with pytest.raises(ValueError, match="in_channels 1 or 3, got 4"):
        TorchvisionNetwork("resnet18", in_channels=4)


def test_grey_torchvision_network_declares_one_channel():
    network = TorchvisionNetwork("resnet18", in_channels=1, input_size=32).eval()
    x = torch.rand(2, 1, 32, 32)
    assert network.in_channels == 1
    assert torch.equal(network(x), network(x.repeat(1, 3, 1, 1)))


def test_adapter_passes_timms_convention_on():
    inner = LeNet5Half()
    adapter = Adapter(inner, 10, size=28, in_channels=1).eval()
    x = torch.rand(2, 1, 32, 32)
    assert_convention(adapter, x)
    assert adapter.get_classifier() is inner.classifier


def test_adapter_without_features_says_so():
    adapter = Adapter(Mean(), 3)
    assert adapter.num_features == 0
    with pytest.raises(TypeError, match="Mean has no forward_features; methods that read features need"):
        adapter.forward_features(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("wrapped", "bare", "size"),
    [
        (lambda: TimmNetwork("resnet10t", 4, input_size=32), lambda: timm.create_model("resnet10t", num_classes=4), 32),
        (
            lambda: TorchvisionNetwork("resnet18", 4, input_size=32),
            lambda: torchvision.models.resnet18(num_classes=4),
            32,
        ),
        (
            lambda: TorchvisionNetwork("shufflenet_v2_x0_5", 4, input_size=32),
            lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=4),
            32,
        ),
        (
            lambda: TorchvisionNetwork("googlenet", 4, input_size=32),
            lambda: torchvision.models.googlenet(num_classes=4, aux_logits=False, init_weights=False),
            32,
        ),
        (lambda: Adapter(LeNet5Half(), 10, mean=[0.3], std=[0.2], in_channels=1), LeNet5Half, 28),
    ],
)
def test_weights_trained_outside_are_loaded_as_they_are(wrapped, bare, size):
    torch.manual_seed(3)
    original, network = bare().eval(), wrapped().eval()
    result = network.load_state_dict(original.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    x = torch.rand(2, network.in_channels, size, size)
    with torch.no_grad():
        torch.testing.assert_close(network(x), original(network.normalize(x)))
    again = wrapped().eval()
    again.load_state_dict(network.state_dict())  # its own, as ever
    assert fingerprint(again) == fingerprint(network)


def test_the_size_that_images_go_to_is_said_where_nobody_gave_it(caplog):
    state = torchvision.models.resnet18(num_classes=4).state_dict()
    for size, told in ((32, []), (None, ["resnet18 resizes images to 224 pixels"])):
        caplog.clear()
        TorchvisionNetwork("resnet18", 4, input_size=size).load_state_dict(state)
        assert [message.partition(":")[0] for message in caplog.messages] == told


def test_weights_of_another_head_or_another_network_are_refused():
    network = TorchvisionNetwork("resnet18", 4, input_size=32)
    with pytest.raises(RuntimeError, match=r"size mismatch for classifier\.weight"):
        network.load_state_dict(torchvision.models.resnet18(num_classes=5).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({"nothing": torch.zeros(1)})


def test_tables_call_a_network_by_its_architecture():
    adapted = Adapter(TimmNetwork("resnet10t", 4, input_size=32), 4)
    assert name_of(TimmNetwork("resnet10t", 4)) == name_of(adapted) == "resnet10t"
    assert name_of(TorchvisionNetwork("resnet18")) == "resnet18"
    assert name_of(Adapter(Mean(), 3)) == "Mean"
    assert SoftLabelTeacher(adapted).identity["name"] == WhiteBoxTeacher(adapted).identity["name"] == "resnet10t"
    assert Supervised(adapted).student_name == "resnet10t"
