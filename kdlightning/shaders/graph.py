"""The expression graph of a shader program: what a pixel is made of, before any back end sees it.

A graph is arithmetic on scalars: the leaves are the pixel's place, the time, numbers and the program's parameters,
and every inner node is one operation of `operations.OPERATIONS`. Points and colours are tuples of scalars.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple


def _operators(operation: str) -> tuple[Callable[..., "Node"], Callable[..., "Node"]]:
    """The two methods of an operator, with the node on its left and on its right."""
    return lambda self, other: node(operation, self, other), lambda self, other: node(operation, other, self)


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

    __add__, __radd__ = _operators("add")
    __sub__, __rsub__ = _operators("subtract")
    __mul__, __rmul__ = _operators("multiply")
    __truediv__, __rtruediv__ = _operators("divide")

    def __neg__(self) -> "Node":
        return node("subtract", 0.0, self)

    def __abs__(self) -> "Node":
        return node("abs", self)


class Point(NamedTuple):
    """A place in the plane; ``abs`` is its distance from the origin, as for a complex number."""

    x: Node
    y: Node

    def __abs__(self) -> Node:
        return sqrt(self.squared())

    def squared(self) -> Node:
        """The square of the distance from the origin."""
        return self.x * self.x + self.y * self.y


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


def node(operation: str, *arguments: "Point | Node | float") -> Node:
    """An operation on nodes and numbers; a point stands for its two coordinates."""
    scalars = [scalar for each in arguments for scalar in (each if isinstance(each, Point) else (each,))]
    return Node(operation, tuple(each if isinstance(each, Node) else constant(each) for each in scalars))


def constant(value: float) -> Node:
    """A number."""
    return Node("constant", value=float(value))


sin, cos, exp = partial(node, "sin"), partial(node, "cos"), partial(node, "exp")
log = partial(node, "log")  # of a positive number
sqrt = partial(node, "sqrt")  # of what is below 0, 0
minimum, maximum = partial(node, "min"), partial(node, "max")  # of two
saturate = partial(node, "saturate")  # clamped to [0, 1]
smooth = partial(node, "smooth")  # from 0 to 1 in an S between a = 0 and a = 1, constant outside
mirror = partial(node, "mirror")  # a continuous zigzag in [0, 1]: 0 at even numbers, 1 at odd ones
stair = partial(node, "stair")  # through the integers: flat, with steep but continuous steps
mix = partial(node, "mix")  # (a, b, t): from a at t = 0 to b at t = 1


def angle(p: Point) -> Node:
    """Polar angle in (-π, π]; use it where the jump at π does not show: an integer multiple in a sine, or mirrored.

    It is that about a centre a ten-thousandth off: a back end may give any angle at the origin itself, where mosaics
    and folds put whole areas.
    """
    return node("atan", p.y + 1e-4, p.x + 1e-4)


def cells(p: Point, salt: Node | float, jitter: Node | float) -> Cells:
    """Worley's pattern: one centre per unit square, ``jitter`` in [0, 1] is how far from the square's middle."""
    every = node("cells", p, salt, jitter)
    return Cells(*(node(part, every) for part in ("first", "second", "third")))


def schedule(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots need, once, after the nodes that it needs itself."""
    done: dict[Node, None] = {}
    stack = [*roots][::-1]
    while stack:
        following = next((each for each in stack[-1].arguments if each not in done), None)
        if following is None:
            done.setdefault(stack.pop())
        else:
            stack.append(following)
    return list(done)
