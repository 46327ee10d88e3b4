import math

import pytest
import torch

from kdlightning.shaders import coordinates, fields, noise, shapes
from kdlightning.shaders.colours import PALETTES, cosine_palette, hue
from kdlightning.shaders.draw import Draw, Range
from kdlightning.shaders.graph import (
    TIME,
    Cells,
    Colour,
    Node,
    Point,
    X,
    Y,
    angle,
    cells,
    constant,
    mirror,
    node,
    saturate,
    schedule,
    smooth,
    stair,
)
from kdlightning.shaders.program import Program


def image(value, size=4, time=0.0):
    """A scalar as a grey image ``(size, size)``; what is shown has to lie in [0, 1]."""
    return Program(Colour(value, value, value)).render([time], size)[0, 0]


def at(value, time=0.0):
    """A scalar that does not depend on the place."""
    return float(image(value, 1, time))


AXIS = torch.tensor([-0.75, -0.25, 0.25, 0.75])  # pixel centres of an image of four pixels


def test_places_run_to_the_right_and_upwards():
    torch.testing.assert_close(image(0.5 + 0.5 * X), (0.5 + 0.5 * AXIS).expand(4, 4))
    torch.testing.assert_close(image(0.5 + 0.5 * Y), (0.5 + 0.5 * AXIS.flip(0))[:, None].expand(4, 4))


def test_time_is_in_seconds():
    images = Program(Colour(TIME * 0.1, constant(0), constant(1))).render([2.0, 5.0], 1)
    torch.testing.assert_close(images.flatten(1), torch.tensor([[0.2, 0, 1], [0.5, 0, 1]]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (mirror(constant(0.25)), 0.25),
        (mirror(constant(1.75)), 0.25),
        (mirror(constant(-2.5)), 0.5),
        (stair(constant(0.4)), 0.0),
        (stair(constant(0.5)), 0.5),
        (stair(constant(0.6)), 1.0),
        (smooth(constant(0.25)), 0.15625),
        (smooth(constant(7.0)), 1.0),
        (1 / (constant(3) - 1) / 2, 0.25),
        (-constant(-0.5), 0.5),
        (2 - constant(1.5) * 1 - 0.25, 0.25),
        (angle(Point(constant(-1), constant(1))) / math.pi, 0.75),
        (angle(Point(constant(0), constant(0))) / math.pi, 0.25),  # defined at the origin too
    ],
)
def test_operations_have_their_closed_form(value, expected):
    assert at(value) == pytest.approx(expected, abs=1e-4)


def test_a_circle_has_known_pixels():
    distance = (AXIS**2 + AXIS[:, None] ** 2).sqrt() - 0.5
    torch.testing.assert_close(image(0.5 - shapes.circle(Point(X, Y), 0.5)), (0.5 - distance).clamp(min=0))
    inside = image(0.5 - 0.5 * fields.edge(shapes.circle(Point(X, Y), 0.5), 0.01))
    assert inside.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("distance", "x", "y", "expected"),
    [
        (lambda p: shapes.box(p, 0.2, 0.4), 0.5, 0.8, 0.5),  # 3-4-5 from its corner
        (lambda p: shapes.box(p, 0.2, 0.4), -0.1, 0.0, -0.1),
        (lambda p: shapes.polygon(p, 4, 0.3), 0.7, 0.0, 0.7 * math.cos(math.pi / 4) * 2 * 0.5**0.5 - 0.3),
        (lambda p: shapes.capsule(p, 0.3, 0.1), 0.6, 0.4, 0.4),
        (lambda p: shapes.star(p, 5, 0.5, 0.5), 0.5, 0.0, 0.0),  # a tip
        (lambda p: shapes.flower(p, 3, 0.4, 0.25), 0.5, 0.0, 0.0),
        (lambda p: shapes.moon(p, 0.5, 0.2), -0.45, 0.0, 0.25),  # in the other disc, on the left
        (lambda p: shapes.moon(p, 0.5, 0.2), 0.45, 0.0, -0.05),
        (lambda p: shapes.smooth_union(p.x, p.y, 0.4), 0.2, 0.2, 0.1),
        (lambda p: shapes.smooth_union(p.x, p.y, 0.4), 0.1, 0.9, 0.1),
    ],
)
def test_signed_distances(distance, x, y, expected):
    assert at(0.5 + distance(Point(constant(x), constant(y)))) - 0.5 == pytest.approx(expected, abs=2e-4)


def test_palettes_at_known_values():
    red, green, blue = cosine_palette(constant(0), (0.0, 0.5, 0.25))
    assert [at(each) for each in (red, green, blue)] == pytest.approx([1, 0, 0.5], abs=1e-6)
    colours = {0: (1, 0, 0), 1 / 6: (1, 1, 0), 1 / 3: (0, 1, 0), 0.5: (0, 1, 1), 2 / 3: (0, 0, 1), -1: (1, 0, 0)}
    for turns, expected in colours.items():
        assert [at(each) for each in hue(constant(turns))] == pytest.approx(expected, abs=1e-5)


