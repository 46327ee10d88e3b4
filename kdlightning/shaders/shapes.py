"""Signed distances to plane shapes: negative inside, 0 on the outline, positive outside.

Exact for the circle, the box, the ring and the capsule; bounds that are exact near straight edges for the others.
"""

import math
from collections.abc import Callable

from kdlightning.shaders.coordinates import plus, shift, times, turn
from kdlightning.shaders.draw import Draw
from kdlightning.shaders.graph import Node, Point, angle, constant, cos, maximum, minimum, mirror, mix, saturate, sin

Shape = Callable[[Draw, Point], Node]


def circle(p: Point, radius: Node | float) -> Node:
    """Distance to a disc around the origin."""
    return abs(p) - radius


def box(p: Point, width: Node | float, height: Node | float) -> Node:
    """Distance to a rectangle around the origin; half its width and height are given."""
    x, y = abs(p.x) - width, abs(p.y) - height
    return abs(Point(maximum(x, 0.0), maximum(y, 0.0))) + minimum(maximum(x, y), 0.0)


def polygon(p: Point, corners: int, radius: Node | float) -> Node:
    """Distance to the sides of a regular polygon whose inscribed circle has this radius."""
    folded = mirror(angle(p) * (corners / math.pi)) * (math.pi / corners)
    return abs(p) * cos(folded) - radius


def star(p: Point, points: int, radius: Node | float, depth: Node | float) -> Node:
    """A star with straight sides; ``depth`` in [0, 1] is how far the inner corners come in."""
    return (abs(p) - radius * (1 - depth * mirror(angle(p) * (points / math.pi)))) * 0.7


def flower(p: Point, petals: int, radius: Node | float, depth: Node | float) -> Node:
    """A circle whose radius swings with the angle."""
    return (abs(p) - radius * (1 + depth * cos(angle(p) * petals))) * 0.7


def capsule(p: Point, half: Node | float, radius: Node | float) -> Node:
    """Distance to a thick line along x, from -half to half."""
    return abs(Point(maximum(abs(p.x) - half, 0.0), p.y)) - radius


def moon(p: Point, radius: Node | float, offset: Node | float) -> Node:
    """A disc without another disc."""
    return maximum(circle(p, radius), -circle(plus(p, offset, 0.0), radius))


def smooth_union(a: Node, b: Node, softness: Node | float) -> Node:
    """Both shapes, with the corner between them filled over this distance."""
    share = saturate((b - a) * 0.5 / softness + 0.5)
    return mix(b, a, share) - softness * share * (1 - share)


def _cross(draw: Draw, p: Point) -> Node:
    half, width = draw.number(0.4, 0.8), draw.number(0.08, 0.25)
    return minimum(box(p, half, width), box(p, width, half))


SHAPES: dict[Shape, float] = {
    lambda draw, p: circle(p, draw.number(0.2, 0.8)): 1.2,
    lambda draw, p: box(p, draw.number(0.15, 0.7), draw.number(0.15, 0.7)) - draw.number(0, 0.15): 1.2,
    lambda draw, p: polygon(p, draw.integer(3, 7), draw.number(0.2, 0.7)): 1.0,
    lambda draw, p: star(p, draw.integer(3, 9), draw.number(0.4, 0.9), draw.number(0.3, 0.7)): 1.0,
    lambda draw, p: flower(p, draw.integer(2, 9), draw.number(0.3, 0.7), draw.number(0.15, 0.5)): 0.9,
    lambda draw, p: capsule(p, draw.number(0.2, 0.8), draw.number(0.05, 0.3)): 0.8,
    _cross: 0.7,
    lambda draw, p: moon(p, draw.number(0.4, 0.8), draw.number(0.15, 0.5)): 0.6,
    lambda draw, p: (p.y + draw.number(0.1, 0.4) * sin(p.x * draw.scale(2, 7) + draw.phase())) * 0.8: 0.6,  # waves
}


def _one(draw: Draw, p: Point) -> Node:
    """A shape, somewhere, at some angle, perhaps hollow."""
    q = turn(shift(draw, p, 0.6), draw.phase(0.4))
    size = draw.scale(0.6, 1.6)
    distance = draw.among(SHAPES)(draw, times(q, size)) / size
    return abs(distance) - draw.number(0.02, 0.12) if draw.chance(0.2) else distance


def scene(draw: Draw, p: Point) -> Node:
    """Signed distance to one to five shapes, together, cut out of each other or melting into each other."""
    distance, how = _one(draw, p), draw.choice(("together", "apart", "melting", "alternating"))
    for number in range(draw.choice((0, 1, 2, 4), (3, 3, 2, 1))):
        other = _one(draw, p)
        if how == "melting":
            distance = smooth_union(distance, other, draw.number(0.1, 0.4))
        elif how == "together":
            distance = minimum(distance, other)
        elif how == "apart" and number % 2 == 0:
            distance = maximum(distance, -other)
        else:  # inside one of them, not both
            distance = maximum(minimum(distance, other), -maximum(distance, other))
    return distance


def balls(draw: Draw, p: Point) -> Node:
    """Signed distance, roughly, to a few blobs that flow together where they meet."""
    density: Node = constant(0)
    for _ in range(draw.integer(2, 5)):
        q = shift(draw, p, 0.9)
        density = density + draw.number(0.05, 0.18) / (q.squared() + 0.05)
    return (1 - density) * 0.4
