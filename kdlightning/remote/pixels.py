"""What a server that wants normalised pixels is sent."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Numbers = float | list[float] | None


@dataclass(frozen=True)
class Pixels:
    """A pixel p in [0, 1] is sent as (scale * p - mean) / std, with the channels in this order.

    Raises:
        ValueError: a scale or deviation that is not positive.
    """

    scale: float = 1.0
    mean: Numbers = None
    std: Numbers = None
    channels: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        deviations = [1.0] if self.std is None else self.std if isinstance(self.std, list) else [self.std]
        if not self.scale > 0 or not all(one > 0 for one in deviations):
            raise ValueError(f"expected a positive scale and positive std, got {self.scale} and {self.std}")

    @property
    def text(self) -> str:
        """What a teacher's identity says of it; empty where nothing but a scale was set."""
        numbers = [f"{name}={getattr(self, name)}" for name in ("mean", "std") if getattr(self, name) is not None]
        return " ".join([*numbers, *(["BGR"] if self.channels == "BGR" else [])])

    def of(self, images: Tensor) -> Tensor:
        """The values of pixels ``(N, C, H, W)``, in their precision.

        Raises:
            ValueError: means or deviations of another number of channels; BGR without three.
        """
        number = images.shape[1]
        if self.channels == "BGR":
            if number != 3:
                raise ValueError(f"expected images of 3 channels for the order BGR, got {number}")
            images = images.flip(1)
        if self.scale != 1:
            images = images * self.scale
        for name, sign in (("mean", -1), ("std", 1)):
            given = getattr(self, name)
            if given is None:
                continue
            values = torch.as_tensor(given, dtype=images.dtype).reshape(-1, 1, 1)
            if len(values) not in (1, number):
                raise ValueError(f"expected {name} to have one number for each of {number} channels, got {given}")
            images = images - values if sign < 0 else images / values
        return images
