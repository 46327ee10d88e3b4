"""Noise on the integer lattice, twice: for tensors and in GLSL. Both hash in 32-bit integers, so both are the same.

A hash of sines, as shaders often have it, magnifies the last bit of a float into another number: no two devices would
agree. Here a float only decides in which square a point lies, and all patterns are continuous across squares.
Integers are signed, as tensors have no others: products keep the low 32 bits, shifts repeat the sign, in both.
"""

import torch
from torch import Tensor

OCTAVES = 4
_FIRST = 1 / (2 - 2 ** (1 - OCTAVES))  # the weights of the octaves, each half the one before, add up to 1
# odd numbers with irregular bits, as signed integers
_A, _B, _C, _D, _E, _F = -0x61C88647, -0x7A143589, -0x3D4D51C3, 0x2C1B3C6D, 0x297A2D39, 0x165667B1
# between octaves: a rotation by about 37°, so that lattices do not coincide, times 2, and an offset
_TURN_X, _TURN_Y, _SHIFT = 1.6, 1.2, 17.3
_UNIT = 2.0**-32

GLSL = f"""
uniform int zero;  // 0 as no one sets it: a loop that starts at an unknown number stays one, and compiles fast
int lattice_hash(ivec2 place, float salt) {{
    int h = place.x * {_A} ^ place.y * {_B} ^ int(salt) * {_C};
    h = (h ^ (h >> 15)) * {_D};
    return (h ^ (h >> 13)) * {_E};
}}
float value_noise(float x, float y, float salt) {{
    vec2 base = floor(vec2(x, y)), t = vec2(x, y) - base;
    ivec2 i = ivec2(base);
    vec2 s = t * t * (3.0 - 2.0 * t);
    float a = float(lattice_hash(i, salt)), b = float(lattice_hash(i + ivec2(1, 0), salt));
    float c = float(lattice_hash(i + ivec2(0, 1), salt)), d = float(lattice_hash(i + ivec2(1, 1), salt));
    float low = a + (b - a) * s.x, high = c + (d - c) * s.x;
    return (low + (high - low) * s.y) * {_UNIT!r} + 0.5;
}}
float slope(ivec2 i, float salt, vec2 t) {{
    int h = lattice_hash(i, salt);
    return float(h) * t.x + float(h * {_F}) * t.y;
}}
float gradient_noise(float x, float y, float salt) {{
    vec2 base = floor(vec2(x, y)), t = vec2(x, y) - base;
    ivec2 i = ivec2(base);
    vec2 s = t * t * t * (t * (t * 6.0 - 15.0) + 10.0);
    float a = slope(i, salt, t), b = slope(i + ivec2(1, 0), salt, t - vec2(1, 0));
    float c = slope(i + ivec2(0, 1), salt, t - vec2(0, 1)), d = slope(i + ivec2(1, 1), salt, t - vec2(1, 1));
    float low = a + (b - a) * s.x, high = c + (d - c) * s.x;
    return (low + (high - low) * s.y) * {2 * _UNIT!r};
}}
float octaves(float x, float y, float salt, bool ridged) {{
    float total = 0.0, weight = {_FIRST!r};
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
    int nearest = 0x7f7fffff, second = 0x7f7fffff;
    for (int neighbour = zero; neighbour < 9; ++neighbour) {{
        ivec2 beside = ivec2(neighbour % 3 - 1, neighbour / 3 - 1);
        int h = lattice_hash(ivec2(base) + beside, salt);
        vec2 offset = vec2(beside) + 0.5 - t + jitter * {_UNIT!r} * vec2(float(h), float(h * {_F}));
        int key = (floatBitsToInt(dot(offset, offset)) & ~15) | neighbour;
        second = min(second, max(nearest, key));
        nearest = min(nearest, key);
    }}
    ivec2 beside = ivec2((nearest & 15) % 3 - 1, (nearest & 15) / 3 - 1);
    int number = lattice_hash(ivec2(base) + beside, salt) * {_A};
    vec2 squared = vec2(intBitsToFloat(nearest & ~15), intBitsToFloat(second & ~15));
    return vec3(sqrt(squared), float(number) * {_UNIT!r} + 0.5);
}}
"""


