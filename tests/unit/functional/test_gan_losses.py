from math import exp, log

import pytest
import torch
from torch.nn import functional as F

from kdlightning.functional import gan

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0, 1.0])


def sigmoid(x):
    return 1 / (1 + exp(-x))


def test_critic_loss_by_hand():
    by_hand = -(log(sigmoid(2)) + log(sigmoid(-1))) / 2 - sum(log(1 - sigmoid(x)) for x in (0.5, -3, 1)) / 3
    for objective in ("nonsaturating", "saturating"):
        assert float(gan.critic_loss(REAL, FAKE, objective)) == pytest.approx(by_hand, rel=1e-5)
    assert float(gan.critic_loss(REAL, FAKE, "wasserstein")) == pytest.approx(-1.5 / 3 - 0.5)


def test_generator_loss_by_hand():
    assert float(gan.generator_loss(FAKE)) == pytest.approx(-sum(log(sigmoid(x)) for x in (0.5, -3, 1)) / 3, rel=1e-5)
    saturating = sum(log(1 - sigmoid(x)) for x in (0.5, -3, 1)) / 3
    assert float(gan.generator_loss(FAKE, "saturating")) == pytest.approx(saturating, rel=1e-5)
    assert float(gan.generator_loss(FAKE, "wasserstein")) == pytest.approx(0.5)


@pytest.mark.parametrize("objective", ["nonsaturating", "saturating", "wasserstein"])
def test_every_objective_pushes_generated_images_towards_real(objective):
    logit = FAKE.clone().requires_grad_()
    gan.generator_loss(logit, objective).backward()
    assert (logit.grad < 0).all()  # a step against the gradient raises D(G(z))
    logit.grad = None
    gan.critic_loss(REAL, logit, objective).backward()
    assert (logit.grad > 0).all()


def test_losses_stay_finite_where_the_sigmoid_is_0_or_1():
    far = torch.tensor([-200.0, 200.0])
    assert float(gan.critic_loss(far, far)) == pytest.approx(200)
    assert float(gan.generator_loss(far)) == pytest.approx(100)
    assert float(gan.information_loss(far, torch.ones(2))) == pytest.approx(100)


def test_information_loss_pairs_each_image_with_its_weight():
    weight = torch.tensor([0.9, 0.2, 0.5])
    by_hand = -sum(w * log(sigmoid(x)) for w, x in zip((0.9, 0.2, 0.5), (0.5, -3, 1), strict=True)) / 3
    assert float(gan.information_loss(FAKE, weight)) == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(gan.information_loss(FAKE, torch.ones(3)), gan.generator_loss(FAKE))


def test_information_loss_refuses_to_broadcast_and_gives_the_weight_no_gradient():
    for weight in (torch.ones(3, 1), torch.ones(1), torch.tensor(1.0), torch.ones(2)):
        with pytest.raises(ValueError, match=r"one weight per logit, got \(.*\) for \(3,\)"):
            gan.information_loss(FAKE, weight)
    logit, weight = FAKE.clone().requires_grad_(), torch.full((3,), 0.5, requires_grad=True)
    gan.information_loss(logit, weight).backward()
    assert weight.grad is None
    torch.testing.assert_close(logit.grad, -0.5 * torch.sigmoid(-FAKE) / 3)


def test_gradient_penalty_of_a_linear_critic():
    weight = torch.zeros(1, 2, 2)
    weight[0, 0] = torch.tensor([3.0, 4.0])  # norm 5 everywhere
    weight.requires_grad_()
    real, fake = torch.rand(6, 1, 2, 2), torch.rand(6, 1, 2, 2)
    penalty = gan.gradient_penalty(lambda x: (x * weight).flatten(1).sum(1), real, fake)
    torch.testing.assert_close(penalty, torch.tensor(16.0))
    penalty.backward()  # d (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    torch.testing.assert_close(weight.grad, 2 * 4 * weight.detach() / 5)


def test_gradient_penalty_between_real_and_generated():
    # f(x) = |x|^2 / 2, so the gradient at a point is the point itself
    real, fake = torch.full((3, 1, 2, 2), 0.8), torch.full((3, 1, 2, 2), 0.2)
    mix = torch.tensor([0.0, 0.5, 1.0])
    penalty = gan.gradient_penalty(lambda x: x.flatten(1).pow(2).sum(1) / 2, real, fake, mix)
    norms = [2 * 0.2, 2 * 0.5, 2 * 0.8]  # of four equal pixels
    assert float(penalty.detach()) == pytest.approx(sum((norm - 1) ** 2 for norm in norms) / 3, rel=1e-5)
    drawn = gan.gradient_penalty(lambda x: x.flatten(1).pow(2).sum(1) / 2, real, real)
    assert float(drawn.detach()) == pytest.approx(0.36, rel=1e-5)


def test_code_loss_is_half_the_mean_square():
    code, latent = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    assert float(gan.code_loss(code, latent)) == pytest.approx((1 + 4 + 16) / 4 / 2)


def test_image_distance_is_a_mean_over_elements():
    one, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    other[0, 0, 0, 0], other[1, 2, 3, 3] = 0.6, -0.3
    elements = 2 * 3 * 16
    assert float(gan.image_distance(one, other)) == pytest.approx(0.9 / elements)
    assert float(gan.image_distance(one, other, "l2")) == pytest.approx(0.45 / elements)
    larger = F.interpolate(other, scale_factor=2, mode="nearest")
    assert float(gan.image_distance(torch.zeros_like(larger), larger)) == pytest.approx(0.9 / elements)
