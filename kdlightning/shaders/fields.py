"""Patterns: functions from a point to a scalar that lies, for most points, within [-1, 1] and fills it."""

import math
from collections.abc import Callable

from kdlightning.shaders.coordinates import plus, shift, times, turn, warp
from kdlightning.shaders.draw import Draw
from kdlightning.shaders.graph import (
    Node,
    Point,
    angle,
    cells,
    constant,
    cos,
    exp,
    log,
    maximum,
    minimum,
    mirror,
    mix,
    node,
    saturate,
    sin,
    smooth,
    sqrt,
)
from kdlightning.shaders.shapes import balls, scene

Field = Callable[[Draw, Point], Node]


def edge(a: Node, width: Node | float) -> Node:
    """-1 below -width, 1 above, an S between."""
    return 2 * smooth(a / width * 0.5 + 0.5) - 1


WAVES: dict[Callable[[Draw, Node], Node], float] = {
    lambda _, a: sin(a): 4,
    lambda _, a: 2 * mirror(a * 0.3183099) - 1: 1.5,  # zigzag
    lambda draw, a: edge(sin(a) + draw.number(-0.5, 0.5), draw.number(0.1, 0.4)): 2,
    lambda draw, a: 1 - 2 * smooth(abs(sin(a * 0.5)) / draw.number(0.2, 0.6)): 1.2,  # narrow lines
    lambda draw, a: 0.6 * sin(a) + 0.4 * sin(3 * a + draw.phase()): 1,
}


def wave(draw: Draw, a: Node) -> Node:
    """A periodic function of radians, period 2π."""
    return draw.among(WAVES)(draw, a)


def slope(draw: Draw, p: Point) -> Node:
    """Dark to light across the image."""
    return minimum(maximum(turn(p, draw.phase()).x * draw.number(0.5, 1.2), -1.5), 1.5)


def glow(draw: Draw, p: Point) -> Node:
    """Light around a centre."""
    q = shift(draw, p, 0.6)
    return 2 * exp(-draw.scale(0.8, 6) * q.squared()) - 1


def stripes(draw: Draw, p: Point) -> Node:
    """A wave along one direction."""
    return wave(draw, turn(p, draw.phase(0.2)).x * draw.scale(2, 11) + draw.phase())


def interference(draw: Draw, p: Point) -> Node:
    """Plane waves of several directions on top of each other."""
    number, pace = draw.integer(2, 5), draw.scale(2, 9)
    along = (turn(p, draw.phase(0.1)).x * (pace * draw.number(0.6, 1.5)) + draw.phase() for _ in range(number))
    return sum(map(sin, along), constant(0)) * (1.2 / math.sqrt(number))


def lattice(draw: Draw, p: Point) -> Node:
    """A wave across times a wave upwards: eggs in a box, checks, tartan."""
    p, pace = turn(p, draw.phase(0.15)), draw.scale(2, 10)
    across = p.x * pace + draw.phase()
    up = p.y * pace * (1.0 if draw.chance(0.5) else draw.scale(0.5, 2)) + draw.phase()
    combinations: tuple[Callable[[], Node], ...] = (
        lambda: sin(across) * sin(up),
        lambda: edge(sin(across) * sin(up), draw.number(0.05, 0.3)),
        lambda: edge(cos(across) + cos(up) + draw.number(-1, 1), draw.number(0.1, 0.8)),
        lambda: maximum(wave(draw, across), wave(draw, up)),
    )
    return draw.choice(combinations)()


def rings(draw: Draw, p: Point) -> Node:
    """Waves around one or two centres."""
    q = shift(draw, p, 0.8)
    around = wave(draw, abs(q) * draw.scale(3, 13) + draw.phase(0.8))
    if draw.chance(0.6):
        return around
    return 0.6 * (around + sin(abs(shift(draw, p, 0.8)) * draw.scale(3, 13) + draw.phase()))


def spiral(draw: Draw, p: Point) -> Node:
    """Arms from a centre."""
    q = shift(draw, p, 0.5)
    r, arms = abs(q), draw.integer(0, 9)
    turns = draw.scale(2, 8) * log(r + 0.05) if draw.chance(0.5) else draw.number(2, 14) * r
    return wave(draw, angle(q) * arms + turns + draw.phase(0.8))


