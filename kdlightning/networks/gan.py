"""Generators and critics. A generator's latent vector stands for a classifier's logits: one dimension per class.

.. [Radford2016] A. Radford, L. Metz, S. Chintala. Unsupervised Representation Learning with Deep Convolutional
   Generative Adversarial Networks. ICLR 2016, arXiv:1511.06434.
.. [Gulrajani2017] I. Gulrajani et al. Improved Training of Wasserstein GANs. NeurIPS 2017, arXiv:1704.00028.
.. [Chen2016] X. Chen et al. InfoGAN. NeurIPS 2016, arXiv:1606.03657.
"""

import math
from itertools import pairwise
from typing import cast

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from kdlightning.types import Answers

# Of all batch normalisations but the first, as in MEKD's released code: large enough to act as a weak regulariser
_EPS = 0.8


class Generator(nn.Module, PyTorchModelHubMixin, library_name="kdlightning"):
    """Latent vectors ``(N, Z)`` → pixels ``(N, C, H, W)`` in [0, 1].

    A subclass sets ``body``, whose last layer is a sigmoid.

    Args:
        latent_dim: Z; for MEKD the number of classes.
        channels: of the images, C.
        image_size: H = W: 28, 32, 64, any positive multiple of 4; others are a ValueError.
    """

    body: nn.Module
    paid = Answers(0, 0, 0)  #: what its training in this process has asked for

    def __init__(self, latent_dim: int, channels: int, image_size: int) -> None:
        super().__init__()
        _require_multiple_of_four(image_size)
        self.latent_dim, self.channels, self.image_size = latent_dim, channels, image_size

    def forward(self, latent: Tensor) -> Tensor:
        """Latent vectors ``(N, Z)`` → pixels ``(N, C, H, W)`` in [0, 1]; a ValueError if they have another length."""
        if latent.ndim != 2 or latent.shape[1] != self.latent_dim:
            wanted = f"{type(self).__name__} was built for latent vectors (N, {self.latent_dim})"
            raise ValueError(f"{wanted}, one dimension per class; got {tuple(latent.shape)}")
        return cast(Tensor, self.body(latent).view(-1, self.channels, self.image_size, self.image_size))


