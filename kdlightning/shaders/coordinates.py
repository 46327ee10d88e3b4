"""Coordinates and their warps: functions from a point to the point whose pattern is shown there.

All are continuous, or jump only along lines that patterns do not show, and keep places within a few units of the
origin: a difference in the last bit of a float stays one that cannot be seen.
"""

import math
from collections.abc import Callable

from kdlightning.shaders.draw import Draw
from kdlightning.shaders.graph import Node, Point, angle, cos, exp, log, mirror, sin, stair

Warp = Callable[[Draw, Point], Point]


def turn(p: Point, by: Node) -> Point:
    """Rotated about the origin by radians."""
    c, s = cos(by), sin(by)
    return Point(c * p.x - s * p.y, s * p.x + c * p.y)


def times(p: Point, factor: Node | float) -> Point:
    """Scaled about the origin."""
    return Point(p.x * factor, p.y * factor)


def plus(p: Point, x: Node | float, y: Node | float) -> Point:
    """Shifted."""
    return Point(p.x + x, p.y + y)


def shift(draw: Draw, p: Point, reach: float = 0.7) -> Point:
    """By up to the reach in either direction, perhaps swaying: seen from another centre."""
    return plus(p, draw.sway(-reach, reach), draw.sway(-reach, reach))


def stretch(draw: Draw, p: Point) -> Point:
    """Wider and flatter, along a random direction."""
    p, factor = turn(p, draw.phase(0.1)), draw.scale(1.3, 3)
    return Point(p.x * factor, p.y / factor)


def waves(draw: Draw, p: Point) -> Point:
    """Each coordinate swings with the other."""
    for _ in range(1 if draw.chance(0.6) else 2):
        reach, pace = draw.scale(0.08, 0.5), draw.scale(1.5, 6)
        p = Point(p.x + reach * sin(pace * p.y + draw.phase()), p.y + reach * sin(pace * p.x + draw.phase()))
    return p


def turbulence(draw: Draw, p: Point) -> Point:
    """Pushed about by noise."""
    noise = draw.choice(("gradient", "value"))
    q, reach = times(p, draw.scale(0.8, 4)), draw.scale(0.15, 0.9)
    q = shift(draw, q, 2)
    return plus(p, reach * draw.noise(noise, q), reach * draw.noise(noise, q))


def swirl(draw: Draw, p: Point) -> Point:
    """Turned, the more the nearer to a centre."""
    centre = draw.sway(-0.5, 0.5), draw.sway(-0.5, 0.5)
    q = plus(p, *centre)
    strength = draw.number(1.5, 6) if draw.chance(0.5) else draw.number(-6, -1.5)
    q = turn(q, strength / (1 + draw.scale(1, 6) * q.squared()))
    return plus(q, -centre[0], -centre[1])


def lens(draw: Draw, p: Point) -> Point:
    """Magnified or shrunk around a centre."""
    q = shift(draw, p, 0.6)
    return times(q, draw.number(0.3, 1) + draw.number(-0.8, 2) / (1 + draw.scale(2, 10) * q.squared()))


def ripple(draw: Draw, p: Point) -> Point:
    """Rings that push outwards and inwards."""
    q = shift(draw, p, 0.7)
    return times(p, 1 + draw.scale(0.05, 0.3) * sin(draw.scale(4, 16) * abs(q) + draw.phase()))


def polar(draw: Draw, p: Point) -> Point:
    """Radius and mirrored angle as coordinates."""
    folds = draw.integer(1, 6)
    return Point(draw.scale(0.8, 3) * abs(p) + draw.phase(), _sector(p, folds, draw.phase(0.3)) * draw.number(0.5, 3))


def tunnel(draw: Draw, p: Point) -> Point:
    """Depth and mirrored angle: looking down a pipe, or a spiral staircase."""
    p = shift(draw, p, 0.4)
    r, folds = abs(p), draw.integer(1, 6)
    depth = draw.scale(0.5, 1.5) / (r + 0.2) if draw.chance(0.5) else draw.scale(0.7, 2) * log(r + 0.08)
    across = _sector(p, folds, draw.phase(0.3) + (draw.number(-1, 1) * depth if draw.chance(0.5) else 0.0))
    return Point(depth + draw.phase(0.9), across * draw.number(0.5, 3))


