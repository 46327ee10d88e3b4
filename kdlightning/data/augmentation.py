"""Augmentation that torchvision lacks: drawn for each image of a batch by itself, and the regimes of papers.

.. [DeVries2017] T. DeVries, G. W. Taylor. Improved Regularization of Convolutional Neural Networks with Cutout.
   arXiv:1708.04552.
.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
.. [Zhang2018] H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz. mixup: Beyond Empirical Risk Minimization. ICLR 2018.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

_FILL = 0.5  # what a transform uncovers becomes grey


class CropFlipCutout(nn.Module):
    """Random crops, horizontal flips and cutout [DeVries2017]_, drawn for each image, in one gather for the batch.

    A v2 transform draws once a call, so that images of a group share their crop; these share nothing.

    Args:
        padding: pixels that a crop may be away from the image's own place; what it uncovers mirrors the image.
        flip: the probability of a horizontal flip.
        cutout: pixels of a side of the square, clipped at the image's edge, that becomes the batch's mean colour; 0
            for none.

    Raises:
        ValueError: a negative number, or a probability above 1.
    """

    per_image = True  #: one call augments a whole batch: a datamodule need not split it in groups

    def __init__(self, padding: int = 4, flip: float = 0.5, cutout: int = 0) -> None:
        super().__init__()
        if padding < 0 or cutout < 0 or not 0 <= flip <= 1:
            got = f"got {padding}, {cutout} and {flip}"
            raise ValueError(f"expected padding and cutout of at least 0 pixels, and flip in [0, 1], {got}")
        self.padding, self.flip, self.cutout = padding, flip, cutout

    def forward(self, images: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1], the same shape; a ValueError for images no larger than ``padding``."""
        number, channels, height, width = images.shape
        if self.padding >= min(height, width):
            raise ValueError(
                f"padding: expected fewer than the image's {min(height, width)} pixels, got {self.padding}"
            )
        here: dict[str, Any] = {"device": images.device}
        top, left = torch.randint(2 * self.padding + 1, (2, number, 1), **here)
        rows, columns = top + torch.arange(height, **here), left + torch.arange(width, **here)
        columns = torch.where(torch.rand(number, 1, **here) < self.flip, columns.flip(1), columns)
        padded = F.pad(images, [self.padding] * 4, mode="reflect")
        index = torch.arange(number, **here)[:, None, None, None], torch.arange(channels, **here)[:, None, None]
        made: Tensor = padded[(*index, rows[:, None, :, None], columns[:, None, None, :])]
        if self.cutout:
            inside = [self._span(number, size, images.device) for size in (height, width)]
            hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
            made = torch.where(hole, images.mean((0, 2, 3), keepdim=True), made)
        return made

    def _span(self, number: int, size: int, device: torch.device) -> Tensor:
        """Where the square covers one axis, ``(N, size)``: its middle is drawn among the pixels."""
        start = torch.randint(size, (number, 1), device=device) - self.cutout // 2
        place = torch.arange(size, device=device)
        return (start <= place) & (place < start + self.cutout)


class RandomAffine(nn.Module):
    """torchvision's ``v2.RandomAffine`` without shear, drawn for each image, bilinear, in one gather for the batch.

    Args:
        degrees: the least and the greatest angle of a rotation, clockwise.
        translate: the greatest shift across and down, as shares of width and height.
        scale: the least and the greatest factor.
        fill: what is uncovered becomes.

    Raises:
        ValueError: a range that is none, a share outside [0, 1], or a factor that is not above 0.
    """

    per_image = True

    def __init__(
        self,
        degrees: tuple[float, float],
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        ordered = degrees[0] <= degrees[1] and 0 < scale[0] <= scale[1]
        if not ordered or not all(0 <= share <= 1 for share in translate):
            expected = "expected degrees from the least on, shares in [0, 1], and factors above 0 from the least on"
            raise ValueError(f"{expected}; got {tuple(degrees)}, {tuple(translate)}, {tuple(scale)}")
        self.degrees, self.translate, self.scale, self.fill = degrees, translate, scale, fill

    def forward(self, images: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)``, the same shape."""
        number, height, width = len(images), *images.shape[2:]
        angle, factor, across, down = torch.rand(4, number, device=images.device)
        shift = [(2 * draw - 1) * share for draw, share in zip((across, down), self.translate, strict=True)]
        return affine(
            images,
            self.degrees[0] + (self.degrees[1] - self.degrees[0]) * angle,
            torch.stack([width * shift[0], height * shift[1]], dim=1),
            self.scale[0] + (self.scale[1] - self.scale[0]) * factor,
            self.fill,
        )


def affine(images: Tensor, angle: Tensor, shift: Tensor, factor: Tensor, fill: float = 0.0) -> Tensor:
    """Images ``(N, C, H, W)`` turned clockwise by degrees ``(N,)``, made larger by factors ``(N,)``, then shifted.

    Each about its middle; ``shift`` ``(N, 2)`` is in pixels, across and down.
    """
    turn = torch.deg2rad(angle)
    side = images.new_tensor([images.shape[3] / 2, images.shape[2] / 2])  # of a grid that reaches from -1 to 1
    rows = [torch.stack([turn.cos(), turn.sin()], 1), torch.stack([-turn.sin(), turn.cos()], 1)]
    back = torch.stack(rows, dim=1) / factor[:, None, None]  # where a pixel comes from
    start = -(back @ shift[:, :, None])
    grid = F.affine_grid(torch.cat([back * side / side[:, None], start / side[:, None]], 2), list(images.shape), False)
    return F.grid_sample(images - fill, grid.to(images.dtype), align_corners=False) + fill


class Mixup(nn.Module):
    """Every image with another one of the batch [Zhang2018]_, in a proportion from Beta(α, α) of its own.

    A ValueError for an α that is not above 0.
    """

    per_image = True

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha: expected a number above 0, got {alpha}")
        self.alpha = alpha

    def forward(self, images: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)``, the same shape."""
        proportion = torch.distributions.Beta(self.alpha, self.alpha).sample((len(images), 1, 1, 1)).to(images)
        return proportion * images + (1 - proportion) * images[torch.randperm(len(images), device=images.device)]


class ShaderAugmentation(nn.Module):
    """Shader KD's augmentation (Sec. 4 of [Frank2023]_) for a datamodule's ``augmentation``.

    ``standard``: RandAugment (n = 4, m = 14), elastic, inversion, flip, crop with padding; ``minimal``: flip and crop;
    ``none``. The paper's numbers are for no size; those of the first author's later code for 224 pixels (elastic α 50,
    σ 5 for half of the images, inversion for a tenth, padding 12) are scaled with the size: 7.1, 0.71 and 2 at 32.

    Args:
        size: height and width of the images; fewer than 8 pixels are a ValueError.
        regime: how much.
    """

    def __init__(self, size: int, regime: Literal["standard", "minimal", "none"] = "standard") -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"size: expected at least 8 pixels, got {size}")
        scale = size / 224
        heavy: list[nn.Module] = [
            v2.RandAugment(num_ops=4, magnitude=14, fill=_FILL),
            v2.RandomApply([v2.ElasticTransform(alpha=50 * scale, sigma=5 * scale, fill=_FILL)], p=0.5),
            v2.RandomInvert(p=0.1),
        ]
        light = [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=max(1, round(12 * scale)), fill=_FILL)]
        chosen = {"standard": [*heavy, *light], "minimal": light, "none": []}[regime]
        self.transforms = nn.ModuleList(chosen)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1]; one draw for the whole batch, as v2 transforms have it."""
        for transform in self.transforms:
            images = transform(images)
        return images