def smooth_noise(draw: Draw, p: Point) -> Node:
    """One octave of noise, of either kind."""
    q = shift(draw, times(p, draw.scale(1, 6)), 3)
    return 2.2 * draw.noise("value", q) - 1.1 if draw.chance(0.5) else 1.8 * draw.noise("gradient", q)


def clouds(draw: Draw, p: Point) -> Node:
    """Several octaves of noise."""
    return 3.2 * draw.noise("fractal", shift(draw, times(p, draw.scale(0.8, 4)), 3)) - 1.6


def ridges(draw: Draw, p: Point) -> Node:
    """Noise that is sharp along lines."""
    return 3 * draw.noise("ridged", shift(draw, times(p, draw.scale(0.6, 2.5)), 3)) - 1.6


def smoke(draw: Draw, p: Point) -> Node:
    """Noise at places moved by noise."""
    q, salt = times(p, draw.scale(0.7, 2.5)), draw.salt()
    reach = draw.number(0.6, 2.2)
    moved = node("fractal_noise", plus(q, draw.sway(0, 3), 1.7), salt)
    q = plus(q, reach * moved, reach * draw.noise("value", q))
    return 3.2 * draw.noise("fractal", q) - 1.6


def marble(draw: Draw, p: Point) -> Node:
    """Veins: a wave along a direction or a radius, disturbed by noise."""
    along = turn(p, draw.phase(0.2)).x if draw.chance(0.6) else abs(shift(draw, p, 1))
    rough = draw.noise("fractal", times(p, draw.scale(1, 4)))
    return wave(draw, along * draw.scale(2, 9) + rough * draw.number(2, 6) + draw.phase())


def contours(draw: Draw, p: Point) -> Node:
    """Lines of equal height of noise."""
    height = draw.noise("gradient", plus(times(p, draw.scale(0.8, 3)), draw.sway(-2, 2), 0.0))
    return wave(draw, height * draw.scale(4, 14) + draw.phase(0.8))


def cellular(draw: Draw, p: Point) -> Node:
    """Worley's cells: dimples, walls, stones of different brightness, scales."""
    q = shift(draw, times(p, draw.scale(1.2, 5)), 2)
    jitter = draw.number(0.5, 1.0) if draw.chance(0.8) else draw.number(0.0, 0.3)
    pattern = cells(q, draw.salt(), jitter)
    wall = pattern.second - pattern.nearest

    def stones(light: Node) -> Node:
        inside = smooth(wall / draw.number(0.04, 0.2))
        return mix(draw.number(-1.2, 1.2), light, inside)

    looks: dict[Callable[[], Node], float] = {
        lambda: 1 - 2.2 * pattern.nearest: 1,
        lambda: edge(wall - draw.number(0.08, 0.3), draw.number(0.03, 0.3)): 1,
        lambda: stones(2.4 * pattern.cell - 1.2): 1.6,
        lambda: wave(draw, pattern.nearest * draw.scale(5, 14) + draw.phase(0.8)): 1,
        lambda: stones(1.4 * pattern.cell + 1 - 2.2 * pattern.nearest - 0.4): 1,
    }
    return draw.among(looks)()


def outline(draw: Draw, p: Point) -> Node:
    """Shapes: filled, drawn, glowing or with rings around them."""
    distance = scene(draw, p) if draw.chance(0.75) else balls(draw, p)
    looks: dict[Callable[[], Node], float] = {
        lambda: edge(-distance, draw.scale(0.015, 0.12)): 2.5,
        lambda: 1 - 2 * smooth(abs(distance) / draw.scale(0.03, 0.15)): 1,
        lambda: 2 * exp(-draw.scale(2, 9) * abs(distance)) - 1: 1,
        lambda: wave(draw, distance * draw.scale(7, 25) + draw.phase(0.8)): 1.2,
        lambda: minimum(maximum(-distance * draw.number(1.5, 4), -1.0), 1.0): 1.3,
    }
    return draw.among(looks)()