def test_turning_and_mirroring():
    up = coordinates.turn(Point(constant(0.5), constant(0.0)), constant(math.pi / 2))
    assert (at(up.x), at(up.y)) == pytest.approx((0, 0.5), abs=1e-6)


def reference_hash(x, y, salt):
    """In Python's integers, modulo 2^32, with shifts that repeat the sign."""

    def signed(h):
        return (h + 2**31) % 2**32 - 2**31

    h = signed(x * noise._A) ^ signed(y * noise._B) ^ signed(salt * noise._C)
    h = signed((h ^ (h >> 15)) * noise._D)
    return signed((h ^ (h >> 13)) * noise._E)


@pytest.mark.parametrize(("x", "y", "salt"), [(0, 0, 1), (1, -1, 65535), (-70000, 12345, 9), (2**20, -(2**20), 40000)])
def test_the_hash_is_that_of_32_bit_integers(x, y, salt):
    place = torch.tensor([x], dtype=torch.int32), torch.tensor([y], dtype=torch.int32)
    assert noise.lattice_hash(*place, torch.tensor([float(salt)])).item() == reference_hash(x, y, salt)


def test_the_hash_is_even_and_does_not_repeat_itself():
    side = torch.arange(-200, 200, dtype=torch.int32)
    one, other = (
        noise.lattice_hash(side, side[:, None], torch.tensor([[salt]])).double() / 2**32 for salt in (5.0, 6.0)
    )
    assert one.mean().item() == pytest.approx(0, abs=0.01)
    assert 12 * one.var().item() == pytest.approx(1, abs=0.02)
    for shifted in (one[1:] * one[:-1], one[:, 1:] * one[:, :-1], one[1:, 1:] * one[:-1, :-1], one * other):
        assert 12 * shifted.mean().item() == pytest.approx(0, abs=0.02)


def test_noise_at_lattice_points_and_between():
    def place(x, y):
        return Point(constant(x), constant(y))

    corner = [reference_hash(x, 3, 7) / 2**32 + 0.5 for x in (2, 3)]
    assert at(node("value_noise", place(2, 3), 7)) == pytest.approx(corner[0], abs=1e-6)
    assert at(node("value_noise", place(2.5, 3), 7)) == pytest.approx(sum(corner) / 2, abs=1e-6)
    assert at(node("value_noise", place(2.25, 3), 7)) == pytest.approx(
        corner[0] + 0.15625 * (corner[1] - corner[0]), abs=1e-6
    )
    assert at(node("gradient_noise", place(-4, 9), 7)) == 0


def test_cells_without_jitter_are_unit_squares():
    def pattern(x, y) -> Cells:
        return cells(Point(constant(x), constant(y)), 3, 0.0)

    assert at(pattern(1.5, 2.5).nearest) == pytest.approx(0, abs=1e-3)
    assert at(pattern(1.8, 2.9).nearest) == pytest.approx(0.5, abs=1e-5)  # 3-4-5 from (1.5, 2.5)
    assert at(pattern(1.8, 2.9).second) == pytest.approx(math.hypot(0.3, 0.6), abs=1e-5)
    numbers = [at(pattern(x, 0.3).cell) for x in (0.1, 0.9, 1.1)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_a_schedule_has_every_node_once_after_what_it_needs():
    shared = X * Y
    root = shared + shared * X
    order = schedule([root, shared])
    assert len(order) == len(set(order)) == 5
    assert all(order.index(one) < order.index(each) for each in order for one in each.arguments)


def test_a_draw_keeps_to_its_ranges_and_remembers_them():
    draw = Draw(3)
    assert {draw.integer(2, 4) for _ in range(100)} == {2, 3, 4}
    assert {draw.among({"a": 1.0, "b": 0.0, "c": 2.0}) for _ in range(100)} == {"a", "c"}
    assert [int(draw.number(0, 1).value), int(draw.scale(1, 4).value), int(draw.salt().value)] == [0, 1, 2]
    assert [span.at(0.5) for span in draw.ranges] == [0.5, 2.0, 32768.0]
    assert Range(0, 3, "integer").at(0.999) == 2.0


GRAMMAR = [*coordinates.WARPS, *fields.FIELDS, *shapes.SHAPES, shapes.scene, shapes.balls, *PALETTES]


@pytest.mark.parametrize("part", GRAMMAR, ids=lambda part: part.__name__)
def test_every_part_of_the_grammar_varies_and_is_finite(part):
    varied = []
    for seed in range(4):
        draw, size = Draw(seed), 16
        made = part(draw, X if part in PALETTES else Point(X, Y))
        for value in [made] if isinstance(made, Node) else made:
            values = Program(Colour(*[0.5 + 0.01 * value] * 3), draw.ranges, seed).render([1.0], size)
            assert values.isfinite().all()
            varied.append(values.std().item() > 1e-4)
    assert sum(varied) > len(varied) / 2


def test_saturate_is_what_the_end_of_a_program_does():
    assert torch.equal(image(3 * X), image(saturate(3 * X)))
