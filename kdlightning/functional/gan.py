"""Losses of generators and critics. A critic answers one logit per image; D(x) is its sigmoid, the probability "real".

They are computed in float32, whatever precision the networks have.

.. [Ma2024] J. Ma et al. Aligning Logits Generatively for Principled Black-Box Knowledge Distillation. CVPR 2024.
.. [Goodfellow2014] I. Goodfellow et al. Generative Adversarial Nets. NeurIPS 2014, arXiv:1406.2661.
.. [Gulrajani2017] I. Gulrajani et al. Improved Training of Wasserstein GANs. NeurIPS 2017, arXiv:1704.00028.
.. [Chen2016] X. Chen et al. InfoGAN. NeurIPS 2016, arXiv:1606.03657.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Literal["nonsaturating", "saturating", "wasserstein"]


def critic_loss(real: Tensor, fake: Tensor, objective: Objective = "nonsaturating") -> Tensor:
    """What the critic minimises, a scalar, from its logits of real ``(N,)`` and of generated ``(M,)`` images.

    ``-mean[log D(x) + log(1 - D(G(z)))]``, Eq. 11 of [Ma2024]_; for ``"wasserstein"`` the first two terms of Eq. 3 of
    [Gulrajani2017]_, ``mean f(G(z)) - mean f(x)``.
    """
    real, fake = real.float(), fake.float()
    if objective == "wasserstein":
        return fake.mean() - real.mean()  # Eq. (3) of [Gulrajani2017], first two terms
    return -(F.logsigmoid(real).mean() + F.logsigmoid(-fake).mean())  # Eq. (11): 1 - D = sigmoid(-logit)


def generator_loss(fake: Tensor, objective: Objective = "nonsaturating") -> Tensor:
    """What the generator minimises, a scalar, from the critic's logits ``(N,)`` of generated images.

    Eq. 12 of [Ma2024]_ as its text means it. As printed, ``-mean log(1 - D(G(z)))`` to be minimised, it would push
    D(G(z)) to 0: the sign is a slip. ``"saturating"`` is the text's ``mean log(1 - D(G(z)))``, ``"nonsaturating"`` the
    ``-mean log D(G(z))`` of Sec. 3 of [Goodfellow2014]_ with the same fixed point and a gradient that does not vanish.
    """
    fake = fake.float()
    if objective == "wasserstein":
        return -fake.mean()
    if objective == "saturating":
        return F.logsigmoid(-fake).mean()  # Eq. (12), sign as in its text
    return -F.logsigmoid(fake).mean()  # Eq. (12), non-saturating


def information_loss(fake: Tensor, weight: Tensor) -> Tensor:
    """Information maximisation, ``-mean[ŷ log D(G(z))]``, a scalar, Eq. 10 of [Ma2024]_.

    Of the critic's logits ``(N,)`` of the images that the teacher was asked about, and ŷ ``(N,)``, the teacher's top
    probability of each, 1 for hard answers, which carries no gradient: a black box has none. Other lengths are a
    ValueError. (The released code broadcasts here and loses the pairing.)
    """
    if fake.shape != weight.shape:
        raise ValueError(f"expected one weight per logit, got {tuple(weight.shape)} for {tuple(fake.shape)}")
    return -(weight.detach() * F.logsigmoid(fake.float())).mean()  # Eq. (10)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor | None = None
) -> Tensor:
    """``mean[(|∇f(x̂)|₂ - 1)²]`` on lines between real and generated images, third term of Eq. 3 of [Gulrajani2017]_.

    The critic takes pixels ``(N, C, H, W)`` to logits ``(N,)``; ``mix`` is the share of the real ones in x̂ ``(N,)``,
    uniform by default. A scalar; multiply by the paper's λ = 10.
    """
    share = torch.rand(len(real), device=real.device) if mix is None else mix
    share = share.view(-1, 1, 1, 1).to(real)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    with torch.autocast(real.device.type, enabled=False):  # gradients of gradients vanish in half precision, to NaN
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return cast(Tensor, (gradient.flatten(1).norm(dim=1) - 1).pow(2).mean())  # Eq. (3), third term


def code_loss(code: Tensor, latent: Tensor) -> Tensor:
    """``-log Q(z | G(z))`` of a Gaussian with unit variance, up to its constant: Eq. 5 of [Chen2016]_.

    Every latent variable is a code here, because MEKD's latent vector stands for the teacher's logits. A scalar, half
    the mean squared error per element of the critic's guess ``(N, Z)`` of the latent vectors ``(N, Z)``.
    """
    return 0.5 * F.mse_loss(code.float(), latent)  # Eq. (5), expectation of -log Q


def image_distance(one: Tensor, other: Tensor, norm: Literal["l1", "l2"] = "l1") -> Tensor:
    """Mean absolute or mean squared difference of images ``(N, C, H, W)``, a scalar, L_F of Eq. 14 of [Ma2024]_.

    Printed is a norm per image (a sum over its pixels); the released code takes the mean over elements, and β is
    relative to that. The two differ by the number of pixels: C * H * W.
    """
    return F.l1_loss(one, other) if norm == "l1" else F.mse_loss(one, other)  # Eq. (14), first term
