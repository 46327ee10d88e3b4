"""The attacks on linear teachers, whose iterates, boundaries and confidences are known in closed form."""

import math

import pytest
import torch
from helpers import Linear, TinyNet
from torch import nn

from kdlightning.functional.adversarial import border_attack, deeper_attack

SHAPE, PIXELS = (1, 6, 6), 36
UNIT = 1 / 255
PLAIN = {"epsilon": 100 * UNIT, "step": UNIT, "grow": 2.0, "shrink": 0.5}


class Spy:
    """Counts and keeps what a teacher is shown, and how often its gradient is asked for."""

    def __init__(self, teacher):
        self.teacher, self.shown, self.forwards, self.backwards = teacher, [], [], []

    def __call__(self, x):
        assert torch.equal(x, x.clamp(0, 1))
        self.shown.append(x.detach().clone())
        self.forwards.append(len(x))
        logits = self.teacher(x)
        logits.register_hook(lambda gradient: self.backwards.append(len(gradient)))
        return logits


class Line:
    """Two classes; m (margin of class 1) grows by 1 with every step of 1/255 along ``direction``, at 0.5 it is 0."""

    def __init__(self, dtype=torch.float64):
        self.direction = torch.randn(PIXELS, generator=torch.Generator().manual_seed(3)).sign().to(dtype).view(SHAPE)
        weight = torch.zeros(2, PIXELS, dtype=dtype)
        weight[1] = self.direction.flatten() * 255 / PIXELS
        self.teacher = Linear(weight, torch.stack([weight.new_zeros(()), -weight[1].sum() / 2]))

    def at(self, *margins):
        return torch.stack([0.5 + m * UNIT * self.direction for m in margins])

    def margin(self, x):
        return self.teacher(x).diff(dim=1).squeeze(1)


LINE = Line()


