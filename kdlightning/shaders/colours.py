"""Palettes from scalars to colours, ways to lay one picture over another, and finishing touches."""

import math
from collections.abc import Callable

from kdlightning.shaders.coordinates import plus, times
from kdlightning.shaders.draw import Draw
from kdlightning.shaders.graph import Colour, Node, Point, cos, mirror, mix, node, saturate, sin, smooth

Palette = Callable[[Draw, Node], Colour]


def hue(turns: Node) -> Colour:
    """The full colours in a circle: red at 0, green at 1/3, blue at 2/3, continuous and periodic in 1."""
    thirds = (0.0, 1 / 3, 2 / 3)
    return Colour(*(saturate(2 - 6 * (0.5 * mirror(2 * (turns - third)))) for third in thirds))


def cosine_palette(t: Node, phases: tuple[Node | float, Node | float, Node | float]) -> Colour:
    """0.5 + 0.5 cos(2π (t + phase)) for each channel."""
    return Colour(*(0.5 + 0.5 * cos(2 * math.pi * (t + phase)) for phase in phases))


def paint(draw: Draw) -> Colour:
    """A single colour: any hue, from grey to full, from nearly black to nearly white."""
    full, saturation = hue(draw.number(0, 1)), draw.number(0, 1)
    saturation = 1 - saturation * saturation
    light = draw.number(0, 1)
    low, high = saturate(2 * light - 1), saturate(2 * light)
    return Colour(*(mix(low, high, mix(0.5, channel, saturation)) for channel in full))


def blend(a: Colour, b: Colour, t: Node | float) -> Colour:
    """From a at t = 0 to b at t = 1."""
    return Colour(*(mix(one, other, t) for one, other in zip(a, b, strict=True)))


def rainbow(draw: Draw, value: Node) -> Colour:
    """The circle of hues, whole or in part, with light or saturation following too."""
    turns = value * draw.scale(0.15, 0.7) + draw.phase(0.4) * 0.159
    light = draw.number(0.6, 1) if draw.chance(0.5) else 0.55 + 0.45 * value
    saturation = draw.number(0.4, 1.0)
    return Colour(*((1 - saturation * (1 - channel)) * light for channel in hue(turns)))


def cosines(draw: Draw, value: Node) -> Colour:
    """A cosine for each channel."""
    turns = value * draw.scale(0.2, 0.9) + draw.phase(0.3) * 0.159
    return cosine_palette(turns, (draw.number(0, 0.3), draw.number(0.1, 0.6), draw.number(0.2, 0.9)))


def ramp(draw: Draw, value: Node) -> Colour:
    """Two to five colours, one passing into the next, sharply or gently."""
    number = draw.integer(2, 5)
    sharpness = draw.number(0.8, 1.2) if draw.chance(0.6) else draw.scale(3, 10)
    position, colour = (0.5 + 0.5 * value) * (number - 1), paint(draw)
    for stop in range(1, number):
        colour = blend(colour, paint(draw), smooth((position - (stop - 0.5)) * sharpness + 0.5))
    return colour


def duotone(draw: Draw, value: Node) -> Colour:
    """A dark and a light colour."""
    dark = Colour(*(channel * 0.4 for channel in paint(draw)))
    light = Colour(*(0.5 + 0.5 * channel for channel in paint(draw)))
    return blend(dark, light, saturate(0.5 + 0.5 * value))


def ember(draw: Draw, value: Node) -> Colour:
    """Black through one hue to white: fire, ice, night vision."""
    full, heat = hue(draw.number(0, 1)), saturate(0.5 + 0.5 * value)
    return Colour(*(saturate(heat * (0.4 + 1.6 * channel) * heat + 0.25 * channel * heat) for channel in full))


# of scalars mostly in [-1, 1]
PALETTES: dict[Palette, float] = {
    rainbow: 1.2,
    cosines: 1.8,
    ramp: 2.4,
    duotone: 1.0,
    lambda draw, value: Colour(*[saturate(0.5 + draw.choice((0.5, -0.5)) * value)] * 3): 0.9,  # grey
    ember: 0.8,
    lambda draw, value: Colour(*(0.5 + 0.5 * sin(value * draw.number(1, 5) + draw.phase(0.5)) for _ in range(3))): 1.0,
}

BLENDS: dict[Callable[[Node, Node], Node], float] = {
    lambda _, above: above: 5,
    lambda a, b: a + b - a * b: 1,  # screen
    lambda a, b: a * (0.3 + b): 1,  # multiply
    lambda a, b: abs(a - b): 0.8,
    lambda a, b: a + 0.6 * (b - 0.3): 0.8,
    lambda a, b: a + (2 * b - 1) * a * (1 - a) * 1.5: 0.8,  # light
    lambda a, b: node("max", a, b): 0.6,
    lambda a, b: node("min", a, b): 0.6,
}


def compose(draw: Draw, below: Colour, above: Colour, mask: Node) -> Colour:
    """One picture over another, where the mask in [0, 1] says so."""
    channel = draw.among(BLENDS)
    mixed = Colour(*(channel(saturate(a), saturate(b)) for a, b in zip(below, above, strict=True)))
    return blend(below, mixed, mask)


def finish(draw: Draw, colour: Colour, p: Point) -> Colour:
    """Grain, contrast, vignette, negative, fewer tones: each now and then; clamped to [0, 1] at the end."""
    if draw.chance(0.2):
        grain = draw.number(0.1, 0.4) * (draw.noise("value", times(p, draw.scale(10, 24))) - 0.5)
        colour = Colour(*(channel + grain for channel in colour))
    if draw.chance(0.2):
        q = plus(p, draw.number(-0.3, 0.3), draw.number(-0.3, 0.3))
        shade = 1 / (1 + draw.scale(0.2, 1.2) * q.squared())
        colour = Colour(*(channel * shade for channel in colour))
    if draw.chance(0.1):
        colour = Colour(*(1 - channel for channel in colour))
    colour = Colour(*(saturate(channel) for channel in colour))
    if draw.chance(0.4):
        strength = draw.number(0.3, 1)
        colour = Colour(*(mix(channel, smooth(channel), strength) for channel in colour))
    if draw.chance(0.15):
        tint = paint(draw)
        light = (colour.red + colour.green + colour.blue) * (1 / 3)
        strength = draw.number(0.3, 0.8)
        colour = Colour(*(mix(c, light * (0.4 + 0.8 * t), strength) for c, t in zip(colour, tint, strict=True)))
    return Colour(*(saturate(channel) for channel in colour))
