import sys

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from kdlightning.networks import Adapter, LeNet5Half, TimmNetwork, TorchvisionNetwork

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
