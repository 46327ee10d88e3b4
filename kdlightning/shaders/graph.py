"""The expression graph of a shader program: what a pixel is made of, before any back end sees it.

A graph is arithmetic on scalars: the leaves are the pixel's place, the time, numbers and the program's parameters,
and every inner node is one operation of `operations.OPERATIONS`. Points and colours are tuples of scalars.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One scalar of a program, or for a cellular pattern three; two nodes are the same only if they are one object.

    Attributes:
        operation: a name in `operations.OPERATIONS`, or one of the leaves: "x" and "y" (the pixel's place: each
            from -1 to 1 across the square image, y upwards), "time" (seconds), "constant", "parameter".
        arguments: what it is computed from.
        value: the number of a constant; the position of a parameter among the program's.
    """

    operation: str
    arguments: tuple["Node", ...] = ()
    value: float = 0.0

    def __add__(self, other: "Node | float") -> "Node":
        return node("add", self, other)

    def __radd__(self, other: float) -> "Node":
        return node("add", other, self)

    def __sub__(self, other: "Node | float") -> "Node":
        return node("subtract", self, other)

    def __rsub__(self, other: float) -> "Node":
        return node("subtract", other, self)

    def __mul__(self, other: "Node | float") -> "Node":
        return node("multiply", self, other)

    def __rmul__(self, other: float) -> "Node":
        return node("multiply", other, self)

    def __truediv__(self, other: "Node | float") -> "Node":
        return node("divide", self, other)

    def __rtruediv__(self, other: float) -> "Node":
        return node("divide", other, self)

    def __neg__(self) -> "Node":
        return node("subtract", 0.0, self)


class Point(NamedTuple):
    """A place in the plane."""

    x: Node
    y: Node


class Colour(NamedTuple):
    """Red, green and blue; [0, 1] is what can be shown, and the end of a program clamps."""

    red: Node
    green: Node
    blue: Node


class Cells(NamedTuple):
    """A cellular pattern at a point: distances to the two nearest centres, a number of the cell in [0, 1)."""

    nearest: Node
    second: Node
    cell: Node


X, Y, TIME = Node("x"), Node("y"), Node("time")


def node(operation: str, *arguments: Node | float) -> Node:
    """An operation on nodes and numbers."""
    return Node(operation, tuple(each if isinstance(each, Node) else constant(each) for each in arguments))


def constant(value: float) -> Node:
    """A number."""
    return Node("constant", value=float(value))


def sin(a: Node) -> Node:
    """Sine of radians."""
    return node("sin", a)


def cos(a: Node) -> Node:
    """Cosine of radians."""
    return node("cos", a)


def sqrt(a: Node) -> Node:
    """Square root; of what is below 0, 0."""
    return node("sqrt", a)


def exp(a: Node) -> Node:
    """Exponential."""
    return node("exp", a)


def log(a: Node) -> Node:
    """Natural logarithm of a positive number."""
    return node("log", a)


def absolute(a: Node) -> Node:
    """Absolute value."""
    return node("abs", a)


def minimum(a: Node | float, b: Node | float) -> Node:
    """The smaller of two."""
    return node("min", a, b)


def maximum(a: Node | float, b: Node | float) -> Node:
    """The larger of two."""
    return node("max", a, b)


def saturate(a: Node) -> Node:
    """Clamped to [0, 1]."""
    return node("saturate", a)


def smooth(a: Node) -> Node:
    """From 0 to 1 in an S between a = 0 and a = 1, constant outside."""
    return node("smooth", a)


def mirror(a: Node) -> Node:
    """A continuous zigzag in [0, 1]: 0 at even numbers, 1 at odd ones."""
    return node("mirror", a)


def stair(a: Node) -> Node:
    """A staircase through the integers: flat, with steep but continuous steps."""
    return node("stair", a)


def angle(p: Point) -> Node:
    """Polar angle in (-π, π]; use it where the jump at π does not show: an integer multiple in a sine, or mirrored.

    It is that about a centre a ten-thousandth off: a back end may give any angle at the origin itself, where mosaics
    and folds put whole areas.
    """
    return node("atan", p.y + 1e-4, p.x + 1e-4)


def mix(a: Node | float, b: Node | float, t: Node | float) -> Node:
    """From a at t = 0 to b at t = 1."""
    return node("mix", a, b, t)


def length(p: Point) -> Node:
    """Distance from the origin."""
    return sqrt(p.x * p.x + p.y * p.y)


def value_noise(p: Point, salt: Node | float) -> Node:
    """Random numbers in [0, 1) at integer places, smooth between them; every salt in [0, 65536) is another noise."""
    return node("value_noise", p.x, p.y, salt)


def gradient_noise(p: Point, salt: Node | float) -> Node:
    """Perlin's noise: 0 at integer places, random slopes there; mostly in [-0.7, 0.7]."""
    return node("gradient_noise", p.x, p.y, salt)


def fractal_noise(p: Point, salt: Node | float) -> Node:
    """Four octaves of value noise (fbm), in [0, 1)."""
    return node("fractal_noise", p.x, p.y, salt)


def ridged_noise(p: Point, salt: Node | float) -> Node:
    """Four octaves of folded value noise, sharp along lines, in [0, 1]."""
    return node("ridged_noise", p.x, p.y, salt)


def cells(p: Point, salt: Node | float, jitter: Node | float = 0.8) -> Cells:
    """Worley's pattern: one centre per unit square, ``jitter`` in [0, 1] is how far from the square's middle."""
    every = node("cells", p.x, p.y, salt, jitter)
    return Cells(*(node(part, every) for part in ("first", "second", "third")))


def schedule(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots need, once, after the nodes that it needs itself."""
    done: dict[Node, None] = {}
    for root in roots:
        stack: list[tuple[Node, Iterator[Node]]] = [(root, iter(root.arguments))]
        while stack:
            current, rest = stack[-1]
            following = next((each for each in rest if each not in done), None)
            if following is None:
                done.setdefault(current)
                stack.pop()
            else:
                stack.append((following, iter(following.arguments)))
    return list(done)