def lattice_hash(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """32 random bits per lattice point, the upper ones the better: int32, of the arguments' broadcast shape.

    Columns and rows are int32; the salt, which tells one noise from another, is a whole float in [0, 65536).
    """
    h = (x * _A) ^ ((y * _B) ^ (salt.to(torch.int32) * _C))
    h ^= h >> 15
    h *= _D
    h ^= h >> 13
    h *= _E
    return h


def value_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Random numbers in [0, 1) at lattice points, smoothly interpolated; ``salt`` as for `lattice_hash`."""
    column, row, s, t = _square(x, y)
    corners = lattice_hash(column, row, salt).float()
    return _interpolate(corners, s * s * (3 - 2 * s), t * t * (3 - 2 * t)).mul_(_UNIT).add_(0.5)


def gradient_noise(x: Tensor, y: Tensor, salt: Tensor) -> Tensor:
    """Perlin's noise with slopes drawn from the square [-1, 1]²; arguments as for `value_noise`."""
    column, row, s, t = _square(x, y)
    h = lattice_hash(column, row, salt)
    steps = torch.arange(2, device=x.device)
    beside, above = s - steps.view(1, 2, 1, 1, 1), t - steps.view(2, 1, 1, 1, 1)
    corners = h.float() * beside + (h * _F).float() * above
    s, t = s**3 * (s * (s * 6 - 15) + 10), t**3 * (t * (t * 6 - 15) + 10)
    return _interpolate(corners, s, t).mul_(2 * _UNIT)


def fractal_noise(x: Tensor, y: Tensor, salt: Tensor, *, ridged: bool = False) -> Tensor:
    """Octaves of `value_noise` n, or of 1 - |2n - 1|, each of half the weight and twice the frequency, in [0, 1]."""
    weight, total = _FIRST, torch.zeros((), device=x.device)
    for _ in range(OCTAVES):
        n = value_noise(x, y, salt)
        total = total + weight * (1 - (2 * n - 1).abs() if ridged else n)
        x, y = _TURN_X * x - _TURN_Y * y + _SHIFT, _TURN_Y * x + _TURN_X * y + _SHIFT
        weight *= 0.5
    return total


def cells(x: Tensor, y: Tensor, salt: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Worley's cells: distance to the nearest and the second nearest centre, number of the nearest cell in [0, 1)."""
    left, below = x.floor(), y.floor()
    near = torch.arange(-1, 2, device=x.device, dtype=torch.int32)
    columns, rows = near.view(1, 3, 1, 1, 1), near.view(3, 1, 1, 1, 1)
    h = lattice_hash(left.to(torch.int32) + columns, below.to(torch.int32) + rows, salt)
    reach = jitter * _UNIT
    across = (columns + 0.5) + (left - x) + h.float() * reach
    up = (rows + 0.5) + (below - y) + (h * _F).float() * reach
    squared = (across * across).addcmul_(up, up)
    # a float of at least 0 as an integer keeps its order; the last bits say which neighbour it belongs to
    which = torch.arange(9, device=x.device, dtype=torch.int32).view(3, 3, 1, 1, 1)
    keys = ((squared.view(torch.int32) & ~15) | which).flatten(0, 1)
    nearest, second = torch.minimum(keys[0], keys[1]), torch.maximum(keys[0], keys[1])
    for key in keys[2:]:
        second = torch.minimum(second, torch.maximum(nearest, key))
        nearest = torch.minimum(nearest, key)
    found = h.flatten(0, 1).gather(0, (nearest & 15).long()[None])[0] * _A
    one, two = ((each & ~15).view(torch.float32).sqrt() for each in (nearest, second))
    return one, two, found.float().mul_(_UNIT).add_(0.5)


def _square(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lattice columns (1, 2, ...) and rows (2, 1, ...) around each point, int32, and the point's place between them."""
    left, below = x.floor(), y.floor()
    steps = torch.arange(2, device=x.device, dtype=torch.int32)
    column = left.to(torch.int32) + steps.view(1, 2, 1, 1, 1)
    row = below.to(torch.int32) + steps.view(2, 1, 1, 1, 1)
    return column, row, x - left, y - below


def _interpolate(corners: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Between four corners (row, column, ...) at s to the right and t upwards."""
    low, high = torch.lerp(corners[:, 0], corners[:, 1], s).unbind()
    return torch.lerp(low, high, t)
