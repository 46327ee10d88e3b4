"""What a program's seed decides: the structure of its graph, and the range of every number in it."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from kdlightning.shaders.graph import TIME, Node, Point, node

T = TypeVar("T")
Kind = Literal["uniform", "log", "integer"]


class Range(NamedTuple):
    """Where a parameter of a program comes from: between two values."""

    low: float
    high: float
    kind: Kind = "uniform"  #: evenly spread; evenly on a logarithmic axis; whole numbers, ``high`` excluded

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the range."""
        if self.kind == "log":
            return float(self.low * (self.high / self.low) ** share)
        value = self.low + (self.high - self.low) * share
        return float(math.floor(value)) if self.kind == "integer" else value


class Draw:
    """The source of everything random in a program's structure; collects the program's parameters.

    Only ``random.Random.random`` is used, whose sequence Python promises to keep for a seed.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"program {seed}").random
        self.ranges: list[Range] = []  #: of the parameters drawn so far

    def chance(self, probability: float) -> bool:
        """Whether something happens."""
        return self._random() < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high], fixed for the program."""
        return low + int(self._random() * (high - low + 1))

    def choice(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options, with probabilities proportional to the weights, or equal."""
        if weights is None:
            return options[int(self._random() * len(options))]
        rest = self._random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            rest -= weight
            if rest < 0:
                return option
        return options[-1]

    def among(self, weights: Mapping[T, float]) -> T:
        """One of the keys, with probabilities proportional to their values."""
        return self.choice(tuple(weights), tuple(weights.values()))

    def number(self, low: float, high: float, kind: Kind = "uniform") -> Node:
        """A parameter, spread over [low, high] evenly or as `Range` says of the kind."""
        self.ranges.append(Range(low, high, kind))
        return Node("parameter", value=len(self.ranges) - 1)

    def scale(self, low: float, high: float) -> Node:
        """A positive parameter, evenly spread over [low, high] on a logarithmic axis."""
        return self.number(low, high, "log")

    def salt(self) -> Node:
        """A parameter that tells one noise from another."""
        return self.number(0, 65536, "integer")

    def noise(self, kind: str, p: Point) -> Node:
        """Noise with a salt of its own: "value", "gradient", "fractal" or "ridged", see `kdlightning.shaders.noise`."""
        return node(f"{kind}_noise", p, self.salt())

    def phase(self, motion: float = 0.6) -> Node:
        """A parameter in [-π, π]; with probability ``motion`` it turns with time, by up to 0.8 radians a second."""
        start = self.number(-math.pi, math.pi)
        return start + self.number(-0.8, 0.8) * TIME if self.chance(motion) else start

    def sway(self, low: float, high: float) -> Node:
        """A number in [low, high] that swings slowly between two places."""
        middle, reach = 0.5 * (low + high), 0.25 * (high - low)
        place = self.number(middle - reach, middle + reach)
        return place + reach * node("sin", self.phase(1.0)) if self.chance(0.5) else self.number(low, high)
