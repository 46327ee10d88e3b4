"""Networks as they stand in a YAML: by short name, by function, inside one another."""

import pytest
from jsonargparse import ArgumentParser
from torch import nn

from kdlightning.networks import Adapter, LeNet5, Network, TorchvisionNetwork, count_parameters


def parse(annotation, value):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=annotation)
    # Called instantiate since jsonargparse 4.49.
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(parser.parse_object({"network": value})).network


@pytest.mark.parametrize("annotation", [nn.Module, Network])
def test_short_class_name(annotation):
    network = parse(annotation, {"class_path": "LeNet5", "init_args": {"width": 0.5, "mean": [0.5], "std": [0.5]}})
    assert type(network) is LeNet5
    assert count_parameters(network) == 47_645


def test_name_that_torchvision_has_too_is_short_where_a_network_is_expected():
    assert parse(Network, {"class_path": "AlexNet", "init_args": {"width": 0.25}}).num_features == 1024
    assert (
        parse(nn.Module, {"class_path": "kdlightning.networks.AlexNet", "init_args": {"width": 0.25}}).num_features
        == 1024
    )


def test_function_that_returns_a_module():
    network = parse(nn.Module, {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 7}})
    assert network.fc.out_features == 7


def test_external_network():
    init_args = {
        "name": "mobilenet_v3_small",
        "num_classes": 7,
        "input_size": 32,
        "model_args": {"dropout": 0.0},
    }
    network = parse(Network, {"class_path": "TorchvisionNetwork", "init_args": init_args})
    assert isinstance(network, TorchvisionNetwork)
    assert (network.num_classes, network.neck[-1].p) == (7, 0.0)


def test_network_inside_an_adapter():
    inner = {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 7}}
    network = parse(Network, {"class_path": "Adapter", "init_args": {"network": inner, "num_classes": 7, "size": 64}})
    assert isinstance(network, Adapter)
    assert network.network.fc.out_features == 7
