"""Noise on the integer lattice, twice: for tensors and in GLSL. Both hash in 32-bit integers, so both are the same.

A hash of sines, as shaders often have it, magnifies the last bit of a float into another number: no two devices would
agree. Here a float only decides in which square a point lies, and all patterns are continuous across squares.
"""

import torch
from torch import Tensor

OCTAVES = 4
_A, _B, _C, _D, _E = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x2C1B3C6D, 0x297A2D39
# between octaves: a rotation by about 37°, so that lattices do not coincide, times 2, and an offset
_TURN_X, _TURN_Y, _SHIFT = 1.6, 1.2, 17.3

GLSL = f"""
uniform int zero;  // 0 as no one sets it: a loop that starts at an unknown number stays one, and compiles fast
uint lattice_hash(ivec2 place, float salt) {{
    uint h = uint(place.x) * {_A:#x}u ^ uint(place.y) * {_B:#x}u ^ uint(int(salt)) * {_C:#x}u;
    h = (h ^ (h >> 15)) * {_D:#x}u;
    h = (h ^ (h >> 12)) * {_E:#x}u;
    return h ^ (h >> 15);
}}
float fraction(uint h) {{ return float(h >> 8) * {2**-24!r}; }}
vec2 halves(uint h) {{ return vec2(float(h & 0xffffu), float(h >> 16)) * {2**-16!r}; }}
float value_noise(float x, float y, float salt) {{
    vec2 base = floor(vec2(x, y)), t = vec2(x, y) - base;
    ivec2 i = ivec2(base);
    vec2 s = t * t * (3.0 - 2.0 * t);
    float a = fraction(lattice_hash(i, salt)), b = fraction(lattice_hash(i + ivec2(1, 0), salt));
    float c = fraction(lattice_hash(i + ivec2(0, 1), salt)), d = fraction(lattice_hash(i + ivec2(1, 1), salt));
    float low = a + (b - a) * s.x, high = c + (d - c) * s.x;
    return low + (high - low) * s.y;
}}
float slope(ivec2 i, float salt, vec2 t) {{ return dot(2.0 * halves(lattice_hash(i, salt)) - 1.0, t); }}
float gradient_noise(float x, float y, float salt) {{
    vec2 base = floor(vec2(x, y)), t = vec2(x, y) - base;
    ivec2 i = ivec2(base);
    vec2 s = t * t * t * (t * (t * 6.0 - 15.0) + 10.0);
    float a = slope(i, salt, t), b = slope(i + ivec2(1, 0), salt, t - vec2(1, 0));
    float c = slope(i + ivec2(0, 1), salt, t - vec2(0, 1)), d = slope(i + ivec2(1, 1), salt, t - vec2(1, 1));
    float low = a + (b - a) * s.x, high = c + (d - c) * s.x;
    return low + (high - low) * s.y;
}}
float octaves(float x, float y, float salt, bool ridged) {{
    float total = 0.0, weight = {1 / (2 - 2 ** (1 - OCTAVES))!r};
    for (int octave = zero; octave < {OCTAVES}; ++octave) {{
        float n = value_noise(x, y, salt);
        total += weight * (ridged ? 1.0 - abs(2.0 * n - 1.0) : n);
        float turned = {_TURN_X} * x - {_TURN_Y} * y + {_SHIFT};
        y = {_TURN_Y} * x + {_TURN_X} * y + {_SHIFT};
        x = turned;
        weight *= 0.5;
    }}
    return total;
}}
float fractal_noise(float x, float y, float salt) {{ return octaves(x, y, salt, false); }}
float ridged_noise(float x, float y, float salt) {{ return octaves(x, y, salt, true); }}
vec3 cells(float x, float y, float salt, float jitter) {{
    vec2 base = floor(vec2(x, y)), t = vec2(x, y) - base;
    vec3 found = vec3(100.0, 100.0, 0.0);
    for (int neighbour = zero; neighbour < 9; ++neighbour) {{
        ivec2 beside = ivec2(neighbour % 3 - 1, neighbour / 3 - 1);
        uint h = lattice_hash(ivec2(base) + beside, salt);
        vec2 offset = vec2(beside) + 0.5 + jitter * (halves(h) - 0.5) - t;
        float squared = dot(offset, offset);
        found.y = min(found.y, max(found.x, squared));
        if (squared < found.x) {{
            found.x = squared;
            found.z = fraction(h * {_A:#x}u);
        }}
    }}
    return vec3(sqrt(found.xy), found.z);
}}
"""