def sphere(draw: Draw, p: Point) -> Node:
    """A ball or a row of balls under a lamp, with a pattern or without."""
    q = p if draw.chance(0.4) else Point(2 * mirror(p.x * 1.3) - 1, 2 * mirror(p.y * 1.3) - 1)
    q = shift(draw, q, 0.3)
    radius = draw.number(0.6, 1.0)
    u, v = q.x / radius, q.y / radius
    depth = sqrt(saturate(1 - u * u - v * v) + 0.0004)
    around = draw.phase()
    light = 0.7 * (u * cos(around) + v * sin(around)) + 0.7 * depth
    if draw.chance(0.4):
        front = 1 / (depth + 0.5)
        light = light * (0.7 + 0.4 * draw.choice(SIMPLE)(draw, Point(u * front, v * front)))
    inside = smooth((1 - u * u - v * v) / 0.1)
    return mix(draw.number(-1.2, 0.6), 2 * light - 0.8, inside)


def halftone(draw: Draw, p: Point) -> Node:
    """Dots or lines that grow and shrink with another pattern."""
    q, pace = turn(p, draw.phase(0.05)), draw.scale(6, 14)
    grid = cos(q.x * pace) + (cos(q.y * pace) if draw.chance(0.6) else 0.0)
    return edge(grid + 1.6 * draw.choice(SIMPLE)(draw, p), draw.number(0.2, 0.6))


def orbits(draw: Draw, p: Point) -> Node:
    """How near the orbit of a point under z² + c comes to a trap: Julia sets, a few steps of them."""
    z = times(p, draw.number(0.8, 1.2))
    c = Point(draw.sway(-0.9, 0.4), draw.sway(-0.7, 0.7))
    trap = plus(z, draw.number(-0.5, 0.5), draw.number(-0.5, 0.5)) if draw.chance(0.2) else z
    nearest = minimum(4.0, abs(trap))
    lines = draw.chance(0.4)
    for _ in range(draw.integer(2, 3)):
        x, y = z.x * z.x - z.y * z.y + c.x, 2 * z.x * z.y + c.y
        z = Point(minimum(maximum(x, -1.6), 1.6), minimum(maximum(y, -1.6), 1.6))
        nearest = minimum(nearest, minimum(abs(z.x), abs(z.y)) if lines else abs(z))
    if draw.chance(0.5):
        return sin(log(nearest + 0.1) * draw.scale(1.5, 4) + draw.phase())
    return 1 - 2 * saturate(nearest * draw.number(1.0, 2.5))


def relief(draw: Draw, p: Point) -> Node:
    """Another pattern as a landscape lit from the side."""
    salt, pace, how = draw.salt(), draw.scale(1, 5), draw.choice(("value_noise", "gradient_noise", "fractal_noise"))
    offset = draw.sway(-2, 2)
    around, step = draw.phase(), 0.06

    def height(x: Node | float, y: Node | float) -> Node:
        return node(how, times(plus(p, x + offset, y), pace), salt)

    rise = height(step * cos(around), step * sin(around)) - height(0.0, 0.0)
    return rise / (step * pace) * draw.number(0.8, 1.6)


SIMPLE: tuple[Field, ...] = (slope, glow, stripes, interference, lattice, rings, spiral, smooth_noise, clouds)
FIELDS: dict[Field, float] = {
    slope: 0.4, glow: 0.4, stripes: 0.8, interference: 0.9, lattice: 1.0, rings: 0.8, spiral: 0.9, smooth_noise: 0.9,
    clouds: 1.0, ridges: 0.8, smoke: 1.0, marble: 1.0, contours: 0.8, cellular: 1.7, outline: 2.4, sphere: 0.7,
    halftone: 0.7, orbits: 0.9, relief: 0.7,
}  # fmt: skip


def field(draw: Draw, p: Point) -> Node:
    """One pattern, or two in one: added, multiplied, the larger, one seen through the other, a wave of one."""
    first = draw.among(FIELDS)(draw, p)
    if draw.chance(0.62):
        return first
    how = draw.choice(("wave", "sum", "product", "max", "difference", "detail"), (1, 1, 1, 0.7, 0.7, 1.2))
    if how == "wave":
        return sin(first * draw.scale(2, 7) + draw.phase(0.8))
    other = warp(draw, p, draw.integer(0, 1))
    second = draw.among(FIELDS)(draw, other)
    if how == "sum":
        return 0.7 * (first + second)
    if how == "product":
        return first * second
    if how == "max":
        return node(draw.choice(("max", "min")), first, second)
    if how == "difference":
        return 1.5 * abs(first - second) - 1
    return first + draw.number(0.15, 0.5) * second
