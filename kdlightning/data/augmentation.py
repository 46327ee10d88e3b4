"""Augmentation regimes that come from papers; everything else is torchvision's own transforms.

.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
"""

from typing import Literal

from torch import Tensor, nn
from torchvision.transforms import v2

_FILL = 0.5  # what a transform uncovers becomes grey


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