def lattice_hash(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """32 random bits per lattice point: int32 of the arguments' broadcast shape, all arguments int32.

    int32 products keep the low 32 bits, which are the unsigned ones; shifts are masked to bring in zeros.
    """
    h = (x * _signed(_A)) ^ (y * _signed(_B)) ^ (salt * _signed(_C))
    h ^= (h >> 15) & 0x1FFFF
    h *= _signed(_D)
    h ^= (h >> 12) & 0xFFFFF
    h *= _signed(_E)
    h ^= (h >> 15) & 0x1FFFF
    return h


def value_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Random numbers in [0, 1) at lattice points, smoothly interpolated; floats, ``salt`` integers in [0, 65536)."""
    column, row, s, t = _square(x, y)
    corners = _fraction(lattice_hash(column, row, salt.to(torch.int32)))
    return _interpolate(corners, s * s * (3 - 2 * s), t * t * (3 - 2 * t))


def gradient_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Perlin's noise with slopes drawn from the square [-1, 1]²; arguments as for `value_noise`."""
    column, row, s, t = _square(x, y)
    across, up = _halves(lattice_hash(column, row, salt.to(torch.int32)))
    steps = torch.arange(2, device=x.device)
    beside, above = s - steps.view(1, 2, *[1] * s.ndim), t - steps.view(2, 1, *[1] * t.ndim)
    corners = (2 * across - 1) * beside + (2 * up - 1) * above
    return _interpolate(corners, s**3 * (s * (s * 6 - 15) + 10), t**3 * (t * (t * 6 - 15) + 10))


def fractal_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Octaves of `value_noise`, each of half the weight and twice the frequency, in [0, 1)."""
    return _octaves(x, y, salt, ridged=False)


def ridged_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Octaves of ``1 - |2 value_noise - 1|``, in [0, 1]."""
    return _octaves(x, y, salt, ridged=True)


def cells(x: Tensor, y: Tensor, salt: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Worley's cells: distance to the nearest and the second nearest centre, number of the nearest cell in [0, 1)."""
    left, below = x.floor(), y.floor()
    near = torch.arange(-1, 2, device=x.device, dtype=torch.int32)
    columns, rows = near.repeat(3), near.repeat_interleave(3)
    shape = (9, *[1] * torch.broadcast_tensors(x, y)[0].ndim)
    columns, rows = columns.view(shape), rows.view(shape)
    h = lattice_hash(left.to(torch.int32) + columns, below.to(torch.int32) + rows, salt.to(torch.int32))
    across, up = _halves(h)
    across = columns + 0.5 + jitter * (across - 0.5) - (x - left)
    up = rows + 0.5 + jitter * (up - 0.5) - (y - below)
    squared = across * across + up * up
    number = _fraction(h * _signed(_A))
    nearest, second, found = squared[0], torch.full_like(squared[0], 100.0), number[0]
    for each, its in zip(squared[1:], number[1:], strict=True):
        second = torch.minimum(second, torch.maximum(nearest, each))
        found = torch.where(each < nearest, its, found)
        nearest = torch.minimum(nearest, each)
    return nearest.sqrt(), second.sqrt(), found


def _octaves(x: Tensor, y: Tensor, salt: Tensor, *, ridged: bool) -> Tensor:
    weight = 1 / (2 - 2 ** (1 - OCTAVES))
    total = torch.zeros((), device=x.device)
    for _ in range(OCTAVES):
        n = value_noise(x, y, salt)
        total = total + weight * (1 - (2 * n - 1).abs() if ridged else n)
        x, y = _TURN_X * x - _TURN_Y * y + _SHIFT, _TURN_Y * x + _TURN_X * y + _SHIFT
        weight *= 0.5
    return total


def _square(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lattice columns (1, 2, ...) and rows (2, 1, ...) around each point, int32, and the point's place between them."""
    left, below = x.floor(), y.floor()
    steps = torch.arange(2, device=x.device, dtype=torch.int32)
    column = left.to(torch.int32) + steps.view(1, 2, *[1] * x.ndim)
    row = below.to(torch.int32) + steps.view(2, 1, *[1] * y.ndim)
    return column, row, x - left, y - below


def _interpolate(corners: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Between four corners (row, column, ...) at s to the right and t upwards."""
    low, high = (corners[:, 0] + (corners[:, 1] - corners[:, 0]) * s).unbind()
    return low + (high - low) * t


def _fraction(h: Tensor) -> Tensor:
    """The upper 24 bits as a float in [0, 1), exact."""
    return ((h >> 8) & 0xFFFFFF) * 2**-24


def _halves(h: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper 16 bits as floats in [0, 1), exact."""
    return (h & 0xFFFF) * 2**-16, ((h >> 16) & 0xFFFF) * 2**-16


def _signed(constant: int) -> int:
    """The int32 with the same bits."""
    return constant - 2**32 if constant >= 2**31 else constant
