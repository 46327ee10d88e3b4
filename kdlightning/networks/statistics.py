"""How large and how costly a network is."""

import inspect
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdlightning.networks import alexnet, lenet, mobilenet, resnet, resnext, shufflenet, vgg, wrn
from kdlightning.networks.architecture import Architecture

# those of a fixed depth; a family of several depths is no network yet
NAMED: list[type[Architecture]] = [
    found
    for module in (lenet, alexnet, resnet, wrn, resnext, vgg, mobilenet, shufflenet)
    for found in vars(module).values()
    if inspect.isclass(found) and issubclass(found, Architecture) and found.__module__ == module.__name__
    if "depth" not in inspect.signature(found).parameters
]


class Entry(NamedTuple):
    """One row of the catalogue; the multiply-accumulates are per image of these channels, height and width."""

    name: str
    input: tuple[int, int, int]
    parameters: int
    macs: int


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, trainable or not; buffers (running statistics, normalisation) do not count."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates per image, as papers print under "FLOPs".

    Those of convolutions, matrix products and attention in eval mode, without biases, normalisation and pooling; half
    of what PyTorch's counter reports, which counts a multiply-accumulate as two operations. An image is given by its
    channels, height and width. The network's mode and weights stay as they are; the meta device works.
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
            network = cls()
        shape = (network.in_channels, network.image_size, network.image_size)
        entries.append(Entry(cls.__name__, shape, count_parameters(network), count_macs(network, shape)))
    return entries
