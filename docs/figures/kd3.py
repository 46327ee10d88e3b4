"""What KD³ selects of a pool: images whose combined prediction is above the threshold of their class."""

import torch
from drawing import Drawing
from toy import NAMES, SIDE, Plane, Toy, images

from kdlightning.functional.selection import class_thresholds, combine, select, student_weight

PROGRESS = 0.35


def draw() -> Drawing:
    """Select from a pool in which the classes are not equally frequent."""
    teacher, student = Toy(sharpness=25), Toy(shift=0.06, sharpness=12)
    pool = images(160, seed=5) * torch.tensor([0.95, 0.8])
    alpha = student_weight(PROGRESS)
    confidence, label = combine(teacher(pool).softmax(1), student(pool).softmax(1), alpha).max(1)
    chosen = select(confidence, label)
    counts = torch.bincount(label, minlength=3)

    drawing = Drawing(720, 340, "KD³: which images of a pool are learnt from")
    plane = Plane(drawing, teacher)
    for point, k, kept in zip(pool, label, chosen, strict=True):
        (drawing.dot if kept else drawing.ring)(plane.at(point), NAMES[k], 4 if kept else 3)
    left = SIDE + 50
    drawing.legend(left, 40, [("a", "chosen"), ("a line", "left out: not sure enough for its class")])
    drawing.text(left, 104, f"teacher {1 - alpha:.2f}, student {alpha:.2f}: combined prediction", "note", "start")
    drawing.text(left, 140, "images of the class, and its threshold", "bold", "start")
    for k, (count, threshold) in enumerate(zip(counts.tolist(), class_thresholds(counts).tolist(), strict=True)):
        top, width = 160 + 50 * k, 2.2 * count
        drawing.area([(left, top), (left + width, top), (left + width, top + 16), (left, top + 16)], f"{NAMES[k]}")
        drawing.text(left + width + 8, top + 13, f"{count} images", "note", "start")
        drawing.text(left, top + 34, f"sure of more than {threshold:.2f}", "small", "start")
    return drawing
