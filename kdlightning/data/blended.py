"""A pool in which few images show the task: the task's images blended into photographs, among plain photographs.

.. [Ganin2016] Y. Ganin, E. Ustinova, H. Ajakan, P. Germain, H. Larochelle, F. Laviolette, M. Marchand, V. Lempitsky.
   Domain-Adversarial Training of Neural Networks. JMLR 17(59), 2016.
"""

from copy import copy
from typing import Any

import torch
from torch import Tensor

from kdlightning.data.base import ImageDataModule, at_least
from kdlightning.data.collected import CollectedDataModule, in_channels
from kdlightning.data.web import WebDataModule

_SIDE = 6  # of a photograph's middle, in sides of a crop


class BlendedDataModule(CollectedDataModule):
    """Crops of photographs; the task's training images are blended into some of them, as MNIST-M's [Ganin2016]_ are.

    A blended pixel is ``|a - b|``. Half of KD³'s pool for MNIST is MNIST-M; here one chooses how much of a pool is. No
    validation and no test image is in it. Crop ``i`` depends on the source's seed and ``i`` alone: pools that differ in
    ``relevant`` have the same backgrounds, and the larger share has the smaller one's images.

    Args:
        source: the task's data set. Its training images are blended, a random one each, none twice.
        number: images of the pool.
        relevant: share of the pool, from 0 to 1, that has an image of the task in it.
        contrast: of the others, from 0 to 1: how far their pixels are from their mean, as a share of what they were.
        photos: a folder, zip, tar, or list of photographs, see :class:`WebDataModule`; by default the two that ship
            with scikit-learn.
        cache: where the decoded photographs go.
        fraction: see :class:`CollectedDataModule`.

    Raises:
        ValueError: a number or a share outside its range; once set up, more relevant images than the source has.
    """

    def __init__(
        self,
        source: ImageDataModule,
        number: int = 10_000,
        relevant: float = 0.1,
        contrast: float = 1.0,
        photos: str = "",
        cache: str = "cache",
        fraction: float = 1.0,
    ) -> None:
        super().__init__(source, fraction)
        at_least(1, number=number)
        for setting, value in (("relevant", relevant), ("contrast", contrast)):
            if not 0 <= value <= 1:
                raise ValueError(f"{setting}: expected a share from 0 to 1, got {value}")
        self.number, self.relevant, self.contrast = number, relevant, contrast
        self.pool = None
        if photos:
            enlarged = copy(source)
            enlarged.image_size = _SIDE * source.image_size
            self.pool = WebDataModule(enlarged, photos, cache)

    def prepare_data(self) -> None:
        """Let the source download, and decode the photographs once, on one process."""
        super().prepare_data()
        if self.pool is not None:
            self.pool.prepare_data()

    def collect(self) -> Tensor:
        """The blended images, then the others."""
        task, wanted = self.source.train_set, round(self.relevant * self.number)
        if wanted > len(task):
            there = f"{self.source.name} has {len(task)} training images"
            raise ValueError(f"relevant={self.relevant} of {self.number} images are {wanted}, but {there}")
        images = self.crops()
        order = torch.randperm(len(task), generator=torch.Generator().manual_seed(self.seed + 3))
        shown = order[:wanted]
        images[:wanted] = (task.pixels(shown).short() - images[:wanted]).abs().to(torch.uint8)
        others = images[wanted:].float()
        mean = others.mean((1, 2, 3), keepdim=True) if len(others) else others
        images[wanted:] = (mean + self.contrast * (others - mean)).round().to(torch.uint8)
        if task.labels is not None:
            self.truth = torch.cat([task.labels[shown], torch.full((self.number - wanted,), -1)])
        return images

    def crops(self) -> Tensor:
        """As many crops of photographs as the pool has images, uint8 ``(M, C, H, W)``."""
        photos = list(_samples(self.channels) if self.pool is None else self.pool.collect())
        draws = torch.rand(self.number, 3, generator=torch.Generator().manual_seed(self.seed + 4)).double()
        images = torch.empty(self.number, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        for image, (which, *place) in zip(images, draws.tolist(), strict=True):
            photo = photos[int(which * len(photos))]
            size = self.image_size
            top, left = (int(part * (side - size + 1)) for part, side in zip(place, photo.shape[1:], strict=True))
            image.copy_(photo[:, top : top + size, left : left + size])
        return images

    def identity(self) -> dict[str, Any]:
        """Adds what the images are made from."""
        made = {"number": self.number, "relevant": self.relevant, "contrast": self.contrast}
        photos = "scikit-learn" if self.pool is None else self.pool.files_identity()
        return {**super().identity(), "blended": {**made, "photos": photos}}


def _samples(channels: int) -> list[Tensor]:
    """The two photographs of scikit-learn, some 400 x 600 pixels."""
    from sklearn.datasets import load_sample_images

    photos = (torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images)
    return [in_channels(photo[None], channels)[0] for photo in photos]
