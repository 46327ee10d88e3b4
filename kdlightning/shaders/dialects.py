"""The dialects that fragment shaders are written in, each made a complete GLSL 3.30 shader by what is put around it.

=================  ====================================================================================================
mode               what the text is
=================  ====================================================================================================
``image``          Shadertoy: a function ``mainImage(out vec4, in vec2)``; the uniforms ``iResolution``, ``iTime``,
                   ``iTimeDelta``, ``iFrame``, ``iFrameRate`` and ``iMouse`` are declared for it. No ``iChannel``.
``classic``        TwiGL's classic mode, or GLSL Sandbox: declares what it needs of ``vec2 resolution``, ``vec2 mouse``,
                   ``float time``, ``float frame``, ``float sound`` and ``sampler2D backbuffer``; writes
                   ``gl_FragColor`` in its own ``main``
``geek``           the same with the names ``r m t f s b``
``geeker``         the same, and they are declared for it
``geekest``        the same, and the text is the body of ``main``; ``FC`` is ``gl_FragCoord``, and there are ``PI``,
                   ``PI2``, ``hsv``, ``rotate2D``, ``rotate3D``, ``snoise2D``, ``snoise3D``, ``snoise4D``, ``fsnoise``
                   and ``fsnoiseDigits``
``classic_300``,   GLSL ES 3.00: the text declares its own ``out vec4`` and writes that instead of ``gl_FragColor``
``geek_300``
``geeker_300``,    GLSL ES 3.00: ``out vec4 o`` is declared for it
``geekest_300``
=================  ====================================================================================================

Lines with ``#version`` and ``#extension`` are left out, outputs start as 0, as WebGL has it, and lines in the driver's
messages are lines of the text. TwiGL's snoise functions are simplex noise; here they are gradient noise, as smooth and
of the same range, with other values. What `uniforms` says of mouse, sound and the picture before holds for all.
"""

import re
from typing import Literal, get_args

from kdlightning.shaders.canvas import ShaderError

Mode = Literal["image", "classic", "geek", "geeker", "geekest", "classic_300", "geek_300", "geeker_300", "geekest_300"]
MODES: tuple[Mode, ...] = get_args(Mode)

_SHADERTOY = """uniform vec3 iResolution;
uniform float iTime, iTimeDelta, iFrameRate;
uniform int iFrame;
uniform vec4 iMouse;
"""
_SHORT = "uniform vec2 r, m;\nuniform float t, f, s;\nuniform sampler2D b;\n"
_HELPERS = """#define FC gl_FragCoord
const float PI = 3.14159265358979, PI2 = 6.28318530717959;
uniform int zero;
float fsnoise(vec2 c) { return fract(sin(dot(c, vec2(12.9898, 78.233))) * 43758.5453); }
float fsnoiseDigits(vec2 c) { return fract(sin(dot(c, vec2(0.129898, 0.78233))) * 437.585453); }
vec3 hsv(float h, float s, float v) {
    vec3 full = clamp(abs(mod(6.0 * h + vec3(0, 4, 2), 6.0) - 3.0) - 1.0, 0.0, 1.0);
    return v * (1.0 - s * (1.0 - full));
}
mat2 rotate2D(float a) { return mat2(cos(a), sin(a), -sin(a), cos(a)); }
mat3 rotate3D(float a, vec3 axis) {
    vec3 n = normalize(axis);
    mat3 across = mat3(0, n.z, -n.y, -n.z, 0, n.x, n.y, -n.x, 0);
    return cos(a) * mat3(1) + sin(a) * across + (1.0 - cos(a)) * outerProduct(n, n);
}
float kdl_noise(vec4 p, int corners) {
    vec4 base = floor(p), q = p - base, share = q * q * q * (q * (q * 6.0 - 15.0) + 10.0);
    float total = 0.0;
    for (int corner = zero; corner < corners; ++corner) {
        ivec4 beside = ivec4(corner, corner >> 1, corner >> 2, corner >> 3) & 1;
        uvec4 i = uvec4(ivec4(base) + beside) * uvec4(0x9E3779B1u, 0x85EBCA77u, 0xC2B2AE3Du, 0x27D4EB2Fu);
        uint h = i.x ^ i.y ^ i.z ^ i.w;
        h = (h ^ (h >> 15)) * 0x2C1B3C6Du;
        h = (h ^ (h >> 12)) * 0x297A2D39u;
        vec4 slope = vec4((uvec4(h) >> uvec4(0, 8, 16, 24)) & 255u) / 127.5 - 1.0;
        vec4 weight = mix(1.0 - share, share, vec4(beside));
        total += weight.x * weight.y * weight.z * weight.w * dot(slope, q - vec4(beside));
    }
    return clamp(1.6 * total, -1.0, 1.0);
}
float snoise2D(vec2 p) { return kdl_noise(vec4(p, 0, 0), 4); }
float snoise3D(vec3 p) { return kdl_noise(vec4(p, 0), 8); }
float snoise4D(vec4 p) { return kdl_noise(p, 16); }
"""
_OUTPUT = re.compile(r"\bout\s+(?:(?:high|medium|low)p\s+)?vec4\s+(\w+)\s*;")


def fragment_shader(text: str, mode: Mode) -> str:
    """A program in one of the `MODES` as a complete fragment shader in GLSL 3.30.

    A ShaderError if the text declares no output in a mode where it has to.
    """
    text = re.sub(r"^[ \t]*#[ \t]*(version|extension)\b.*$", "", text, flags=re.MULTILINE)
    head, result = "#version 330 core\n", "kdl_colour"
    if mode.endswith("_300"):
        if mode in ("geeker_300", "geekest_300"):
            head, result = head + "out vec4 o;\n", "o"
        elif (declared := _OUTPUT.search(text)) is not None:
            result = declared[1]
        else:
            raise ShaderError(f"expected a declaration `out vec4 name;`, as mode {mode} has it")
    else:
        head += "out vec4 kdl_colour;\n#define texture2D texture\n"
        text = re.sub(r"\bgl_FragColor\b|\bgl_FragData\s*\[\s*0\s*\]", result, text)
    if mode == "image":
        call = "mainImage(kdl_colour, gl_FragCoord.xy);"
        return f"{head}{_SHADERTOY}#line 1\n{text}\nvoid main() {{ kdl_colour = vec4(0); {call} }}\n"
    if mode.startswith("geeker") or mode.startswith("geekest"):
        head += _SHORT
    if mode.startswith("geekest"):
        return f"{head}{_HELPERS}void main() {{ {result} = vec4(0);\n#line 1\n{text}\n}}\n"
    start = f"#undef main\nvoid main() {{ {result} = vec4(0); kdl_main(); }}\n"
    return f"{head}#define main kdl_main\n#line 1\n{text}\n{start}"