class Critic(nn.Module, PyTorchModelHubMixin, library_name="kdlightning"):
    """Pixels ``(N, C, H, W)`` in [0, 1] → one logit ``(N,)``, high for real images.

    A subclass sets ``body`` (pixels to features) and ``head`` (features to one number).

    Args:
        channels: of the images, C.
        image_size: H = W: 28, 32, 64, any positive multiple of 4; others are a ValueError.
    """

    body: nn.Module
    head: nn.Module

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        _require_multiple_of_four(image_size)
        self.channels, self.image_size = channels, image_size

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → logits ``(N,)``."""
        return cast(Tensor, self.head(self.body(2 * x - 1)).squeeze(1))


class DCGANGenerator(Generator):
    """The generator of MEKD's released code: a linear layer, then twice nearest-neighbour upsampling and convolution.

    312,705 parameters for 10 classes, 32 pixels and one channel.

    Args:
        width: channels of the first map, the paper's 128.
    """

    def __init__(self, latent_dim: int = 10, channels: int = 1, image_size: int = 32, width: int = 128) -> None:
        super().__init__(latent_dim, channels, image_size)
        side = image_size // 4
        start = nn.Linear(latent_dim, width * side**2)
        self.body = nn.Sequential(start, nn.Unflatten(1, (width, side, side)), nn.BatchNorm2d(width))
        for after in (width, width // 2):
            self.body.extend([nn.Upsample(scale_factor=2), nn.Conv2d(width, after, 3, padding=1)])
            self.body.extend([nn.BatchNorm2d(after, _EPS), nn.LeakyReLU(0.2, inplace=True)])
        self.body.extend([nn.Conv2d(width // 2, channels, 3, padding=1), nn.Sigmoid()])
        self.apply(_initialise)


class TransposedGenerator(Generator):
    """A DCGAN generator by transposed convolutions, as in [Radford2016]_: a fraction of `DCGANGenerator`'s work.

    Args:
        width: channels of the first map.
    """

    def __init__(self, latent_dim: int = 10, channels: int = 1, image_size: int = 32, width: int = 128) -> None:
        super().__init__(latent_dim, channels, image_size)
        side = image_size // 4
        self.body = nn.Sequential(
            nn.Linear(latent_dim, width * side**2, bias=False),
            nn.Unflatten(1, (width, side, side)),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width // 2, channels, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )
        self.apply(_initialise)


class DCGANCritic(Critic):
    """The critic of MEKD's released code: four convolutions of stride 2 with dropout.

    98,113 parameters for 32 pixels and one channel.

    Args:
        width: channels of the first map, doubled three times.
        dropout: share of maps that are dropped.
    """

    def __init__(self, channels: int = 1, image_size: int = 32, width: int = 16, dropout: float = 0.25) -> None:
        super().__init__(channels, image_size)
        self.body = nn.Sequential()
        for number, (before, after) in enumerate(pairwise([channels, width, 2 * width, 4 * width, 8 * width])):
            self.body.extend([nn.Conv2d(before, after, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)])
            self.body.append(nn.Dropout2d(dropout))
            if number:
                self.body.append(nn.BatchNorm2d(after, _EPS))
        self.num_features = 8 * width * math.ceil(image_size / 16) ** 2
        self.body.append(nn.Flatten())
        self.head = nn.Linear(self.num_features, 1)
        self.apply(_initialise)


class InfoGANCritic(DCGANCritic):
    """A `DCGANCritic` that also guesses the latent vector of an image: Q of [Chen2016]_, on the same features.

    Args:
        latent_dim: length of the latent vectors.
    """

    def __init__(
        self, latent_dim: int = 10, channels: int = 1, image_size: int = 32, width: int = 16, dropout: float = 0.25
    ) -> None:
        super().__init__(channels, image_size, width, dropout)
        self.code_head = nn.Linear(self.num_features, latent_dim)

    def code(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → a guess of the latent vectors ``(N, Z)``."""
        return cast(Tensor, self.code_head(self.body(2 * x - 1)))


class WGANGPGenerator(Generator):
    """A fully connected generator, 128-256-512-1024: the likeliest reading of the arXiv version's WGAN-GP for MNIST."""

    def __init__(self, latent_dim: int = 10, channels: int = 1, image_size: int = 28) -> None:
        super().__init__(latent_dim, channels, image_size)
        self.body = nn.Sequential(nn.Linear(latent_dim, 128), nn.LeakyReLU(0.2, inplace=True))
        for before, after in pairwise([128, 256, 512, 1024]):
            self.body.extend([nn.Linear(before, after), nn.BatchNorm1d(after, _EPS), nn.LeakyReLU(0.2, inplace=True)])
        self.body.extend([nn.Linear(1024, channels * image_size**2), nn.Sigmoid()])


class WGANGPCritic(Critic):
    """A fully connected critic without batch normalisation, 512-256, for the gradient penalty of [Gulrajani2017]_."""

    def __init__(self, channels: int = 1, image_size: int = 28) -> None:
        super().__init__(channels, image_size)
        self.body = nn.Sequential(nn.Flatten())
        for before, after in pairwise([channels * image_size**2, 512, 256]):
            self.body.extend([nn.Linear(before, after), nn.LeakyReLU(0.2, inplace=True)])
        self.head = nn.Linear(256, 1)


def _initialise(module: nn.Module) -> None:
    """Convolutions N(0, 0.02), normalisations N(1, 0.02): Sec. 3 of [Radford2016]_; linear layers stay."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _require_multiple_of_four(image_size: int) -> None:
    if image_size < 4 or image_size % 4:
        wanted = "images whose height and width are a multiple of 4"
        raise ValueError(f"expected {wanted}, got image_size {image_size}; resize them")
