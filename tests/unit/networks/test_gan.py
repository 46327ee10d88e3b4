import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from kdlightning.networks import (
    Critic,
    DCGANCritic,
    DCGANGenerator,
    Generator,
    InfoGANCritic,
    TransposedGenerator,
    WGANGPCritic,
    WGANGPGenerator,
    count_parameters,
    fingerprint,
    load_network,
    notes,
    save_network,
)


@pytest.mark.parametrize(
    ("classes", "channels", "size", "parameters"),
    [(10, 1, 32, 312_705), (10, 3, 32, 313_859), (100, 3, 32, 1_051_139), (200, 3, 64, 6_810_115)],
)
def test_generator_has_the_released_number_of_parameters(classes, channels, size, parameters):
    assert count_parameters(DCGANGenerator(classes, channels, size)) == parameters


def test_critic_has_the_released_number_of_parameters():
    assert count_parameters(DCGANCritic(1, 32)) == 98_113
    assert count_parameters(DCGANCritic(3, 32)) == 98_401
    assert count_parameters(InfoGANCritic(10, 1, 32)) == 98_113 + 512 * 10 + 10


def test_fully_connected_networks_have_the_parameters_of_their_widths():
    widths = [10, 128, 256, 512, 1024, 784]
    linear = sum(a * b + b for a, b in pairwise(widths))
    assert count_parameters(WGANGPGenerator(10, 1, 28)) == linear + 2 * (256 + 512 + 1024)
    assert count_parameters(WGANGPCritic(1, 28)) == 784 * 512 + 512 + 512 * 256 + 256 + 256 + 1
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in WGANGPCritic().modules())


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize(
    "build",
    [
        lambda size: DCGANGenerator(5, 3, size, width=4),
        lambda size: TransposedGenerator(5, 3, size, width=4),
        lambda size: WGANGPGenerator(5, 3, size),
    ],
)
def test_generators_make_pixels(build, size):
    generator = build(size)
    for mode in (True, False):
        generator.train(mode)
        pixels = generator(30 * torch.randn(6, 5))
        assert pixels.shape == (6, 3, size, size)
        assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert (generator.latent_dim, generator.channels, generator.image_size) == (5, 3, size)


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("build", [DCGANCritic, WGANGPCritic, lambda c, s: InfoGANCritic(7, c, s)])
def test_critics_say_one_logit(build, size):
    critic = build(3, size)
    assert critic(torch.rand(4, 3, size, size)).shape == (4,)
    if isinstance(critic, InfoGANCritic):
        assert critic.code(torch.rand(4, 3, size, size)).shape == (4, 7)


def test_a_critic_sees_pixels_between_minus_one_and_one():
    critic = WGANGPCritic(1, 8)
    critic.body, critic.head = nn.Flatten(), nn.Linear(64, 1, bias=False)
    nn.init.ones_(critic.head.weight)
    images = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.5), torch.ones(1, 8, 8)])
    assert critic(images).tolist() == [-64, 0, 64]


def test_initialisation_of_dcgan():
    torch.manual_seed(0)
    for network in (DCGANGenerator(), DCGANCritic(width=64), TransposedGenerator()):
        wide = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][1]
        assert float(wide.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        norm = next(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
        assert float(norm.weight.detach().mean()) == pytest.approx(1, abs=0.01)
        assert (norm.bias == 0).all()
    norms = [layer.eps for layer in DCGANGenerator().modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == [1e-5, 0.8, 0.8]
    assert [layer.eps for layer in DCGANCritic().modules() if isinstance(layer, nn.BatchNorm2d)] == [0.8] * 3


@pytest.mark.parametrize(
    "network",
    [
        DCGANGenerator(3, 1, 8, width=4),
        TransposedGenerator(3, 1, 8, width=4),
        WGANGPGenerator(3, 1, 8),
        DCGANCritic(1, 8, width=2, dropout=0.1),
        InfoGANCritic(3, 1, 8, width=2),
        WGANGPCritic(1, 8),
    ],
    ids=lambda network: type(network).__name__,
)
def test_what_is_saved_comes_back_with_its_notes(tmp_path, network):
    told = {"method": "MEKDGenerator", "queries": 7, "bytes_up": 8, "bytes_down": 9}
    save_network(network, tmp_path / "n", notes=told)
    again = load_network(tmp_path / "n")
    assert type(again) is type(network)
    assert not again.training
    assert fingerprint(again) == fingerprint(network)
    assert notes(tmp_path / "n") == told
    network = copy.deepcopy(network).eval()
    x = torch.rand(4, 3) if isinstance(network, Generator) else torch.rand(4, 1, 8, 8)
    assert torch.equal(again(x), network(x))
    assert (again.channels, again.image_size) == (1, 8)


def test_a_network_saved_without_notes_has_none(tmp_path):
    save_network(DCGANGenerator(3, 1, 8, width=4), tmp_path / "n")
    assert notes(tmp_path / "n") == {}
    with pytest.raises(FileNotFoundError, match="does not exist"):
        notes(tmp_path / "absent")


@pytest.mark.parametrize("size", [0, -4, 30, 33])
def test_sizes_that_cannot_be_made_are_refused(size):
    for build in (
        lambda: DCGANGenerator(10, 1, size),
        lambda: DCGANCritic(1, size),
        lambda: WGANGPGenerator(10, 1, size),
    ):
        with pytest.raises(ValueError, match=f"multiple of 4, got image_size {size}; resize them"):
            build()


@pytest.mark.parametrize("shape", [(4, 9), (4, 10, 1), (10,)])
def test_latent_vectors_of_another_length_are_refused(shape):
    with pytest.raises(ValueError, match=r"DCGANGenerator was built for latent vectors \(N, 10\)") as error:
        DCGANGenerator()(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


def test_generators_and_critics_are_told_apart():
    assert isinstance(DCGANGenerator(), Generator)
    assert isinstance(InfoGANCritic(), Critic)
    assert not isinstance(InfoGANCritic(), Generator)
