"""How a seed becomes a picture: layers of coloured patterns in warped coordinates, one over the other."""

from kdlightning.shaders.colours import PALETTES, compose, finish
from kdlightning.shaders.coordinates import times, turn, warp
from kdlightning.shaders.draw import Draw
from kdlightning.shaders.fields import edge, field
from kdlightning.shaders.graph import Colour, Node, Point, X, Y, constant, saturate
from kdlightning.shaders.shapes import scene

NUMBER_OF_WARPS = ((0, 1, 2, 3), (3, 5, 4, 1))
NUMBER_OF_LAYERS = ((1, 2, 3, 4), (3, 4, 2.5, 1))


def sentence(seed: int) -> tuple[Colour, Draw]:
    """The colour of a pixel in the program of this seed, and the parameters that it has."""
    draw = Draw(seed)
    page = times(turn(Point(X, Y), draw.phase(0.1)) if draw.chance(0.7) else Point(X, Y), draw.scale(0.4, 1.3))
    ground = warp(draw, page, draw.choice(*NUMBER_OF_WARPS))
    colour = _layer(draw, ground)
    for _ in range(draw.choice(*NUMBER_OF_LAYERS) - 1):
        place = ground if draw.chance(0.35) else warp(draw, page, draw.choice(*NUMBER_OF_WARPS))
        colour = compose(draw, colour, _layer(draw, place), _mask(draw, page, place))
    return finish(draw, colour, page), draw


def _layer(draw: Draw, p: Point) -> Colour:
    """A pattern in colour; now and then a pattern for each channel, or one of two palettes by another pattern."""
    if draw.chance(0.07):
        return Colour(*(saturate(0.5 + 0.5 * field(draw, p)) for _ in range(3)))
    value = field(draw, p)
    colour = draw.among(PALETTES)(draw, value)
    if draw.chance(0.2):
        light = 0.75 + 0.35 * field(draw, p)
        colour = Colour(*(channel * light for channel in colour))
    return colour


def _mask(draw: Draw, page: Point, place: Point) -> Node:
    """Where a layer is seen, in [0, 1]: everywhere a little, inside shapes, or where a pattern is high."""
    how = draw.choice(("pattern", "shape", "cut", "veil"), (2, 2.5, 1.5, 1))
    if how == "veil":
        return constant(1) * draw.number(0.35, 0.75)
    if how == "pattern":
        return saturate(0.5 + draw.number(0.5, 1) * field(draw, place))
    if how == "cut":
        return 0.5 + 0.5 * edge(field(draw, place) + draw.number(-0.4, 0.4), draw.number(0.08, 0.4))
    return 0.5 - 0.5 * edge(scene(draw, page), draw.scale(0.02, 0.15))