def close(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def sure(margin):
    """Top probability of two classes at this margin."""
    return 1 / (1 + math.exp(-abs(margin)))


def ones(number):
    return torch.full((number,), 1)


def five_classes():
    weight = torch.randn(5, PIXELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Linear(weight, -weight.sum(1) / 2)


def images(number, spread=0.15, dtype=torch.float64):
    noise = torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return (0.5 + spread * noise).clamp(0, 1)


def others(teacher, x, classes):
    return (teacher(x).argmax(1) + 1 + torch.arange(len(x)) % (classes - 1)) % classes


def step_by_step(teacher, image, target, epsilon, step, iterations, threshold, grow, shrink):
    """One image, the gradient of softmax and cross-entropy written out, two forwards per step: slow and plain."""
    weight, bias = teacher.weight, teacher.bias
    lower, upper = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)

    def probabilities(x):
        return (weight @ x + bias).softmax(0)

    x = tried = before = image
    if int(probabilities(x).argmax()) == target:
        return x, x, False, 0
    for turn in range(1, iterations + 1):
        p = probabilities(x)
        gradient = weight.T @ (p - nn.functional.one_hot(torch.tensor(target), len(p)))
        before, tried = x, (x - step * gradient.sign()).clamp(lower, upper)
        q = probabilities(tried)
        if int(q.argmax()) != target:
            x, step = tried, step * grow
        elif q.max() < threshold and p.max() < threshold:
            return tried, before, True, turn
        else:
            step = step * shrink
    return tried, before, False, iterations


def test_every_iterate_of_a_growing_step_by_hand():
    spy = Spy(LINE.teacher)
    x = LINE.at(-4.2)
    found = border_attack(spy, x, ones(1), epsilon=10 * UNIT, step=UNIT, grow=1.1, threshold=0.95)
    # steps of 1, 1.1, 1.21 and 1.331: -4.2, -3.2, -2.1, -0.89, +0.441
    expected = LINE.at(-4.2, -3.2, -2.1, -0.89, 0.441)
    assert (spy.forwards, spy.backwards) == ([1] * 5, [1] * 4)
    close(torch.cat(spy.shown), expected)
    close(found.post, expected[4:])
    close(found.pre, expected[3:4])
    assert (found.success.tolist(), found.iterations.tolist()) == ([True], [4])
    assert (found.post_class.tolist(), found.pre_class.tolist()) == ([1], [0])
    assert torch.equal(x, LINE.at(-4.2))


@pytest.mark.parametrize(
    ("threshold", "tried", "backwards"),
    [
        (sure(3), [-2.5, -1.5, 0.5], 2),
        # 0.5 is unsure enough but -1.5 is not: back, half the step; then 1.5 is too sure: back, half the step
        (sure(1.4), [-2.5, -1.5, 0.5, -0.5, 1.5, 0.5], 3),
        # neither -0.5 nor 0.5 is: back to -0.5, half and half again, across at 0 (the first class wins) and 0.25
        (sure(0.4), [-2.5, -1.5, 0.5, -0.5, 1.5, 0.5, 0.0, 1.0, 0.5, 0.25], 4),
    ],
)
def test_steps_taken_back_by_hand(threshold, tried, backwards):
    spy = Spy(LINE.teacher)
    # the boundary lies a hair behind 0, so that rounding does not decide there
    found = border_attack(spy, LINE.at(-2.5 - 1e-9), ones(1), threshold=threshold, **PLAIN)
    close(LINE.margin(torch.cat(spy.shown)), torch.tensor(tried, dtype=torch.float64), 1e-8)
    assert (found.success.tolist(), found.iterations.tolist()) == ([True], [len(tried) - 1])
    assert len(spy.backwards) == backwards  # an image taken back keeps the gradient it had
    assert float(LINE.margin(found.post)) == pytest.approx(tried[-1], abs=1e-8)
    assert float(LINE.margin(found.pre)) == pytest.approx([m for m in tried if m <= 0][-1], abs=1e-8)


@pytest.mark.parametrize("start", [-60.5, -0.5])
def test_the_threshold_is_strict_and_above_one_is_none(start):
    # before or after the step so sure (margin 60.5) that the probability is 1 in floating point
    x, arguments = LINE.at(start), {"epsilon": 1.0, "step": 61 * UNIT, "iterations": 1}
    assert border_attack(LINE.teacher, x, ones(1), threshold=1.0, **arguments).success.tolist() == [False]
    assert border_attack(LINE.teacher, x, ones(1), threshold=1.1, **arguments).success.tolist() == [True]


def test_a_failure_returns_the_last_image_tried_and_where_it_began():
    found = border_attack(LINE.teacher, LINE.at(-2.5, -9.5), ones(2), threshold=sure(1.4), iterations=2, **PLAIN)
    assert (found.success.tolist(), found.iterations.tolist()) == ([False, False], [2, 2])
    close(found.post, LINE.at(0.5, -6.5))
    close(found.pre, LINE.at(-1.5, -8.5))
    # the first one crossed, only too surely: the filter without threshold would take it
    assert (found.post_class.tolist(), found.pre_class.tolist()) == ([1, 0], [0, 0])


def test_the_ball_and_the_pixel_box_end_the_way():
    found = border_attack(LINE.teacher, LINE.at(-20.0), ones(1))
    close(found.post, LINE.at(-10.0))
    assert (found.success.tolist(), found.iterations.tolist()) == ([False], [12])
    # upwards 3 steps are left, downwards none
    edge = torch.where(LINE.direction > 0, 1 - 3 * UNIT, 0.0).double()[None]
    teacher = Linear(LINE.teacher.weight, torch.tensor([1e4, 0.0], dtype=torch.float64))
    close(border_attack(teacher, edge, ones(1)).post, torch.where(LINE.direction > 0, 1.0, 0.0).double()[None], 0)


def test_images_of_the_target_class_from_the_start_take_no_step():
    spy = Spy(LINE.teacher)
    x = LINE.at(0.5, -0.5, 0.1)
    found = border_attack(spy, x, ones(3))
    assert (found.success.tolist(), found.iterations.tolist()) == ([False, True, False], [0, 1, 0])
    assert spy.forwards == [3, 1]
    assert torch.equal(found.post[[0, 2]], x[[0, 2]])
    assert torch.equal(found.pre, x)
    assert found.pre_class.tolist() == [1, 0, 1]
    spy = Spy(LINE.teacher)
    assert border_attack(spy, x[:1], ones(1)).success.tolist() == [False]
    assert (spy.forwards, spy.backwards) == ([1], [])


def test_finished_images_leave_the_batch():
    spy = Spy(LINE.teacher)
    x = LINE.at(-0.5, -1.5, -8.0, -1.7, -3.2)
    found = border_attack(spy, x, ones(5), grow=1.0, threshold=1.1, iterations=6)
    assert (found.success.tolist(), found.iterations.tolist()) == ([True, True, False, True, True], [1, 2, 6, 2, 4])
    assert spy.forwards == [5, 5, 4, 2, 2, 1, 1]
    assert sum(spy.forwards) == len(x) + int(found.iterations.sum())
    assert spy.backwards == [5, 5, 4, 2, 2, 1]  # none after the last step
    close(found.post, LINE.at(0.5, 0.5, -2.0, 0.3, 0.8))


@pytest.mark.parametrize("threshold", [0.35, 0.6, 0.95, 2.0])
def test_many_classes_are_what_a_plain_loop_finds(threshold):
    teacher, x = five_classes(), images(60)
    target = others(teacher, x, 5)
    target[::7] = teacher(x[::7]).argmax(1)
    settings = {"epsilon": 0.15, "step": 0.02, "iterations": 9, "threshold": threshold, "grow": 1.1, "shrink": 0.5}
    found = border_attack(teacher, x, target, **settings)
    alone = [step_by_step(teacher, x[i].flatten(), int(target[i]), **settings) for i in range(60)]
    for side in (0, 1):
        close(found[side], torch.stack([row[side] for row in alone]).view_as(x))
        logits = teacher(found[side])
        assert torch.equal((found.post_class, found.pre_class)[side], logits.argmax(1))
        assert (logits.softmax(1).amax(1)[found.success] < threshold).all()
        assert ((found[side] - x).abs() <= 0.15 + 1e-12).all()
    assert (found.success.tolist(), found.iterations.tolist()) == ([row[2] for row in alone], [row[3] for row in alone])
    assert 0 < int(found.success.sum()) < 60
    assert ((found.post_class == target) & (found.pre_class != target))[found.success].all()


def network(dtype=torch.float64):
    torch.manual_seed(0)
    net = TinyNet().to(dtype)
    net.body[1].running_var.mul_(0.05)
    net.classifier.weight.data.mul_(8)
    return net.eval()


def test_a_result_does_not_depend_on_the_batch():
    net, x = network(), images(30, spread=0.3)
    target = others(net, x, 3)
    settings = {"epsilon": 0.2, "step": 0.01, "threshold": 0.6}
    together = border_attack(net, x, target, **settings)
    assert 3 < int(together.success.sum()) < 30
    for i in range(30):
        alone = border_attack(net, x[i : i + 1], target[i : i + 1], **settings)
        for one, many in zip(alone, together, strict=True):
            close(one[0], many[i], 1e-9)
    alone = torch.cat([deeper_attack(net, one[None], steps=3, epsilon=0.1) for one in x])
    close(alone, deeper_attack(net, x, steps=3, epsilon=0.1), 1e-9)


def test_gradients_reach_the_pixels_only_and_no_grad_outside_is_fine():
    net, x = network(), images(4).requires_grad_()
    target = others(net, x, 3)
    with_grad = border_attack(net, x, target)
    with torch.no_grad():
        found = border_attack(net, x, target)
        deeper = deeper_attack(net, found.post)
    for one, other in zip(with_grad, found, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert not deeper.requires_grad
    assert x.grad is None
    assert {p.grad for p in net.parameters()} == {None}
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode: false"):
        border_attack(net, x, target)


def test_confidence_in_float32_whatever_the_logits_are():
    # logits 0 and 2.96875, exact in bfloat16: a top probability of 0.9511, which bfloat16 rounds to 0.9492 < 0.95
    margin = 2.96875
    assert float(torch.tensor([0.0, margin], dtype=torch.bfloat16).softmax(0)[1]) < 0.95 < sure(margin)
    line = Line(torch.float32)
    x = line.at(margin - 4)
    found = border_attack(lambda x: line.teacher(x).bfloat16(), x, ones(1), step=4 * UNIT, iterations=1)
    assert found.post_class.tolist() == [1]
    assert found.success.tolist() == [False]


def test_autocast_leaves_pixels_and_confidence_in_float32():
    net, x = network(torch.float32), images(30, spread=0.3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        found = border_attack(net, x, others(net, x, 3), epsilon=1.0, step=0.01, grow=2.0)
    assert [field.dtype for field in found[:3:2]] == [torch.float32, torch.bool]
    once = found.success & (found.iterations == 1)
    assert once.any()
    inside = once[:, None, None, None] & (x > 0.01) & (x < 0.99)
    close((found.post - x).abs()[inside], torch.full((int(inside.sum()),), 0.01), 1e-7)


def test_deeper_goes_one_step_into_the_own_class():
    spy = Spy(LINE.teacher)
    x = LINE.at(0.4, -1.3)
    found = deeper_attack(spy, x)
    close(found, LINE.at(1.4, -2.3))
    assert (spy.forwards, spy.backwards) == ([2], [2])
    assert torch.equal(deeper_attack(LINE.teacher, x, torch.tensor([1, 0])), found)
    assert torch.equal(x, LINE.at(0.4, -1.3))
    close(deeper_attack(LINE.teacher, x, epsilon=2.5 * UNIT, steps=4), LINE.at(2.9, -3.8))
    close(
        deeper_attack(LINE.teacher, x, torch.tensor([0, 0]), epsilon=9 * UNIT, step=UNIT, steps=3), LINE.at(-2.6, -4.3)
    )


def test_deeper_keeps_the_class_it_started_in():
    teacher, x = five_classes(), images(50)
    own = teacher(x).argmax(1)
    found = deeper_attack(teacher, x, epsilon=0.2, step=0.05, steps=5)
    assert torch.equal(found, deeper_attack(teacher, x, own, epsilon=0.2, step=0.05, steps=5))
    assert torch.equal(teacher(found).argmax(1), own)
    assert (teacher(found).softmax(1).amax(1) > teacher(x).softmax(1).amax(1)).all()
    assert (found - x).abs().max() <= 0.2 + 1e-12


def test_deeper_towards_a_class_is_foolboxs_bim():
    foolbox = pytest.importorskip("foolbox")
    net, x = network(torch.float32), images(40, spread=0.3, dtype=torch.float32)
    target = others(net, x, 3)
    attack = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=0.01, steps=10, random_start=False)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs, *_ = attack(model, x, foolbox.criteria.TargetedMisclassification(target), epsilons=0.055)
    ours = deeper_attack(net, x, target, epsilon=0.055, step=0.01, steps=10)
    assert float((ours - x).abs().amax()) == pytest.approx(0.055, abs=1e-6)
    close(ours, theirs, 1e-6)


def test_a_random_start_lies_in_the_ball_and_belongs_to_the_seed():
    x = LINE.at(*[-3.0] * 50)

    def run(seed, distance=10 * UNIT):
        spy = Spy(LINE.teacher)
        torch.manual_seed(seed)
        return border_attack(spy, x, ones(50), random_start=distance), spy.shown[0]

    found, start = run(0)
    assert torch.equal(found.post, run(0)[0].post)
    assert not torch.equal(found.post, run(1)[0].post)
    away = (start - x) * 255
    assert 9.9 < float(away.abs().max()) <= 10
    assert float(away.std()) == pytest.approx(10 / math.sqrt(3), rel=0.05)
    assert float((found.post - x).abs().max()) <= 10 * UNIT + 1e-12
    assert float((run(0, distance=40 * UNIT)[1] - x).abs().max()) == pytest.approx(10 * UNIT)


def test_no_image_at_all():
    found = border_attack(LINE.teacher, LINE.at(-1)[:0], ones(0))
    assert [tuple(field.shape) for field in found] == [(0, *SHAPE)] * 2 + [(0,)] * 4
    assert deeper_attack(lambda x: pytest.fail("asked"), found.post).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(2, PIXELS)}, r"expected images \(N, C, H, W\).* got \(2, 36\)"),
        ({"images": torch.zeros(2, *SHAPE).bfloat16()}, "16 bits do not hold"),
        ({"images": torch.full((2, *SHAPE), math.nan)}, r"pixels in \[0, 1\]"),
        ({"target": ones(3)}, r"class indices \(2,\) in int64, got \(3,\)"),
        ({"target": torch.ones(2)}, "in torch.float32"),
        ({"epsilon": -0.1}, "radius"),
        ({"random_start": -0.1}, "distance"),
        ({"step": 0.0}, "step > 0"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"shrink": 1.0}, "shrink < 1"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        border_attack(LINE.teacher, **{"images": LINE.at(-1, -2), "target": ones(2), **arguments})
    with pytest.raises(ValueError, match="steps >= 1, got 1 and 0"):
        deeper_attack(LINE.teacher, LINE.at(-1), ones(1), epsilon=1, step=1, steps=0)
