import math

import pytest
import torch
from helpers import Linear, TinyNet
from torch import nn

from kdlightning.functional.inversion import (
    InversionWeights,
    agreement,
    inversion_terms,
    invert,
    logits_and_statistics,
    normalised_layers,
    total_variation,
)

ONLY_CLASS = InversionWeights(batch_norm=0.0, variation=0.0, norm=0.0)


def two_layers():
    """BN on two channels that are a pixel and its double, then BN on their sum; statistics by hand."""
    double = nn.Conv2d(1, 2, 1, bias=False)
    double.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    add = nn.Conv2d(2, 1, 1, bias=False)
    add.weight.data = torch.ones(1, 2, 1, 1)
    first, second = nn.BatchNorm2d(2, eps=0.0), nn.BatchNorm2d(1)
    first.running_mean, first.running_var = torch.tensor([0.2, 0.3]), torch.tensor([0.25, 1.0])
    second.running_mean, second.running_var = torch.tensor([1.0]), torch.tensor([2.0])
    return nn.Sequential(double, first, add, second, nn.Flatten()).eval()


def test_batch_norm_distances_of_two_layers_by_hand():
    # pixels 0, 1, 0, 1: channel means 0.5 and 1, variances (not corrected) 0.25 and 1
    images = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(2, 1, 1, 2)
    logits, distances = logits_and_statistics(two_layers(), images)
    first = math.hypot(0.5 - 0.2, 1 - 0.3) + 0.0
    # normalised: (x - 0.2) / 0.5 + (2 x - 0.3) / 1 = 4 x - 0.7: mean 1.3, variance 4
    second = abs(1.3 - 1.0) + abs(4.0 - 2.0)
    torch.testing.assert_close(distances, torch.tensor([first, second]))
    torch.testing.assert_close(logits, two_layers()(images))


def test_the_first_layer_is_multiplied():
    net, images = nn.Sequential(two_layers(), nn.Linear(2, 3)), torch.rand(4, 1, 1, 2)
    first, second = logits_and_statistics(net, images)[1].tolist()
    net.requires_grad_(False)
    terms = inversion_terms(net, images, torch.zeros(4, dtype=torch.long), InversionWeights(2.0, first_layer=10.0))
    assert float(terms["batch_norm"]) == pytest.approx(2 * (10 * first + second), rel=1e-5)


def test_hooks_are_gone_even_after_an_error():
    net = TinyNet().eval()
    logits_and_statistics(net, torch.rand(2, 1, 8, 8))
    with pytest.raises(RuntimeError):
        logits_and_statistics(net, torch.rand(2, 7, 8, 8))
    assert [len(layer._forward_hooks) for layer in normalised_layers(net)] == [0]


def test_a_network_without_batch_norm_has_no_distances():
    net = Linear(torch.eye(4))
    assert logits_and_statistics(net, torch.rand(3, 1, 2, 2))[1].shape == (0,)
    terms = inversion_terms(net, torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long), InversionWeights())
    assert terms["batch_norm"] == 0
    assert normalised_layers(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))) == []


def test_total_variation_of_a_known_image():
    image = torch.tensor([[0.0, 1.0], [2.0, 4.0]]).view(1, 1, 2, 2)
    # down 2, 3; across 1, 2; diagonals 4 - 0 and 2 - 1
    assert float(total_variation(image)) == pytest.approx(math.hypot(2, 3) + math.hypot(1, 2) + 4 + 1)
    assert float(total_variation(image, "l1")) == pytest.approx(2.5 + 1.5 + 4 + 1)
    assert total_variation(torch.full((2, 3, 4, 4), 0.7)) == 0


def test_agreement_of_equal_and_of_opposite_answers():
    one, other = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    assert float(agreement(one, one)) == pytest.approx(1.0)
    assert float(agreement(one, other)) == pytest.approx(1 - math.log(2), abs=1e-5)
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    m = (p + q) / 2
    expected = 1 - 0.5 * ((p * (p / m).log()).sum() + (q * (q / m).log()).sum())
    torch.testing.assert_close(agreement(p.log(), q.log(), temperature=1.0), expected)


def test_terms_by_hand():
    net, images = Linear(torch.eye(4)), torch.tensor([0.0, 0.6, 0.8, 0.0]).view(1, 1, 2, 2)
    weights = InversionWeights(variation=3.0, norm=2.0, competition=5.0)
    terms = inversion_terms(net, images, torch.tensor([1]), weights, "l1", student=net)
    assert float(terms["class"]) == pytest.approx(math.log(2 + math.exp(0.6) + math.exp(0.8)) - 0.6, rel=1e-5)
    assert float(terms["norm"]) == pytest.approx(2.0)
    assert float(terms["variation"]) == pytest.approx(3 * (0.7 + 0.7 + 0.0 + 0.2), rel=1e-5)
    assert float(terms["competition"]) == pytest.approx(5.0)
    assert "competition" not in inversion_terms(net, images, torch.tensor([1]), weights)


def test_inversion_of_a_linear_classifier_reaches_its_classes():
    net, targets = Linear(torch.eye(4)), torch.arange(4)
    start = torch.full((4, 1, 2, 2), 0.5)
    made, loss = invert(net, start, targets, torch.Generator(), ONLY_CLASS, iterations=60, learning_rate=0.1, jitter=0)
    torch.testing.assert_close(made.flatten(1), torch.eye(4))  # the box's corner is the optimum
    assert float(loss) == pytest.approx(math.log(1 + 3 / math.e), rel=1e-3)
    assert (start == 0.5).all()


def test_statistics_are_matched():
    net = two_layers()
    images = torch.rand(32, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    weights = InversionWeights(batch_norm=1.0, variation=0.0, norm=0.0)
    made, _ = invert(net, images, torch.zeros(32, dtype=torch.long), torch.Generator(), weights, iterations=100)
    before, after = (logits_and_statistics(net, each)[1].sum() for each in (images, made))
    assert after < 0.6 * before


def test_shifts_and_mirrors_are_the_generators():
    torch.manual_seed(0)
    net, start, targets = TinyNet().eval(), torch.rand(6, 1, 8, 8), torch.arange(6) % 3

    def made(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return invert(net, start, targets, generator, iterations=5, **options)[0]

    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))
    assert torch.equal(made(0, jitter=0), made(1, jitter=0))
    assert not torch.equal(made(0, jitter=0, flip=True), made(0, jitter=0))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert 0 <= float(made(0).min()) <= float(made(0).max()) <= 1
