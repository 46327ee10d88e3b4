"""What a node can compute, in both languages side by side: a function of tensors and a GLSL expression."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kdlightning.shaders import noise

Value = Tensor | tuple[Tensor, Tensor, Tensor]

# The steps of a staircase take this share of its width.
STEP = 0.1


class Operation(NamedTuple):
    """One operation of the graph."""

    evaluate: Callable[..., Value]  #: tensors (float32, any shapes that broadcast) to a tensor, or a tuple of three
    glsl: str  #: the same as a GLSL expression with ``{0}``, ``{1}``, ... for the arguments
    kind: str = "float"  #: the expression's GLSL type


def _smooth(a: Tensor) -> Tensor:
    t = a.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _mirror(a: Tensor) -> Tensor:
    return (a - 2 * (a * 0.5 + 0.5).floor()).abs()


def _stair(a: Tensor) -> Tensor:
    below = a.floor()
    return below + _smooth((a - below - 0.5) / STEP + 0.5)


OPERATIONS: dict[str, Operation] = {
    "add": Operation(torch.add, "{0} + {1}"),
    "subtract": Operation(torch.sub, "{0} - {1}"),
    "multiply": Operation(torch.mul, "{0} * {1}"),
    "divide": Operation(torch.div, "{0} / {1}"),
    "min": Operation(torch.minimum, "min({0}, {1})"),
    "max": Operation(torch.maximum, "max({0}, {1})"),
    "mix": Operation(lambda a, b, t: a + (b - a) * t, "{0} + ({1} - {0}) * {2}"),
    "sin": Operation(torch.sin, "sin({0})"),
    "cos": Operation(torch.cos, "cos({0})"),
    "exp": Operation(torch.exp, "exp({0})"),
    "log": Operation(torch.log, "log({0})"),
    "abs": Operation(torch.abs, "abs({0})"),
    "sqrt": Operation(lambda a: a.clamp(min=0).sqrt(), "sqrt(max({0}, 0.0))"),
    "atan": Operation(torch.atan2, "atan({0}, {1})"),
    "saturate": Operation(lambda a: a.clamp(0, 1), "clamp({0}, 0.0, 1.0)"),
    "smooth": Operation(_smooth, "smoothstep(0.0, 1.0, {0})"),
    "mirror": Operation(_mirror, "abs({0} - 2.0 * floor({0} * 0.5 + 0.5))"),
    "stair": Operation(_stair, "floor({0}) + smoothstep(0.0, 1.0, (fract({0}) - 0.5) / " + f"{STEP} + 0.5)"),
    "value_noise": Operation(noise.value_noise, "value_noise({0}, {1}, {2})"),
    "gradient_noise": Operation(noise.gradient_noise, "gradient_noise({0}, {1}, {2})"),
    "fractal_noise": Operation(noise.fractal_noise, "fractal_noise({0}, {1}, {2})"),
    "ridged_noise": Operation(partial(noise.fractal_noise, ridged=True), "ridged_noise({0}, {1}, {2})"),
    "cells": Operation(noise.cells, "cells({0}, {1}, {2}, {3})", "vec3"),
    "first": Operation(lambda each: each[0], "{0}.x"),
    "second": Operation(lambda each: each[1], "{0}.y"),
    "third": Operation(lambda each: each[2], "{0}.z"),
}
