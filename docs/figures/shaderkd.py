"""What shader KD learns from: pairs just before and just behind the teacher's boundary, and deeper ones."""

import torch
from drawing import Drawing
from toy import NAMES, SIDE, Plane, Toy, images

from kdlightning.functional.adversarial import border_attack, deeper_attack


def draw() -> Drawing:
    """Attack a few images."""
    teacher = Toy()
    start = images(8, seed=4)
    target = (teacher.predict(start) + 1 + torch.arange(len(start)) % 2) % 3
    pairs = border_attack(teacher, start, target, epsilon=0.5, step=0.05, iterations=20)
    deeper = deeper_attack(
        teacher, torch.cat([pairs.post, pairs.pre]), torch.cat([pairs.post_class, pairs.pre_class]),
        epsilon=0.05, step=0.05,
    )  # fmt: skip
    post_deeper, pre_deeper = deeper.chunk(2)

    drawing = Drawing(720, 340, "Shader KD: images before, behind and deeper behind a boundary")
    plane = Plane(drawing, teacher)
    for row in torch.nonzero(pairs.success)[:, 0]:
        before, behind = NAMES[pairs.pre_class[row]], NAMES[pairs.post_class[row]]
        drawing.line([plane.at(start[row]), plane.at(pairs.pre[row]), plane.at(pairs.post[row])], "dash")
        for end, origin in ((post_deeper, pairs.post), (pre_deeper, pairs.pre)):
            drawing.arrow(plane.at(origin[row]), plane.at(end[row]))
        drawing.ring(plane.at(start[row]), before, 4)
        drawing.dot(plane.at(pairs.pre[row]), before, 4).dot(plane.at(pairs.post[row]), behind, 4)
    left = SIDE + 50
    drawing.legend(left, 40, [
        ("a line", "an image; its colour is what the teacher says"), ("a", "the last image before the boundary"),
        ("b", "the first one behind it, in the target class"), ("head", "one step deeper, from each of the two"),
    ])  # fmt: skip
    drawing.text(left, 152, f"{int(pairs.success.sum())} of {len(start)} attacks succeeded", "bold", "start")
    drawing.text(left, 174, "The dashed line is the way from the start.", "note", "start")
    drawing.text(left, 194, "All steps follow the teacher's gradient: a white box.", "note", "start")
    return drawing
