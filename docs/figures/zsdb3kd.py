"""What ZSDB3KD does: noise walks away from the nearest boundary, and keeps its class."""

import torch
from drawing import Drawing
from toy import NAMES, SIDE, Plane, Toy, images

from kdlightning.functional.boundary import any_but, boundary_distance, boundary_normal, retreat

ITERATIONS = 8
STEP = 0.05


def draw() -> Drawing:
    """Walk twelve noises."""
    teacher = Toy()
    noise = 0.25 + 0.5 * images(14, seed=7)
    own = teacher.predict(noise)
    angles = torch.linspace(0, 2 * torch.pi, 65)[:64]
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    others = images(200, seed=8)
    candidates = torch.stack([torch.nonzero(teacher.predict(others) != label)[:40, 0] for label in own])
    target, key = any_but(own), torch.arange(len(noise))
    now, paths, distances = noise, [noise], []
    for _ in range(ITERATIONS):
        found = boundary_distance(teacher.predict, now, target, others, candidates)
        distances.append(found.distance.mean().item())
        radius = 0.1 * found.distance
        normal = boundary_normal(teacher.predict, found.point, target, radius, key, circle, num_probes=64)
        now, _, _ = retreat(teacher.predict, now, own, normal, STEP)
        paths.append(now)

    drawing = Drawing(720, 340, "ZSDB3KD: noise walks away from the teacher's boundaries")
    plane = Plane(drawing, teacher)
    for row, label in enumerate(own):
        drawing.line([plane.at(images_[row]) for images_ in paths], f"{NAMES[label]} line")
        drawing.ring(plane.at(noise[row]), NAMES[label], 4).dot(plane.at(now[row]), NAMES[label], 5)
    left = SIDE + 50
    drawing.legend(left, 40, [("a line", "noise, coloured by what the teacher says"), ("a", "the image made of it")])
    drawing.text(left, 120, "mean distance to the boundary", "bold", "start")
    drawing.text(left, 140, "over the iterations, in pixels", "note", "start")
    most = max(distances)
    corners = [(left + 34 * number, 290 - 120 * value / most) for number, value in enumerate(distances)]
    drawing.line([(left, 160), (left, 290), (left + 34 * ITERATIONS, 290)]).line(corners, "a line")
    drawing.text(left, 310, "0", "note").text(corners[-1][0], 310, f"{ITERATIONS - 1}", "note")
    drawing.text(left + 8, corners[0][1] + 18, f"{distances[0]:.2f}", "note", "start")
    drawing.text(corners[-1][0], corners[-1][1] - 10, f"{distances[-1]:.2f}", "note")
    return drawing
