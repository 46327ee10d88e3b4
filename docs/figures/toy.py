"""A teacher of three classes whose images have two pixels, so that all there is can be drawn on a plane."""

import contourpy
import torch
from drawing import Drawing, Point
from torch import Tensor, nn

NAMES = "abc"
SIDE = 300  # pixels of the drawn plane


class Toy(nn.Module):
    """Logits of images ``(N, 1, 1, 2)`` by their distance from each class's centres: boundaries are curves.

    Args:
        shift: moves all centres; a student that has not learnt everything yet.
        sharpness: scale of the logits.
    """

    def __init__(self, shift: float = 0.0, sharpness: float = 40.0) -> None:
        super().__init__()
        centres = [[[0.22, 0.25], [0.45, 0.10]], [[0.80, 0.35], [0.95, 0.75]], [[0.30, 0.85], [0.62, 0.70]]]
        self.centres, self.sharpness = torch.tensor(centres) + shift, sharpness

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 1, 1, 2)`` in [0, 1] to ``(N, 3)``."""
        distance = (images.flatten(1)[:, None, None] - self.centres).square().sum(-1)
        return (-self.sharpness * distance).logsumexp(-1)

    def predict(self, images: Tensor) -> Tensor:
        """Classes ``(N,)``: all that a black box of top-1 labels answers."""
        return self(images).argmax(1)


def images(number: int, seed: int) -> Tensor:
    """Uniform points of the plane as images ``(N, 1, 1, 2)``."""
    return torch.rand(number, 1, 1, 2, generator=torch.Generator().manual_seed(seed))


class Plane:
    """Where the unit square lies on a drawing, coloured by the teacher's classes."""

    def __init__(self, drawing: Drawing, teacher: Toy, left: float = 20, top: float = 20) -> None:
        self.left, self.top = left, top
        steps = torch.linspace(0, 1, 81)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        logits = teacher(torch.stack([x, y], -1).view(-1, 1, 1, 2)).view(81, 81, 3)
        drawing.box(left, top, SIDE, SIDE)
        for k, name in enumerate(NAMES):
            others = logits[..., [i for i in range(3) if i != k]].amax(-1)
            areas = contourpy.contour_generator(steps, steps, (logits[..., k] - others).numpy()).filled(0.0, 1e9)
            for area in areas[0]:
                drawing.area([self.at(point) for point in torch.tensor(area)], f"{name} faint")

    def at(self, image: Tensor) -> Point:
        """Where an image is drawn."""
        x, y = image.flatten().tolist()
        return self.left + SIDE * x, self.top + SIDE * y