def kaleidoscope(draw: Draw, p: Point) -> Point:
    """One sector of the plane, mirrored round."""
    folds = draw.integer(2, 8)
    r, theta = abs(p), _sector(p, folds, draw.phase(0.3)) * (math.pi / folds)
    return plus(Point(r * cos(theta), r * sin(theta)), draw.sway(-0.8, 0), draw.sway(-0.4, 0.4))


def _sector(p: Point, folds: int, phase: Node) -> Node:
    """The angle as a zigzag in [0, 1] with this many teeth, continuous all round."""
    return mirror(angle(p) * (folds / math.pi) + phase)


def fold(draw: Draw, p: Point) -> Point:
    """Mirrored in one or two lines."""
    p = turn(p, draw.phase(0.2))
    p = Point(abs(p.x), abs(p.y) if draw.chance(0.6) else p.y)
    return plus(p, draw.sway(-0.8, 0.1), draw.sway(-0.5, 0.5))


def folds(draw: Draw, p: Point) -> Point:
    """Mirrored, turned and enlarged a few times over: the beginning of a fractal."""
    by, growth = draw.phase(0.3), draw.number(1.15, 1.5)
    x, y = draw.sway(-0.7, -0.2), draw.sway(-0.7, -0.2)
    for _ in range(draw.integer(2, 4)):
        p = times(turn(plus(Point(abs(p.x), abs(p.y)), x, y), by), growth)
    return p


def tiles(draw: Draw, p: Point) -> Point:
    """Mirrored squares side by side, each with coordinates in [-1, 1]."""
    p = turn(p, draw.phase(0.15))
    across, up = draw.scale(0.8, 3), draw.scale(0.8, 3)
    paces = (across, across if draw.chance(0.7) else up)
    return Point(*(2 * mirror(each * pace + draw.phase(0.3)) - 1 for each, pace in zip(p, paces, strict=True)))


def inversion(draw: Draw, p: Point) -> Point:
    """Inside out."""
    p = shift(draw, p, 0.5)
    return times(p, draw.number(0.4, 1) / (p.squared() + draw.scale(0.1, 0.4)))


def square(draw: Draw, p: Point) -> Point:
    """The square of a complex number, or of its inverse: every pattern appears twice round the origin."""
    p = shift(draw, p, 0.4)
    return Point(p.x * p.x - p.y * p.y, 2 * p.x * p.y)


def plane(draw: Draw, p: Point) -> Point:
    """A floor and a ceiling that run to a horizon."""
    p = plus(turn(p, draw.phase(0.2)), 0.0, draw.sway(-0.5, 0.5))
    depth = 1 / (abs(p.y) + draw.number(0.15, 0.4))
    return Point(p.x * depth, depth + draw.phase(0.9))


def mosaic(draw: Draw, p: Point) -> Point:
    """Coarse squares, with narrow seams instead of jumps."""
    size = draw.scale(3, 12)
    p = plus(turn(p, draw.phase(0.05)), draw.number(-1, 1), draw.number(-1, 1))
    return Point(stair(p.x * size) / size, stair(p.y * size) / size)


def facets(draw: Draw, p: Point) -> Point:
    """Squeezed towards a few lines, like glass bricks."""
    pace, reach = draw.scale(3, 12), draw.number(0.5, 1.5)
    p = turn(p, draw.phase(0.1))
    return plus(p, *(reach / pace * sin(each * pace + draw.phase()) for each in p))


def vortex(draw: Draw, p: Point) -> Point:
    """Turned by an angle that falls off like a bell, so that the rest stays straight."""
    p = shift(draw, p, 0.6)
    return turn(p, draw.number(-5, 5) * exp(-draw.scale(1.5, 6) * p.squared()))


WARPS: dict[Warp, float] = {
    (lambda draw, p: turn(p, draw.phase(0.3))): 1.0, shift: 1.0, (lambda draw, p: times(p, draw.scale(0.4, 2.5))): 1.0,
    stretch: 0.8, waves: 1.4, turbulence: 1.6, swirl: 0.9, lens: 0.7, ripple: 0.6, polar: 0.7, tunnel: 0.7,
    kaleidoscope: 0.9, fold: 0.8, folds: 0.8, tiles: 0.8, inversion: 0.5, square: 0.5, plane: 0.5, mosaic: 0.4,
    facets: 0.6, vortex: 0.6,
}  # fmt: skip


def warp(draw: Draw, p: Point, number: int) -> Point:
    """As many warps as given, one after the other."""
    for _ in range(number):
        p = draw.among(WARPS)(draw, p)
    return p
