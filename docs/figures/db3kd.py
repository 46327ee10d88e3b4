"""What DB3KD measures: an image's distances to the teacher's boundaries, and the soft label that they make."""

import torch
from drawing import Drawing
from toy import NAMES, SIDE, Plane, Toy, images

from kdlightning.functional.boundary import (
    activations,
    boundary_distance,
    minimal_boundary_distance,
    nearest_candidates,
    sample_distance,
)

TEMPERATURE = 0.3


def draw() -> Drawing:
    """Measure one image by sd, bd and mbd."""
    teacher = Toy()
    image, pool = torch.tensor([[[[0.30, 0.36]]]]), images(28, seed=3)
    pool_class, own = teacher.predict(pool), teacher.predict(image)
    target = torch.tensor([k for k in range(3) if k != own])
    pairs = image.expand(2, 1, 1, 2)
    nearest = nearest_candidates(pairs, pool, pool_class, target, 1)
    line = boundary_distance(teacher.predict, pairs, target, pool, nearest)
    angles = torch.linspace(0, 2 * torch.pi, 65)[:64]
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    walked = minimal_boundary_distance(
        teacher.predict, pairs, target, line, torch.arange(2), circle, num_probes=64, query_limit=2000
    )
    sample = sample_distance(image, pool, pool_class, 3)

    drawing = Drawing(720, 340, "DB3KD: distances to decision boundaries become a soft label")
    plane = Plane(drawing, teacher)
    for point, label in zip(pool, pool_class, strict=True):
        drawing.dot(plane.at(point), NAMES[label], 3)
    for row, end, moved in zip(nearest[:, 0], line.point, walked.point, strict=True):
        drawing.line([plane.at(image), plane.at(pool[row])], "dash")
        drawing.line([plane.at(image), plane.at(moved)], f"{NAMES[own]} line")
        drawing.ring(plane.at(pool[row]), "ink", 6)
        drawing.dot(plane.at(end), "head", 4).dot(plane.at(moved), NAMES[own], 4)
    drawing.dot(plane.at(image), NAMES[own], 7)
    left = SIDE + 50
    drawing.legend(left, 36, [
        (NAMES[own], "an image, and what the teacher says: a"), ("ink", "sd: the nearest image of another class"),
        ("head", "bd: the boundary on the line to that image"), (NAMES[own], "mbd: after a walk along the boundary"),
    ])  # fmt: skip
    drawing.text(left, 142, f"soft label: softmax(a / {TEMPERATURE}), and distances", "bold", "start")
    distances = {"sd": sample[0], "bd": _whole(line.distance, target), "mbd": _whole(walked.distance, target)}
    for number, (name, distance) in enumerate(distances.items()):
        label = (activations(distance[None], own)[0] / TEMPERATURE).softmax(0)
        drawing.text(left, 178 + 56 * number, name, "", "start")
        for k, share in enumerate(label.tolist()):
            top = 160 + 56 * number + 15 * k
            drawing.area([(left + 40, top), (left + 40 + 200 * share, top), (left + 40 + 200 * share, top + 12),
                          (left + 40, top + 12)], NAMES[k])  # fmt: skip
            measured = "" if k == own else f", {distance[k]:.2f} away"
            drawing.text(left + 46 + 200 * share, top + 11, f"{NAMES[k]} {share:.2f}{measured}", "note", "start")
    return drawing


def _whole(distance: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Distances to all classes, that to the own one 0."""
    return torch.zeros(3).scatter(0, target, distance)
